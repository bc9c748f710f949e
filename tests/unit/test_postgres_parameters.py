"""What providers and other drivers put into a PostgreSQL URL is taken, translated, or left out with
a line that says so; nothing of it stops the start."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.postgres import engine, hosts, libpq
from mcp_persist_middleware.stores.postgres.log import PostgresLog

_SAID = "Of the URL of"

PROVIDERS = {
    "neon": "postgresql://neondb_owner:npg_x1@ep-cool-rain-123-pooler.eu-central-1.aws.neon.tech/"
    "neondb?sslmode=require&channel_binding=require",
    "neon-options": "postgres://ann:pw@ep-x.neon.tech/db?options=endpoint%3Dep-x&sslmode=require",
    "supabase": "postgresql://postgres.abcdefgh:pw@aws-0-eu-central-1.pooler.supabase.com:5432/"
    "postgres",
    "supabase-prisma": "postgresql://postgres.abc:pw@aws-0-eu.pooler.supabase.com:6543/postgres"
    "?pgbouncer=true&connection_limit=1",
    "supabase-vercel": "postgres://postgres.abc:pw@aws-0-eu.pooler.supabase.com:6543/postgres"
    "?sslmode=require&supa=base-pooler.x",
    "heroku": "postgres://u4abc:p1@ec2-54-1-2-3.compute-1.amazonaws.com:5432/d9xyz",
    "heroku-node": "postgres://u4:p1@ec2-54-1-2-3.compute-1.amazonaws.com:5432/d9?sslmode=no-verify",
    "render": "postgresql://app:pw@dpg-abc-a.frankfurt-postgres.render.com/app_db",
    "rds": "postgresql://ann:pw@app.abc.eu-west-1.rds.amazonaws.com:5432/app?sslmode=verify-full"
    "&sslrootcert={file}",
    "azure": "postgresql://ann%40srv:pw@srv.postgres.database.azure.com:5432/postgres"
    "?sslmode=require",
    "aiven": "postgres://avnadmin:AVNS_x@pg-1.aivencloud.com:12691/defaultdb?sslmode=require",
    "cockroachdb": "postgresql://ann:pw@free-tier.gcp.cockroachlabs.cloud:26257/defaultdb"
    "?sslmode=verify-full&sslrootcert=system&options=--cluster%3Dcalm-1234",
    "digitalocean": "postgresql://doadmin:AVNS_y@db-1.b.db.ondigitalocean.com:25060/defaultdb"
    "?sslmode=require",
    "railway": "postgresql://postgres:pw@monorail.proxy.rlwy.net:12345/railway",
    "google": "postgresql://ann:pw@/app?host=/cloudsql/project:region:instance",
    "crunchy": "postgres://u:p@p.abc.db.postgresbridge.com:5432/postgres?sslmode=require"
    "&target_session_attrs=read-write",
}
# What the driver's own URL may hold; all else would be a setting of the server's.
_DRIVERS = {"sslmode", "sslrootcert", "target_session_attrs", "options"}


def planned(url: str) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Where a URL leads, the driver's arguments, and what stands in the driver's own URL."""
    log = connect.make_log(Settings.load({"url": url}, {}))
    assert isinstance(log, PostgresLog)
    assert log._plan is not None
    place, arguments = log._plan
    _, _, query = str(arguments.get("dsn", "")).partition("?")
    return place, arguments, dict(parse_qsl(query))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_a_provider_gives_is_taken_as_it_is(provider: str, tmp_path: Path) -> None:
    (file := tmp_path / "ca.pem").touch()
    place, _, told = planned(PROVIDERS[provider].replace("{file}", str(file)))
    assert told.keys() <= _DRIVERS
    assert not set(place.query) - {"host", "port"}
    assert hosts.places(place)


@pytest.mark.parametrize("name", sorted(libpq._LEFT_OUT))
def test_what_the_driver_cannot_do_is_left_out_and_said_in_one_line(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, told = planned(f"postgresql://u:hunter2@h/db?{name}=prefer&sslmode=require")
    assert told == {"sslmode": "require"}
    (said,) = [text for text in caplog.messages if _SAID in text]
    assert f"{name}: " in said
    assert "hunter2" not in said


def test_all_that_is_left_out_is_one_line_and_what_asks_for_nothing_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    planned("postgresql://h/db?keepalives=1&keepalives_idle=30&channel_binding=prefer")
    planned("postgresql://h/db?channel_binding=disable&gssencmode=disable&replication=false")
    assert len([text for text in caplog.messages if _SAID in text]) == 1


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("fallback_application_name=psql", {"application_name": "psql"}),
        ("fallback_application_name=a&application_name=b", {"application_name": "b"}),
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=verify-ca", {"sslmode": "verify-ca"}),
        ("requiressl=1", {"sslmode": "require"}),
        ("sslmode=no-verify", {"sslmode": "require"}),
        ("sslmode=prefer&sslmode=require", {"sslmode": "require"}),
        ("krbsrvname=pg&sslpassword=x", {"krbsrvname": "pg", "sslpassword": "x"}),
        ("ssl_min_protocol_version=TLSv1.3", {"ssl_min_protocol_version": "TLSv1.3"}),
        ("options=-c%20statement_timeout%3D5s", {"options": "-c statement_timeout=5s"}),
        ("search_path=mine", {"search_path": "mine"}),
        ("service=app", {"service": "app"}),
    ],
)
def test_what_means_the_same_is_told_in_the_drivers_words(query: str, told: dict[str, str]) -> None:
    assert planned(f"postgresql://h/db?{query}")[2] == told


def test_a_time_limit_of_the_url_shortens_ours_and_is_not_longer() -> None:
    assert planned("postgresql://h/db?connect_timeout=1")[1]["timeout"] == 1
    assert planned("postgresql://h/db?connect_timeout=0")[1]["timeout"] == 2
    assert planned("postgresql://h/db?connect_timeout=30")[1]["timeout"] == 2
    assert planned("postgresql://h/db?statement_cache_size=0")[1]["statement_cache_size"] == 0


def test_the_authorities_of_the_system_are_trusted_where_they_are_asked_for() -> None:
    _, arguments, told = planned("postgresql://h/db?sslrootcert=system")
    assert told == {}
    assert arguments["ssl"].verify_mode is ssl.CERT_REQUIRED
    assert arguments["ssl"].check_hostname


def test_files_are_found_in_the_home_and_an_address_is_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.pem").touch()
    _, _, told = planned("postgresql://h/db?sslrootcert=~/ca.pem&sslmode=verify-full")
    assert told["sslrootcert"] == str(tmp_path / "ca.pem")
    place, _, _ = planned("postgresql:///db?hostaddr=10.0.0.7")
    assert hosts.places(place) == [("10.0.0.7", 5432)]
    place, _, _ = planned("postgresql://h?dbname=app&user=ann&password=pw")
    assert (place.database, place.username, place.password) == ("app", "ann", "pw")


@pytest.mark.parametrize(
    ("query", "fix"),
    [
        ("sslrootcert=/no/such/file", "there is none at /no/such/file"),
        ("connect_timeout=soon", "connect_timeout must be a whole number"),
        ("gssencmode=require", "encrypt by sslmode"),
        ("sslrootcert=system&sslmode=require", "sslmode=verify-full only"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start_with_the_fix(query: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        planned(f"postgresql://u:hunter2@h/db?{query}")
    assert fix in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_an_unreadable_home_is_told_as_what_it_is() -> None:
    url = connect.parse_url("postgresql://h/db")
    told = engine.remedy(PermissionError(13, "Permission denied"), url)
    assert "HOME" in told
    assert ".pgpass" in told
    told = engine.remedy(PermissionError(13, "Connect call failed ('10.0.0.1', 5432)"), url)
    assert told.endswith("listens at h:5432")

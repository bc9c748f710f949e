"""Several hosts in the URL of a PostgreSQL: read right in every way in which they are written."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import make_url

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.postgres import engine, hosts


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("postgresql://u:p@a:1,b:2/db?sslmode=require", [("a", 1), ("b", 2)]),
        ("postgres://a,b/db", [("a", 5432), ("b", 5432)]),
        ("postgresql+asyncpg://u:p@a,b:3", [("a", 5432), ("b", 3)]),
        ("postgresql://u@/db?host=a:1&host=b", [("a", 1), ("b", 5432)]),
        ("postgresql://u@/db?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql://u@/db?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql://[::1]:3,b/db", [("::1", 3), ("b", 5432)]),
        ("postgresql://[::1]:3/db", [("::1", 3)]),
        ("postgresql://h/db", [("h", 5432)]),
        ("postgresql://u@/db?host=/run/postgresql", [("/run/postgresql", 5432)]),
    ],
)
def test_every_host_is_found_with_its_port(url: str, places: list[tuple[str, int]]) -> None:
    assert hosts.places(connect.parse_url(url)) == places


def test_what_else_is_in_the_url_stays() -> None:
    found = connect.parse_url("postgresql://u:p%40s@a:1,b:2/db?sslmode=require")
    assert (found.username, found.password, found.database) == ("u", "p@s", "db")
    assert found.query["sslmode"] == "require"
    assert str(hosts.shown(found)) == "postgresql+asyncpg://u:***@a,b/db"


@pytest.mark.parametrize("places", ["a:x,b", "a,b:", "a:1:2,b]"])
def test_what_is_no_list_of_hosts_is_refused_without_the_password(places: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        connect.parse_url(f"postgresql://u:hunter2@{places}/db")
    assert "hunter2" not in str(raised.value)


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z0-9.-]{1,9}", fullmatch=True), st.integers(1, 65535)))
)
def test_any_list_comes_back(places: list[tuple[str, int]]) -> None:
    places = [*places, ("last", 1)]
    text = ",".join(f"{host}:{port}" for host, port in places)
    found = connect.parse_url(f"postgresql://u@{text}/db")
    assert hosts.places(found) == places
    assert hosts.places(hosts.spread(found)) == places


@given(
    st.text() | st.lists(st.sampled_from(["1", ",", "/", "?", "#", ":", "[", "]", "%40"])),
    st.sampled_from(["db.example", "db.example:7", "a,b", "a:1,b:2"]),
)
@example("1234,s3cret/w", "db.example")
@example(",x?y", "a:1,b:2")
def test_any_password_that_sqlalchemy_takes_is_a_password(
    signs: str | list[str], places: str
) -> None:
    written = f"hunter2{''.join(signs)}hunter2".replace("@", "")
    found = connect.parse_url(f"postgresql://u:{written}@{places}/app")
    assert found.password == make_url(f"postgresql://u:{written}@db.example/app").password
    assert (found.username, found.database) == ("u", "app")
    listed = ",".join(f"{host}:{port}" for host, port in hosts.places(found))
    assert listed.replace(":5432", "") == places
    assert "hunter2" not in str(hosts.shown(found))
    assert "hunter2" not in engine.remedy(OSError(), found)


@given(st.lists(st.sampled_from(["1", ",", "/", "?", "#", ":", "s3cret"])).map("".join))
def test_no_piece_of_a_password_is_shown(password: str) -> None:
    found = connect.parse_url(f"postgresql://u:{password}@db.example/app")
    assert str(hosts.shown(found)) == "postgresql+asyncpg://u:***@db.example/app"
    assert engine.remedy(OSError(), found).endswith("listens at db.example:5432")

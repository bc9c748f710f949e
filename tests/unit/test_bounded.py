"""How many values of an attribute are told apart."""

from mcp_persist_middleware.protocol.eras import ERAS
from mcp_persist_middleware.telemetry.bounded import OTHER, BoundedValues
from mcp_persist_middleware.telemetry.serving import REVISIONS


def test_those_that_came_first_are_told_apart() -> None:
    values = BoundedValues(["known"], most=2)
    assert [values.told(each) for each in ("a", "b", "c", "a", "known")] == [
        *("a", "b", OTHER, "a", "known")
    ]


def test_names_that_somebody_makes_up_take_no_place_of_those_that_there_are() -> None:
    values = BoundedValues()
    made_up = {values.told(f"x{n}", is_proven=False) for n in range(10_000)}
    assert len(made_up) == 21
    assert {values.told(f"tool{n}") for n in range(100)} == {f"tool{n}" for n in range(100)}
    assert values.told("tool100") == OTHER


def test_a_name_that_an_answer_proves_makes_room_among_the_others() -> None:
    values = BoundedValues(most=100)
    for number in range(1000):
        name = f"tool{number % 50}"
        assert values.told(name, is_proven=False) == name
        assert values.told(name) == name


def test_no_long_text_is_told() -> None:
    values = BoundedValues()
    assert values.told("x" * 129) == OTHER
    assert values.told("x" * 128) == "x" * 128


def test_every_revision_is_told_apart_whatever_clients_make_up() -> None:
    assert set(REVISIONS) == set(ERAS)

"""What is remembered is bounded."""

from mcp_persist_middleware.recent import Recent


def test_of_too_many_entries_the_one_that_was_set_longest_ago_goes() -> None:
    recent: Recent[str, int] = Recent(3)
    for number, name in enumerate("abcad"):
        recent[name] = number
    assert dict(recent) == {"c": 2, "a": 3, "d": 4}
    assert recent.popitem(last=False) == ("c", 2)
    recent["e"] = 5
    assert list(recent) == ["a", "d", "e"]

"""What a sender does about a request that has no reply yet: a table."""

from itertools import product

import pytest

from mcp_persist_middleware.model import Certainty, RelayState, RelayStatus
from mcp_persist_middleware.relay.outcome import RelayFacts, Step, is_lost, step_of

WAITING, CLAIMED, ANSWERED = RelayState
KNOWN, UNDELIVERABLE, OVERDUE, UNKNOWN = Certainty
ALL = [
    RelayFacts(state, certainty, *flags)
    for state in (None, WAITING, CLAIMED)
    for certainty in Certainty
    for flags in product((False, True), repeat=6)
]


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (RelayFacts(None), Step.GIVE_UP),
        (RelayFacts(None, has_left=True), Step.GIVE_UP),
        (RelayFacts(WAITING), Step.WAIT),
        (RelayFacts(WAITING, has_left=True), Step.WAIT),
        (RelayFacts(WAITING, is_late=True), Step.EXPIRE),
        (RelayFacts(WAITING, is_late=True, has_moved=True), Step.RECALL),
        (RelayFacts(WAITING, is_late=True, is_fast=True), Step.WAIT),
        (RelayFacts(WAITING, is_late=True, is_fast=True, has_moved=True), Step.WAIT),
        (RelayFacts(WAITING, home_is_gone=True), Step.RECALL),
        (RelayFacts(WAITING, home_is_gone=True, is_late=True), Step.RECALL),
        (RelayFacts(WAITING, home_is_gone=True, is_fast=True), Step.VERIFY),
        (RelayFacts(WAITING, UNDELIVERABLE), Step.RECALL),
        (RelayFacts(WAITING, UNDELIVERABLE, is_fast=True), Step.WAIT),
        (RelayFacts(CLAIMED), Step.WAIT),
        (RelayFacts(CLAIMED, is_late=True), Step.WAIT),
        (RelayFacts(CLAIMED, has_left=True), Step.LEAVE),
        (RelayFacts(CLAIMED, OVERDUE), Step.VERIFY),
        (RelayFacts(CLAIMED, OVERDUE, has_left=True), Step.LEAVE),
        (RelayFacts(CLAIMED, home_is_gone=True), Step.RECALL),
        (RelayFacts(CLAIMED, home_is_gone=True, is_fast=True), Step.VERIFY),
        (RelayFacts(WAITING, UNKNOWN), Step.WAIT),
        (RelayFacts(CLAIMED, UNKNOWN), Step.WAIT),
        (RelayFacts(CLAIMED, UNKNOWN, was_in_doubt=True), Step.GIVE_UP),
        (RelayFacts(WAITING, UNKNOWN, home_is_gone=True, was_in_doubt=True), Step.GIVE_UP),
    ],
)
def test_what_is_seen_of_a_request_says_what_its_sender_does(seen: RelayFacts, step: Step) -> None:
    assert step_of(seen) is step


def test_nobody_is_told_that_a_request_was_not_run_unless_it_was_taken_back() -> None:
    for seen in ALL:
        if seen.is_fast:
            assert step_of(seen) not in (Step.RECALL, Step.EXPIRE), seen


def test_no_request_to_a_worker_that_is_gone_is_waited_for() -> None:
    for seen in ALL:
        if seen.home_is_gone:
            assert step_of(seen) is not Step.WAIT, seen


def test_a_client_that_leaves_takes_nothing_back_and_leaves_only_what_runs() -> None:
    """A disconnect is no cancellation: what waits is run all the same."""
    for seen in ALL:
        if step_of(seen) is Step.LEAVE:
            assert seen.state is CLAIMED, seen
            assert seen.has_left, seen


def test_what_is_not_late_does_not_expire() -> None:
    for seen in ALL:
        if step_of(seen) is Step.EXPIRE:
            assert seen.state is WAITING, seen
            assert seen.is_late, seen


@pytest.mark.parametrize(
    ("last", "lost"),
    [
        (None, True),
        (RelayStatus(ANSWERED, "one", b"reply"), False),
        (RelayStatus(ANSWERED, "one", b"reply", UNKNOWN), False),
        (RelayStatus(CLAIMED, "one", b""), True),
        (RelayStatus(CLAIMED, "two", b""), False),
        (RelayStatus(WAITING, "two", b""), False),
        (RelayStatus(WAITING, "one", b""), False),
        (RelayStatus(WAITING, "two", b"", UNKNOWN), True),
    ],
)
def test_the_last_word_of_a_worker_that_is_gone_is_heard(
    last: RelayStatus | None, lost: bool
) -> None:
    assert is_lost(RelayStatus(CLAIMED, "one", b""), last) is lost

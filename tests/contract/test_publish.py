"""What is published beside a commit wakes who waits for it on another worker."""

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.testing.contract.builders import record, settle, subscribed, woken


@pytest.mark.parametrize("store", ["postgres", "sqlite+redis"], indirect=True)
async def test_what_is_published_wakes_who_waits_for_it_elsewhere_and_nobody_else(
    log: EventLog, other: EventLog
) -> None:
    topic, beside = record(), record()
    with subscribed(other, topic) as subscription, subscribed(other, beside) as bystander:
        await settle(subscription)
        await settle(bystander)
        log.wakeups.publish([topic.id])
        await woken(subscription)
        assert not bystander._notified

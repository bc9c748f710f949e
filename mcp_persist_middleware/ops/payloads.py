"""What events say, for whoever has asked to see it."""

from collections.abc import Collection, Mapping

from mcp_persist_middleware.log.codecs.chain import Bound, Chain
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspection import Inspection


async def of(
    inspection: Inspection, settings: Settings, stream: bytes, sequences: Collection[int]
) -> Mapping[int, str]:
    """The data of some events of a stream, by number; of one that cannot be read, why.

    Raises:
        StoreError: the store does not answer.
        ConfigurationError: what the settings name for it is not installed.
    """
    chain, texts = Chain(settings), {}
    for event in await inspection.events(stream, sequences):
        bound = Bound.of_event(stream, event.epoch, event.sequence, event.kind)
        try:
            frame = chain.decode(event.codec, event.frame, bound)
        except ValueError as error:
            texts[event.sequence] = f"(cannot be read: {error})"
        else:
            texts[event.sequence] = _data(frame)
    return texts


def _data(frame: bytes) -> str:
    parsed = sse.FrameParser(len(frame) + 4).feed(frame + sse.CRLF)
    return b"\n".join(each.data for each in parsed).decode("utf-8", "replace")

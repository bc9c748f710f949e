"""What a wake-up tells beside, for those alone who know the SQL store's secret.

Whoever else listens to its channel reads nothing there, and whoever else publishes on it tells
nobody anything. Needs the package `cryptography` (extra "relay"); without it wake-ups are empty.
"""

import hashlib

from mcp_persist_middleware.keyring import Keyring
from mcp_persist_middleware.log.codecs import cipher

_KEY = 32
_PLACE = b"wake-up"


class MessageSeal:
    """Seals what the workers of one store tell each other, each topic under a key of its own.

    Args:
        secret: the SQL store's.
    """

    def __init__(self, secret: bytes) -> None:
        key = hashlib.blake2b(b"messages", key=secret[:64], digest_size=_KEY).digest()
        self._cipher = cipher.Cipher(Keyring([("store", key)]))

    def seal(self, content: bytes, topic: bytes, most: int) -> bytes:
        """A message to whoever waits for this topic; an empty one where nothing can be sealed,
        where there is nothing to tell, or where it is more than so many bytes."""
        if not (cipher.is_available() and 0 < len(content) <= most):
            return b""
        return self._cipher.encrypt(content, topic, _PLACE)

    def open(self, message: bytes, topic: bytes) -> bytes:
        """The content of a message that was sealed for this topic; of any other, nothing."""
        if not cipher.is_available():
            return b""
        try:
            return self._cipher.decrypt(message, topic, _PLACE)
        except ValueError:
            return b""

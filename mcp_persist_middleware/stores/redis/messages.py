"""What a wake-up tells beside, for those alone who know the SQL store's secret.

Whoever else listens to its channel reads nothing there, and whoever else publishes on it tells
nobody anything. Needs the package `cryptography` (extra "relay"); without it wake-ups are empty.
"""

import functools
import hashlib
import secrets

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ModuleNotFoundError:
    _found = False
else:
    _found = True

_SALT, _NONCE, _KEY = 16, 12, 32
# The ciphers of so many processes are kept at hand.
_MOST = 256


class MessageSeal:
    """Seals what this process tells, under a key of its own, so that random nonces stay apart, and
    opens what any process of the same store has sealed (AES-256-GCM).

    Args:
        secret: the SQL store's.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret[:64]
        self._salt = secrets.token_bytes(_SALT)
        self._of = functools.lru_cache(_MOST)(self._derived)

    def seal(self, content: bytes, topic: bytes, most: int) -> bytes:
        """A message to whoever waits for this topic; an empty one where nothing can be sealed, or
        where it is more than so many bytes."""
        if not _found or len(content) > most:
            return b""
        nonce = secrets.token_bytes(_NONCE)
        return self._salt + nonce + self._of(self._salt).encrypt(nonce, content, topic)

    def open(self, message: bytes, topic: bytes) -> bytes:
        """The content of a message that was sealed for this topic; of any other, nothing."""
        salt, rest = message[:_SALT], message[_SALT:]
        if not _found or len(rest) < _NONCE:
            return b""
        try:
            return self._of(salt).decrypt(rest[:_NONCE], rest[_NONCE:], topic)
        except InvalidTag:
            return b""

    def _derived(self, salt: bytes) -> "AESGCM":
        told = hashlib.blake2b(b"messages" + salt, key=self._secret, digest_size=_KEY)
        return AESGCM(told.digest())

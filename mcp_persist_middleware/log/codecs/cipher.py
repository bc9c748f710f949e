"""AES-256-GCM under keys that have names. Needs the package `cryptography` (extra "crypto").

Each stream (or session, or relayed request) has a key of its own, derived from the named one, so
that random nonces stay apart however many events a store holds. What is encrypted is bound to its
place: in another one it cannot be read.
"""

import functools
import hmac
import secrets
from typing import Final

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ModuleNotFoundError:
    _found = False
else:
    _found = True

from mcp_persist_middleware.keyring import Keyring

AES_GCM: Final = 4

_NONCE = 12
_DERIVED = b"mcp-persist 1 "
# Ciphers that are kept at hand: those of the streams that are written and read just now.
_MOST = 1024


def is_available() -> bool:
    """Whether anything can be encrypted here."""
    return _found


class Cipher:
    """Encrypts with the current key of a ring, and decrypts with any of them."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys
        self._of = functools.lru_cache(_MOST)(self._derived)

    def encrypt(self, data: bytes, owner: bytes, bound: bytes) -> bytes:
        """For the one place that `bound` names, under the key of `owner`, which it belongs to."""
        name, nonce = self._keys.current, secrets.token_bytes(_NONCE)
        head = bytes([len(name)]) + name.encode()
        return head + nonce + self._of(name, owner).encrypt(nonce, data, bound)

    def decrypt(self, data: bytes, owner: bytes, bound: bytes) -> bytes:
        """What was encrypted for this place.

        Raises:
            ValueError: it was not, or is damaged, or its key is not here.
        """
        start = 1 + data[0] if data else 0
        name = data[1:start].decode("ascii", "replace")
        if name not in self._keys:
            raise ValueError(f"its key {name!r} is not among encryption_keys")
        nonce, sealed = data[start : start + _NONCE], data[start + _NONCE :]
        try:
            return self._of(name, owner).decrypt(nonce, sealed, bound)
        except InvalidTag:
            raise ValueError(
                f"it is damaged or in another's place, or {name!r} was another key then"
            ) from None

    def _derived(self, name: str, owner: bytes) -> "AESGCM":
        return AESGCM(hmac.digest(self._keys[name], _DERIVED + owner, "sha256"))

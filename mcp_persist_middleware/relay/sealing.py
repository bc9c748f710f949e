"""Requests that only their addressee can read: anonymous boxes for an X25519 key that lives and
dies with a worker's process. Needs the package `cryptography` (extra "relay")."""

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ModuleNotFoundError:
    _found = False
else:
    _found = True

_KEY = 32
# Each key is used for one message, so the nonce need not vary.
_NONCE = bytes(12)


def is_available() -> bool:
    """Whether requests can be sealed and opened here."""
    return _found


class UnreadableError(Exception):
    """A request that was sealed for another worker, or changed on its way."""


class Seal:
    """The key pair of one worker. The private half is never written anywhere."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()
        """What the others seal to."""

    def open(self, box: bytes, request: bytes) -> bytes:
        """The content of a box that was made for this key and this request.

        Raises:
            UnreadableError: it was not.
        """
        theirs, rest = box[:_KEY], box[_KEY:]
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
            return _cipher(shared, theirs + self.public).decrypt(_NONCE, rest, request)
        except (InvalidTag, ValueError) as error:
            raise UnreadableError from error


def seal(content: bytes, public: bytes, request: bytes) -> bytes:
    """A box around the content of one request that only the holder of the key can open."""
    mine = X25519PrivateKey.generate()
    shared = mine.exchange(X25519PublicKey.from_public_bytes(public))
    own = mine.public_key().public_bytes_raw()
    return own + _cipher(shared, own + public).encrypt(_NONCE, content, request)


def _cipher(shared: bytes, keys: bytes) -> "ChaCha20Poly1305":
    derive = HKDF(SHA256(), length=_KEY, salt=None, info=b"mcp-persist letter 1" + keys)
    return ChaCha20Poly1305(derive.derive(shared))

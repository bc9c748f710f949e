"""The keys that payloads are encrypted with, each under a name: the first is the current one, the
others are there for what was written with them."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_BYTES = 32
_FILE = "file:"
_WANTED = (
    "expected keys of 32 bytes in base64 under names of letters, digits, dots, dashes and "
    'underscores, the current one first: {"2026-11": "…"}, "2026-11:…,2026-05:…", or "file:" and '
    "the name of a file with one such line for each"
)


class Keyring(Mapping[str, bytes]):
    """Keys by name. Shows nothing of them."""

    def __init__(self, keys: Iterable[tuple[str, bytes]]) -> None:
        self._keys = tuple(keys)
        self._found = dict(self._keys)

    @classmethod
    def load(cls, given: object) -> "Keyring":
        """From a mapping, or a text, or the file that a text names.

        Raises:
            ValueError: it is none; the text says what was expected and repeats nothing of it.
        """
        if isinstance(given, Keyring):
            return given
        if isinstance(given, str) and given.startswith(_FILE):
            given = _content(Path(given.removeprefix(_FILE)))
        if isinstance(given, str):
            lines = [part.strip() for part in re.split(r"[,\n]", given)]
            pairs = [line.partition(":")[::2] for line in lines if line and line[0] != "#"]
        elif isinstance(given, Mapping):
            pairs = list(given.items())
        else:
            raise ValueError(_WANTED)  # noqa: TRY004
        keys = [(str(name), _key(key)) for name, key in pairs]
        names = [name for name, _ in keys]
        if not keys or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
            raise ValueError(_WANTED)
        return cls(keys)

    @property
    def current(self) -> str:
        """The name of the key that is used for what is written now."""
        return self._keys[0][0]

    def __getitem__(self, name: str) -> bytes:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __hash__(self) -> int:
        return hash(self._keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyring) and self._keys == other._keys

    def __repr__(self) -> str:
        return f"<{len(self)} keys, current {self.current!r}>"


def complaint(given: object) -> str | None:
    """What is wrong with what should be keys, or None; nothing of them is in it."""
    try:
        Keyring.load(given)
    except ValueError as error:
        return str(error)
    return None


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"the file {path} cannot be read ({type(error).__name__})") from None


def _key(given: object) -> bytes:
    if isinstance(given, str):
        try:
            text = given.strip().replace("-", "+").replace("_", "/")
            given = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(_WANTED) from None
    if not isinstance(given, bytes) or len(given) != _BYTES:
        raise ValueError(_WANTED)
    return given

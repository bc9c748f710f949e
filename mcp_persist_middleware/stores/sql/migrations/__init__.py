"""The numbered steps from an empty store to the tables of this version. Each is a file of SQL
beside this one, `<number>_<name>.sql`, or one for each dialect where they differ. A step that is in
a release is never changed: what comes after it is another step.

An older worker goes on beside a step that only adds what it need not know (a table, a column that
may be empty). What takes something away comes in two: a release that does without it, and a later
one whose step says so in `compatible_from`. Such a step waits until no older worker is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

from mcp_persist_middleware import telemetry

_END = ";\n"


@dataclass(frozen=True, slots=True)
class Migration:
    """What makes schema `number` of the one before it."""

    number: int
    name: str
    compatible_from: int = 1
    """Workers that know this schema at least go on beside it."""

    def statements(self, dialect: str, prefix: str) -> Sequence[str]:
        """Its SQL, statement by statement; `prefix` begins each table's name."""
        folder, stem = resources.files(__package__), f"{self.number:04}_{self.name}"
        own = folder / f"{stem}.{dialect}.sql"
        file = own if own.is_file() else folder / f"{stem}.sql"
        text = file.read_text("utf-8").replace("{prefix}", prefix)
        return [part.strip() for part in text.split(_END) if part.strip()]


STEPS = (
    Migration(1, "tables"),
    Migration(2, "worker_schema"),
    Migration(3, "deletions"),
    Migration(4, "jobs"),
    Migration(5, "journal"),
    Migration(6, "session_began"),
)
NEWEST = STEPS[-1].number


class Schema(NamedTuple):
    """What a store says of its tables."""

    number: int
    compatible_from: int
    """Who knows this number at least may use them."""
    package: str
    """The version of this package that made them; empty when it did not say."""

    @classmethod
    def of(cls, meta: Mapping[str, bytes]) -> "Schema":
        """From the rows of its table `meta`.

        Raises:
            ValueError: they are damaged.
        """
        # Version 0.1.0 compares `version` with the one number that it knows.
        oldest = int(meta.get("version", b"1"))
        package = meta.get("package", b"").decode("utf-8", "replace")
        return cls(int(meta.get("schema", b"%d" % oldest)), oldest, package)


EMPTY = Schema(0, 0, "")


def pending(found: Schema) -> Sequence[Migration]:
    """The steps that a store lacks."""
    return [step for step in STEPS if step.number > found.number]


def record(step: Migration, dialect: str, prefix: str) -> str:
    """The statement that ends a step: the store says what it is now."""
    told = {
        "version": str(step.compatible_from),
        "schema": str(step.number),
        "package": telemetry.VERSION,
    }
    kind = {"sqlite": "BLOB", "postgresql": "BYTEA"}[dialect]
    rows = ", ".join(f"('{name}', CAST('{value}' AS {kind}))" for name, value in told.items())
    return (
        f'INSERT INTO "{prefix}meta" (name, value) VALUES {rows}'
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    )


def plan(found: Schema, dialect: str, prefix: str) -> str:
    """The SQL of all steps that a store lacks, for somebody who runs it by hand; each step is a
    transaction. Empty when there is nothing to do."""
    parts = []
    for step in pending(found):
        body = [*step.statements(dialect, prefix), record(step, dialect, prefix)]
        parts.append("\n\n".join(("BEGIN;", *(f"{each};" for each in body), "COMMIT;")))
    return "\n\n".join(parts)

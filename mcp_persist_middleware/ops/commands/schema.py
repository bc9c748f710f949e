"""`schema`: the tables of a store, what they lack and what is wrong with them."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.output import Column, Output
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sql.inspection import Inspection

_FACTS = (
    Column("store", "Store"),
    Column("schema", "Schema"),
    Column("newest", "Newest that is known here"),
    Column("compatible_from", "Usable for versions that know"),
    Column("package", "Made by version"),
    Column("pending", "Steps that it lacks", lambda steps: ", ".join(steps) or "none"),
)
_INDEX = re.compile(r'CREATE (?:UNIQUE )?INDEX "([^"]+)" ON "([^"]+)"')


def register(app: typer.Typer) -> None:
    """Add the commands."""
    schema = typer.Typer(no_args_is_help=True, help="Show, upgrade and verify the tables.")
    command.add(schema, show, "show")
    command.add(schema, upgrade, "upgrade")
    command.add(schema, verify, "verify")
    app.add_typer(schema, name="schema", rich_help_panel=command.CHANGE)


async def show(store: StoreOptions, out: Output) -> bool:
    """Show which schema the store has. Exit code 1 when it lacks a step."""
    async with stores.inspected(store.settings(), any_schema=True) as inspection:
        facts = await _facts(inspection)
    out.facts(_FACTS, facts)
    return bool(facts["pending"])


async def upgrade(
    store: StoreOptions,
    out: Output,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Print the SQL, for somebody else to run.")
    ] = False,
) -> None:
    """Bring the tables to this version, as a server does when it starts.

    A step beside which older workers cannot go on waits until they have left, and says so.
    """
    settings = store.settings()
    async with stores.inspected(settings, any_schema=True) as inspection:
        found, name = await inspection.schema(), inspection.name
        sql = migrations.plan(found, inspection.dialect, settings.table_prefix)
    if only_plan:
        out.facts((Column("sql", "", str),), {"sql": sql}) if out.as_json else out.line(sql)
        return
    if sql:
        await _upgraded(settings)
    async with stores.inspected(settings) as inspection:
        now = (await inspection.schema()).number
    facts = {"store": name, "before": found.number, "schema": now}
    out.facts((*_FACTS[:1], Column("before", "Before"), Column("schema", "Schema now")), facts)


async def _upgraded(settings: Settings) -> None:
    log = stores.sql_log(settings)
    try:
        await log.open("upgrade")
    finally:
        await log.aclose()


async def verify(store: StoreOptions, out: Output) -> bool:
    """Check that the tables are what this version expects, and what the database says of its file.
    Exit code 1 when something is wrong.
    """
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        wrong = _lacking(inspection, await inspection.shape(), settings.table_prefix)
        wrong += [f"damaged: {each}" for each in await inspection.check_damage()]
    out.table(
        (Column("wrong", "WRONG"),),
        [{"wrong": each} for each in wrong],
        "Every table, column and index is there, and nothing is damaged as far as is known.",
    )
    return bool(wrong)


async def _facts(inspection: Inspection) -> dict[str, Any]:
    found = await inspection.schema()
    return {
        "store": inspection.name,
        "schema": found.number,
        "newest": migrations.NEWEST,
        "compatible_from": found.compatible_from,
        "package": found.package or None,
        "pending": [f"{step.number} {step.name}" for step in migrations.pending(found)],
    }


def _lacking(
    inspection: Inspection, shape: Mapping[str, tuple[set[str], set[str]]], prefix: str
) -> list[str]:
    """What is expected and not there."""
    indexes = [
        found
        for step in migrations.STEPS
        for statement in step.statements(inspection.dialect, prefix)
        for found in _INDEX.findall(statement)
    ]
    lacking = []
    for each in fields(inspection.tables):
        table = getattr(inspection.tables, each.name)
        if table.name not in shape:
            lacking.append(f"table {table.name} is not there")
            continue
        has_columns, has_indexes = shape[table.name]
        wanted = {"column": (table.columns.keys(), has_columns)}
        wanted["index"] = ([name for name, of in indexes if of == table.name], has_indexes)
        lacking += [
            f"{what} {name} of {table.name} is not there"
            for what, (names, has) in wanted.items()
            for name in names
            if name not in has
        ]
    return lacking

"""The command ``mailvitals store``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from agent.cli_common import ConfigError, progress

_FROM, _TO = "sqlite:///", ("postgres://", "postgresql://")


@click.group()
def store() -> None:
    """Move what was counted from one store to another."""


@store.command("copy")
@click.option("--from", "source", required=True, help="The embedded store, sqlite:////absolute/path.")
@click.option("--to", "target", required=True, help="An empty database, postgresql://user@host:5432/database.")
def store_copy(source: str, target: str) -> None:
    """Copy everything from an embedded store to PostgreSQL, and compare the two.

    Stop the agent first; ESPs keep what they cannot deliver meanwhile. The copy is one transaction: if it fails, the
    target is as it was. The source is only read. Give the password as PGPASSWORD or in ~/.pgpass.

    \b
    mailvitals store copy --from sqlite:////var/lib/mailvitals/ledger.db --to postgresql://mailvitals@db/mailvitals
    """
    from agent.ledger.base import LedgerError, Server, StoreUnavailable
    from agent.ledger.copying import Source, copy

    if not source.startswith(_FROM + "/"):
        raise click.BadParameter("must be sqlite: with four slashes and an absolute path", param_hint="--from")
    if not target.startswith(_TO):
        raise click.BadParameter("must be postgresql://user@host:5432/database", param_hint="--to")
    try:
        ledger = Source(Path(source.removeprefix(_FROM)))
        try:
            sums = ledger.sums()
            with progress(sum(rows for rows, *_ in sums.values()), "Copying") as advance:
                asyncio.run(copy(ledger, sums, Server(target), advance))
        finally:
            ledger.close()
    except LedgerError as e:
        raise ConfigError(str(e)) from None
    except StoreUnavailable as e:
        raise click.ClickException(f"{e}. Nothing was copied.") from None
    for name, (rows, *_) in sums.items():
        click.echo(f"  {name.replace('_', ' '):14} {rows:>12,}")
    click.echo("Copied, and the same in both. Point `store.url` to the new one, with the same `store.identity_key`.")

"""The commands ``mailvitals import`` and ``mailvitals quarantine``: stored bodies into the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli_common import CONFIG, ConfigError, console, load_settings, progress

if TYPE_CHECKING:
    from agent.intake.gate import Gate
    from agent.intake.source import Source
    from agent.ledger.base import Ledger
    from agent.settings import Settings


@click.command("import")
@CONFIG
@click.option("--source", required=True, help="Configured source the bodies belong to.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_(config: Path, source: str, files: tuple[Path, ...]) -> int:
    """Count stored webhook bodies, one a line or one a file, gzip or plain.

    They take the same path as live ones, so importing twice, or what came live as well, counts nothing twice. May run
    beside a running agent. Exits 1 when a body could not be read; such bodies are kept in quarantine.

    \b
    mailvitals import --config mailvitals.yaml --source sendgrid day1.ndjson day2.ndjson.gz
    """
    from agent.intake.files import Imported, ImportFailed, import_file
    from agent.ledger.base import LedgerError, StoreUnavailable

    settings = load_settings(config)
    names = [s.name for s in settings.sources]
    if source not in names:
        known = ", ".join(sorted(names)) or "none"
        raise click.BadParameter(f"no source `{source}` in {config}; it has {known}", param_hint="--source")
    done = Imported()

    async def work(advance: Callable[[int], None]) -> None:
        before = 0
        async with _counting(settings) as (ledger, gate, sources):
            for file in files:
                start = before

                def advance_in_file(read: int, start: int = start) -> None:
                    advance(start + read)

                await import_file(
                    file, sources[source], gate, ledger, done,
                    max_bytes=settings.listen.max_body_bytes, progress=advance_in_file,
                )  # fmt: skip
                before += file.stat().st_size
                advance(before)

    try:
        with progress(sum(f.stat().st_size for f in files), "Importing", bytes_=True) as advance:
            asyncio.run(work(advance))
    except LedgerError as e:
        raise ConfigError(str(e)) from None
    except (ImportFailed, StoreUnavailable) as e:
        raise click.ClickException(f"{e}. What was read before is counted; run it again when this is mended.") from None
    _report(done)
    return 1 if done.unreadable or done.malformed_items else 0


def _report(done: Any) -> None:
    click.echo(
        f"Bodies: {done.bodies:,}; events counted: {sum(done.events.values()):,}, known before: {done.duplicates:,}."
    )
    for name, n in sorted(done.events.items()):
        click.echo(f"  {name:24} {n:>10,}")
    for reason, n in sorted(done.refused.items()):
        click.echo(f"  refused, {reason.replace('_', ' '):15} {n:>10,}")
    for reason, n in sorted(done.tests.items()):
        click.echo(f"  test, {reason.replace('_', ' '):18} {n:>10,}")
    if done.malformed_items:
        click.echo(f"Items that could not be read: {done.malformed_items:,}; their bodies are in quarantine.", err=True)
    for line in done.unreadable[:20]:
        click.echo(line, err=True)
    if len(done.unreadable) > 20:
        click.echo(f"… and {len(done.unreadable) - 20} more unreadable bodies.", err=True)


class _Silent:
    def commit(self, seconds: float, events: int) -> None:
        pass

    def queue_depth(self, events: int) -> None:
        pass


@asynccontextmanager
async def _counting(settings: Settings) -> AsyncIterator[tuple[Ledger, Gate, dict[str, Source]]]:
    """The store with a gate at work before it, and the configured sources. May run beside an agent."""
    from agent.assembly import build_sources, open_ledger
    from agent.intake.gate import Gate

    ledger = open_ledger(settings)
    await ledger.start()
    gate = Gate(ledger, _Silent())
    committing = asyncio.create_task(gate.run())
    try:
        yield ledger, gate, build_sources(settings, ledger.identify)
    finally:
        gate.close()
        await committing
        await ledger.close()


@click.group()
def quarantine() -> None:
    """Authentic webhook bodies that could not be (wholly) read: list them, read them again after an upgrade."""


@quarantine.command("list")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quarantine_list(config: Path, as_json: bool) -> int:
    """Show what lies in quarantine, oldest first. Bodies stay sealed; they are kept for seven days.

    \b
    mailvitals quarantine list --config mailvitals.yaml
    """
    import json
    from datetime import UTC, datetime

    import msgspec
    from rich.table import Table
    from rich.text import Text

    async def held() -> Any:
        async with _counting(load_settings(config)) as (ledger, _, _):
            return await ledger.quarantined()

    found = _run(held())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found)))
        return 0
    table = Table("Id", "Since", "Source", "Bytes", "Why", box=None, pad_edge=False, header_style="bold")
    for one in found:
        since = datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        table.add_row(str(one.id), since, one.source, f"{one.size:,}", Text(one.reason))
    console().print(table if found else "Nothing is in quarantine.")
    return 0


@quarantine.command("replay")
@CONFIG
@click.option("--source", help="Only bodies of this source.")
@click.argument("ids", nargs=-1, type=int)
def quarantine_replay(config: Path, source: str | None, ids: tuple[int, ...]) -> int:
    """Read quarantined bodies again (all, or those with the given ids) and count what can be read now.

    A body that is wholly read leaves quarantine, the others stay. What was counted before is not counted again.
    Exits 1 while a body stays.

    \b
    mailvitals quarantine replay --config mailvitals.yaml --source sendgrid
    """
    from agent.intake.files import Imported, replay

    done = Imported()
    settings = load_settings(config)

    async def work() -> tuple[int, list[int]]:
        stays = 0
        async with _counting(settings) as (ledger, gate, sources):
            held = {one.id: one for one in await ledger.quarantined()}
            for number in ids or held:
                one = held.get(number)
                if one is None or (source is not None and one.source != source):
                    continue
                if one.source not in sources:
                    done.unreadable.append(f"{number}: its source {one.source} is not configured any more")
                    stays += 1
                elif not await replay(one, sources[one.source], gate, ledger, done):
                    stays += 1
        return stays, [number for number in ids if number not in held]

    stays, unknown = _run(work())
    if unknown:
        raise click.BadParameter(f"not in quarantine: {', '.join(map(str, unknown))}", param_hint="IDS")
    _report(done)
    return 1 if stays else 0


def _run(work: Any) -> Any:
    from agent.ledger.base import LedgerError, StoreUnavailable

    try:
        return asyncio.run(work)
    except LedgerError as e:
        raise ConfigError(str(e)) from None
    except StoreUnavailable as e:
        raise click.ClickException(str(e)) from None

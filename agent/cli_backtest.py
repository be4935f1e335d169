"""``mailvitals backtest``: what another policy would have alerted on, beside today's."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from agent.cli_common import CONFIG, ConfigError, console, load_settings, progress

if TYPE_CHECKING:
    from agent.backtest import Policy, Result
    from agent.settings import Settings
    from agent.vitals.verdicts import Hour

# Hours are kept so long; the first 30 days of them are also what later ones are judged by.
MOST_DAYS = 35
SHOWN = 50


@click.command()
@CONFIG
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The policy to try (YAML): `phases`, `vitals`, `alerts`, `domain_phases`; what it leaves out stays as it is.",
)
@click.option("--domain", "names", multiple=True, help="Only this configured domain; may be repeated.")
@click.option("--days", type=click.IntRange(1, MOST_DAYS), default=MOST_DAYS, show_default=True, help="How far back.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backtest(config: Path, policy_file: Path | None, names: tuple[str, ...], days: int, as_json: bool) -> int:
    """Replay the stored hours: which alerts on rates a policy would have raised, how late, and which for nothing.

    Today's policy stands beside the new one; without --policy it stands alone. Hours are judged at their end, so a
    running agent is up to an hour faster. DNS checks, blocklists and silent sources have no history to replay. May run
    beside a running agent.

    \b
    mailvitals backtest --config mailvitals.yaml --policy stricter.yaml --days 14
    """
    from agent.backtest import replay

    settings = load_settings(config)
    known = [d.name for d in settings.domains]
    if unknown := [name for name in names if name not in known]:
        shown = ", ".join(sorted(known)) or "none"
        raise click.BadParameter(f"no domain `{unknown[0]}` in {config}; it has {shown}", param_hint="--domain")
    wanted = names or tuple(known)
    policies = {"today": _today(settings, wanted)}
    if policy_file is not None:
        policies["new"] = _new(settings, policy_file, wanted)
    if not wanted:
        raise click.ClickException(f"{config} configures no domain, so no rate is judged.")

    until = int(time.time()) // 3600 * 3600
    history = _history(settings, until)
    oldest = min((hours[0][0] for name, hours in history.items() if name in wanted and hours), default=until)
    since = max(until - days * 86400, oldest)
    results: dict[str, Result] = {}
    pairs = len(wanted) * max(0, (until - since) // 3600)
    with progress(pairs * len(policies), "Replaying") as advance:
        for n, (name, policy) in enumerate(policies.items()):

            def step(done: int, before: int = n * pairs) -> None:
                advance(before + done)

            results[name] = replay(history, policy, since, until, step)
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode({name: _document(r) for name, r in results.items()}) + b"\n")
    else:
        _print(results)
    return 0


def _today(settings: Settings, names: tuple[str, ...]) -> Policy:
    from agent.backtest import Policy

    phases = settings.phases.in_force()
    return Policy(
        domains={d.name: phases[d.phase] for d in settings.domains if d.name in names},
        phases=phases,
        bounce_classes=settings.vitals.bounce_classes,
        stale_after=settings.vitals.stale_after,
        quiet_period=settings.alerts.quiet_period,
    )


def _new(settings: Settings, file: Path, names: tuple[str, ...]) -> Policy:
    from agent.settings import SettingsError, load_policy

    try:
        return _today(load_policy(file, settings), names)
    except SettingsError as e:
        raise ConfigError(str(e)) from None


def _history(settings: Settings, until: int) -> dict[str, list[Hour]]:
    from agent.assembly import open_ledger
    from agent.clock import HOUR
    from agent.ledger.base import LedgerError, StoreUnavailable
    from agent.vitals.evaluate import hours_by_domain

    async def read() -> Any:
        ledger = open_ledger(settings)
        await ledger.start()
        try:
            return await ledger.rows(HOUR, until - MOST_DAYS * 86400, until, by_domain=True)
        finally:
            await ledger.close()

    try:
        return hours_by_domain(asyncio.run(read()))
    except LedgerError as e:
        raise ConfigError(str(e)) from None
    except StoreUnavailable as e:
        raise click.ClickException(str(e)) from None


def _summary(result: Result) -> dict[str, Any]:
    delays = result.delays
    span = max(result.until - result.since, 1)
    alerting = sum((a.ended_at or result.until) - a.starts_at for a in result.alerts)
    return {
        "alerts": len(result.alerts),
        "alerts_per_30_days": round(len(result.alerts) * 30 * 86400 / span, 2),
        "noise": result.noise,
        "again": sum(a.again for a in result.alerts),
        "missed": len(result.missed),
        "detected": len(delays),
        "median_delay_hours": median(d for d, _ in delays) / 3600 if delays else None,
        "longest_delay_hours": delays[-1][0] / 3600 if delays else None,
        "median_delay_mails": median(m for _, m in delays) if delays else None,
        "hours_alerting": alerting / 3600,
    }


def _document(result: Result) -> dict[str, Any]:
    return {
        "since": result.since,
        "until": result.until,
        "summary": _summary(result),
        "alerts": result.alerts,
        "missed": result.missed,
    }


_ROWS = (
    ("alerts", "Alerts"),
    ("alerts_per_30_days", "  in 30 days"),
    ("noise", "  of nothing that hindsight knows"),
    ("again", "  again of the same"),
    ("hours_alerting", "Hours with an alert open"),
    ("detected", "Breaches told of"),
    ("missed", "Breaches missed"),
    ("median_delay_hours", "Delay, median, hours"),
    ("median_delay_mails", "Delay, median, mails"),
    ("longest_delay_hours", "Delay, longest, hours"),
)


def _print(results: dict[str, Result]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    first = next(iter(results.values()))
    if first.since >= first.until:
        out.print("There is no whole hour of history yet.")
        return
    out.print(f"{_time(first.since)} to {_time(first.until)} UTC, {(first.until - first.since) / 86400:.1f} days.\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column()
    for name in results:
        table.add_column(name.capitalize(), justify="right")
    summaries = [_summary(r) for r in results.values()]
    for key, title in _ROWS:
        table.add_row(title, *(_number(s[key]) for s in summaries))
    out.print(table)
    lines = _differences(results) if len(results) > 1 else [(a.starts_at, "", *_line(a)) for a in first.alerts]
    lines += [(m.episode.begins, name, m.domain, m.target, _missed(m)) for name, r in results.items() for m in r.missed]
    if not lines:
        out.print("\nBoth raise the same alerts." if len(results) > 1 else "\nNo alert.")
        return
    detail = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("When (UTC)", *(["Policy"] if len(results) > 1 else []), "Domain", "Target", "What"):
        detail.add_column(column, overflow="fold")
    for at, policy, domain, target, what in sorted(lines)[:SHOWN]:
        detail.add_row(_time(at), *([policy] if len(results) > 1 else []), domain, target, Text(what))
    out.print("\nWhere they differ:" if len(results) > 1 else "", detail)
    if len(lines) > SHOWN:
        out.print(f"… and {len(lines) - SHOWN} more; --json has them all.")


def _differences(results: dict[str, Result]) -> list[tuple[int, str, str, str, str]]:
    """Alerts that one policy raises and the other does not raise at the same hour."""
    raised = {name: {(a.domain, a.target, a.starts_at): a for a in r.alerts} for name, r in results.items()}
    found = []
    for name, alerts in raised.items():
        (other,) = (one for key, one in raised.items() if key != name)
        found += [(a.starts_at, name, *_line(a)) for key, a in alerts.items() if key not in other]
    return found


def _line(alert: Any) -> tuple[str, str, str]:
    if alert.episode is None:
        worth = "noise: hindsight knows no breach"
    elif alert.again:
        worth = "again of the same breach"
    else:
        worth = f"{alert.delay / 3600:.0f} h and {alert.mails:,} mails after it began"
    ended = f"open until {_time(alert.ended_at)}" if alert.ended_at else "still open"
    return alert.domain, alert.target, f"{worth}; {ended}. {alert.reason}"


def _missed(missed: Any) -> str:
    e = missed.episode
    return f"missed: {e.failures:,} of {e.mails:,} from {_time(e.begins)} to {_time(e.ends)}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _time(at: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")

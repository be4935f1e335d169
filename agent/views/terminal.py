"""The status document as tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_STYLE = {
    "met": "green", "breached": "bold red", "undecided": "yellow", "insufficient_data": "dim", "stale": "magenta",
    "ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "magenta",
    "attention": "yellow", "failing": "bold red", "open": "bold red", "closing": "yellow", "resolved": "green",
    "ready": "green", "not_yet": "yellow", "cannot_tell": "magenta", "passed": "green", "blocking": "bold red",
}  # fmt: skip


# From this width on, the reasons have room beside the numbers.
WIDE = 130


def render_status(document: Mapping[str, Any]) -> RenderableType:
    """Domains with their targets, checks that are not ok, open incidents and sources, out of ``status.document``.
    Fits the console it is printed on; text from outside cannot control the terminal."""
    return _Status(document)


def render_phase(document: Mapping[str, Any]) -> RenderableType:
    """Each domain's gate with its conditions and the plan of the phases, out of ``status.phase``."""
    return Group(*(part for name, gate in sorted(document["domains"].items()) for part in _gate(document, name, gate)))


def _gate(document: Mapping[str, Any], name: str, gate: Mapping[str, Any]) -> Iterator[RenderableType]:
    step = f"{gate['phase']} → {gate['next_phase']}" if gate["next_phase"] else gate["phase"]
    line = Text.assemble(_plain(name, "bold"), "  ", _plain(step), "  ", _verdict(gate["state"]))
    if gate["state"] != "ready":
        line.append(f", earliest {_date(gate['earliest'], document['now'])}")
    yield line
    for phase in filter(None, (gate["phase"], gate["next_phase"])):
        yield _plain(f"  {phase} is planned for {_planned(document['phases'][phase])}", "dim")
    table = _table("Condition", "State", "Earliest", "Evidence", fold=("Evidence",))
    for item in gate["items"]:
        earliest = "–" if item["state"] == "passed" else _date(item["earliest"], document["now"])
        table.add_row(
            _plain(item["name"].replace("_", " ")), _verdict(item["state"]), earliest, _plain(item["evidence"])
        )
    yield Padding(table, (0, 0, 1, 2))


def _date(at: float | None, now: float) -> str:
    if at is None:
        return "unknown"
    return "now" if at <= now else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _planned(phase: Mapping[str, Any]) -> str:
    def span(key: str) -> str:
        least, most = phase[key]
        return f"{least:,g}" if least == most else f"{least:,g} to {most:,g}"

    return (
        f"{span('duration_weeks')} weeks, USD {span('budget_usd')} a month, "
        f"expected ROI {span('expected_roi_percent')} %"
    )


class _Status:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        document = self._document
        overall = document["overall"]
        if document["demo"]:
            yield Text("DEMO: simulated traffic, nothing of it is real", "reverse")
        yield Text.assemble("Overall: ", (overall["state"], _STYLE.get(overall["state"], "")))
        for reason in overall["reasons"]:
            yield _plain(f"  {reason}")
        yield from _targets(document) if options.max_width >= WIDE else _targets_narrow(document)
        for table in (_months(document), _checks(document), _incidents(document), _sources(document)):
            if table.row_count:
                yield Text()
                yield table


def _plain(text: str, style: str = "") -> Text:
    # Findings and errors hold anybody's text.
    return Text("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text), style)


def _table(*columns: str, fold: Collection[str] = ()) -> Table:
    """A table whose columns keep their width, but for those in ``fold``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in fold)
    return table


def _verdict(word: str) -> Text:
    return _plain(word.replace("_", " "), _STYLE.get(word, ""))


def _judgements(document: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Text], str]]:
    """Domain, phase, the cells of a judgement and its reason."""
    for name, domain in sorted((document["domains"] or {}).items()):
        for judgement in domain["judgements"]:
            rate, target = judgement["rate"], judgement["target"]
            yield name, domain["phase"], [
                Text(target), _verdict(judgement["verdict"]), Text(judgement["window"]),
                Text(f"{rate['value']:.2%}" if rate else "–"), _between(rate),
                _between(domain["anytime"].get(judgement["window"], {}).get(target)),
            ], judgement["reason"]  # fmt: skip


def _between(rate: Mapping[str, Any] | None) -> Text:
    return Text("–" if rate is None or rate["lower"] is None else f"{rate['lower']:.2%} to {rate['upper']:.2%}")


_JUDGEMENT = ("Target", "Verdict", "Window", "Value", "95 % bounds", "At any time")


def _targets(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = _table("Domain", "Phase", *_JUDGEMENT, "Why", fold=("Domain", "Why"))
    for name, phase, cells, why in _judgements(document):
        table.add_row(_plain(name), Text(phase), *cells, _plain(why))
    if table.row_count:
        yield from (Text(), table)


def _targets_narrow(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    for (name, phase), rows in groupby(_judgements(document), lambda row: row[:2]):
        yield Text()
        yield Text.assemble(_plain(name, "bold"), f" ({phase})" if phase else "")
        for _, _, (target, verdict, window, value, bounds, anytime), why in rows:
            line = Text.assemble("  ", target, " " * (15 - len(target)), verdict)
            if value.plain != "–":
                line.append_text(Text.assemble(" " * (18 - len(verdict)), value, f" in {window}"))
            if bounds.plain != "–":
                line.append_text(Text.assemble(", ", bounds))
            yield line
            if anytime.plain != "–":
                yield Text.assemble(" " * 35, "at any time ", anytime)
            yield Padding(_plain(why, "dim"), (0, 0, 0, 4))


def _months(document: Mapping[str, Any]) -> Table:
    table = _table("Month so far", "Target", "Value", "At any time", "Failures", fold=("Month so far",))
    for name, domain in sorted((document["domains"] or {}).items()):
        for target, rate in domain["anytime"].get("month", {}).items():
            failed = rate["denominator"] - rate["numerator"] if target == "deliverability" else rate["numerator"]
            table.add_row(
                _plain(name), Text(target), Text(f"{rate['value']:.2%}"), _between(rate),
                Text(f"{failed:,} of {rate['denominator']:,}"),
            )  # fmt: skip
    return table


def _checks(document: Mapping[str, Any]) -> Table:
    table = _table("Domain", "DNS check", "Verdict", "What was found", fold=("Domain", "DNS check", "What was found"))
    for watched in document["findings"]:
        finding = watched["finding"]
        if finding["verdict"] != "ok":
            name = " ".join(filter(None, (finding["check"], finding["subject"])))
            table.add_row(
                _plain(watched["domain"]), _plain(name), _verdict(finding["verdict"]), _plain(finding["detail"])
            )
    return table


def _incidents(document: Mapping[str, Any]) -> Table:
    table = _table("Incident", "State", "Severity", "Summary", fold=("Summary",))
    for incident in document["incidents"]:
        labels = incident["labels"]
        table.add_row(
            _plain(labels["alertname"]), _verdict("muted" if incident["muted_until"] else incident["state"]),
            _plain(labels["severity"]), _plain(_summary(incident)),
        )  # fmt: skip
    return table


def _summary(incident: Mapping[str, Any]) -> str:
    summary: str = incident["annotations"].get("summary", "")
    causes = [cause for cause in incident["causes"] if cause["score"] > 0]
    return f"{summary} ({'likely' if causes[0]['likely'] else 'possibly'}: {causes[0]['says']})" if causes else summary


def _sources(document: Mapping[str, Any]) -> Table:
    table = _table(
        "Source", "Provider", "Last event", "Requests", "Last error", fold=("Source", "Requests", "Last error")
    )
    for source in document["sources"]:
        requests = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(source["requests"].items()))
        table.add_row(
            _plain(source["name"]), _plain(source["provider"]),
            Text(_age(document["now"] - source["last_event_at"]) if source["last_event_at"] else "never"),
            _plain(requests or "none since the start"), _plain(source["last_error"]),
        )  # fmt: skip
    return table


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"

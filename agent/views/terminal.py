"""The status document as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLE = {
    "met": "green", "breached": "bold red", "undecided": "yellow", "insufficient_data": "dim", "stale": "magenta",
    "ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "magenta",
    "attention": "yellow", "failing": "bold red", "open": "bold red", "closing": "yellow", "resolved": "green",
}  # fmt: skip


def render_status(document: Mapping[str, Any]) -> RenderableType:
    """Domains with their targets, checks that are not ok, open incidents and sources, out of ``status.document``."""
    overall = document["overall"]
    parts: list[RenderableType] = []
    if document["demo"]:
        parts.append(Text("DEMO: simulated traffic, nothing of it is real", "reverse"))
    parts.append(Text.assemble("Overall: ", (overall["state"], _STYLE.get(overall["state"], ""))))
    parts += [Text(f"  {reason}") for reason in overall["reasons"]]
    parts += [Text(), _targets(document)]
    checks = _checks(document)
    if checks.row_count:
        parts += [Text(), checks]
    incidents = _incidents(document)
    if incidents.row_count:
        parts += [Text(), incidents]
    parts += [Text(), _sources(document)]
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _verdict(word: str) -> Text:
    return Text(word.replace("_", " "), _STYLE.get(word, ""))


def _targets(document: Mapping[str, Any]) -> Table:
    table = _table("Domain", "Phase", "Target", "Verdict", "Window", "Value", "95 % bounds", "Why")
    for name, domain in sorted((document["domains"] or {}).items()):
        for judgement in domain["judgements"]:
            rate = judgement["rate"]
            bounds = rate and rate["lower"] is not None
            table.add_row(
                Text(name), Text(domain["phase"]), judgement["target"], _verdict(judgement["verdict"]),
                judgement["window"], f"{rate['value']:.2%}" if rate else "–",
                f"{rate['lower']:.2%} to {rate['upper']:.2%}" if bounds else "–", Text(judgement["reason"]),
            )  # fmt: skip
    return table


def _checks(document: Mapping[str, Any]) -> Table:
    table = _table("Domain", "DNS check", "Verdict", "What was found")
    for watched in document["findings"]:
        finding = watched["finding"]
        if finding["verdict"] != "ok":
            name = " ".join(filter(None, (finding["check"], finding["subject"])))
            table.add_row(Text(watched["domain"]), Text(name), _verdict(finding["verdict"]), Text(finding["detail"]))
    return table


def _incidents(document: Mapping[str, Any]) -> Table:
    table = _table("Incident", "State", "Severity", "Summary")
    for incident in document["incidents"]:
        labels = incident["labels"]
        table.add_row(
            labels["alertname"], _verdict(incident["state"]), labels["severity"],
            Text(incident["annotations"].get("summary", "")),
        )  # fmt: skip
    return table


def _sources(document: Mapping[str, Any]) -> Table:
    table = _table("Source", "Provider", "Last event", "Requests", "Last error")
    for source in document["sources"]:
        requests = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(source["requests"].items()))
        table.add_row(
            source["name"], source["provider"], _age(document["now"] - source["last_event_at"])
            if source["last_event_at"] else "never", requests or "none since the start", Text(source["last_error"]),
        )  # fmt: skip
    return table


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"

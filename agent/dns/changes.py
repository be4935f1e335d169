"""What a change of records means, in words, and whether it makes mail safer or weaker. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec

from agent.dns.dependents import Sender
from agent.dns.dkim_key import DkimKey, KeyRecordError
from agent.dns.dkim_key import read as read_key
from agent.dns.dmarc_record import DmarcRecord
from agent.dns.dmarc_record import read as read_dmarc
from agent.dns.inventory import RecordSet, policy_lines
from agent.dns.spf_record import Record, SpfSyntaxError, parse

_WORDS = 12  # sentences about one change


class Direction(StrEnum):
    """``weaker``: receivers are asked for less, or a proof is gone. ``other``: neither, or nobody can say."""

    WEAKER = "weaker"
    STRONGER = "stronger"
    OTHER = "other"


class Change(msgspec.Struct, frozen=True):
    """One change, confirmed. ``at`` is Unix seconds, when it was first seen; ``share`` is the part of the mail of the
    24 hours before that depends on the record, 0..1, ``None`` when none was counted: what ``of`` sends, or all of the
    domain's where that is empty."""

    at: float
    domain: str
    before: RecordSet
    after: RecordSet
    words: tuple[str, ...]
    direction: Direction
    share: float | None = None
    of: tuple[Sender, ...] = ()


_Said = list[tuple[str, Direction]]
_W, _S, _O = Direction.WEAKER, Direction.STRONGER, Direction.OTHER


def describe(before: RecordSet, after: RecordSet) -> tuple[tuple[str, ...], Direction]:
    """What became of a record set, and the direction of the whole: weaker if anything in it is."""
    said = _READERS[after.role](before, after)
    if not said:
        said = [(f"{_TITLE[after.role]} of {after.name} is written differently and means the same", _O)]
    directions = {direction for _, direction in said}
    direction = _W if _W in directions else _S if _S in directions else _O
    return tuple(dict.fromkeys(words for words, _ in said))[:_WORDS], direction


_TITLE = {
    "spf": "The SPF record", "include": "The SPF record", "dkim": "The DKIM key", "dmarc": "The DMARC record",
    "mx": "The list of mail hosts", "ns": "The list of name servers", "mta_sts": "The MTA-STS record",
    "tls_rpt": "The TLS reporting record", "sts_policy": "The MTA-STS policy",
}  # fmt: skip


def _presence(before: RecordSet, after: RecordSet) -> _Said:
    """Records that came, went or multiplied: what there is to say without reading them."""
    title = f"{_TITLE[after.role]} of {after.name}"
    if not after.records:
        return [(f"{title} is gone", _W)]
    if len(after.records) > 1:
        return [(f"{title} stands there {len(after.records)} times, so that receivers take none of them", _W)]
    return [(f"{title} is published", _S)] if not before.records else []


# SPF (RFC 7208)

_STRICTNESS = {"+": 0, "?": 1, "~": 2, "-": 3}


def _spf(before: RecordSet, after: RecordSet) -> _Said:
    said = _presence(before, after)
    new = _parsed(after)
    if len(after.records) != 1:
        return said
    if new is None:
        return [*said, (f"The SPF record of {after.name} cannot be read any more: every use of it is an error", _W)]
    old = _parsed(before) if len(before.records) == 1 else None
    if old is None:
        return said
    who = f"include:{after.name}" if after.role == "include" else after.name
    return said + _all(who, old, new) + _authorised(who, old, new)


def _parsed(records: RecordSet) -> Record | None:
    try:
        return parse(records.records[0]) if records.records else None
    except SpfSyntaxError:
        return None


def _all(who: str, old: Record, new: Record) -> _Said:
    def last(record: Record) -> str:
        return next((t.qualifier or "+" for t in record.mechanisms if t.name == "all"), "")

    was, now = last(old), last(new)
    if was == now:
        return []
    if now == "+":
        return [(f"{who} now ends in +all: anybody may send in its name", _W)]
    words = f"{who} now ends in {now}all, before in {was}all" if was and now else (
        f"{who} no longer ends in {was}all" if was else f"{who} now ends in {now}all"
    )  # fmt: skip
    # Without `all` the result is neutral (section 4.7), unless the record redirects.
    rank = [_STRICTNESS.get(q, 1) for q in (was, now)]
    return [(words, _W if rank[1] < rank[0] else _S)]


def _authorised(who: str, old: Record, new: Record) -> _Said:
    def terms(record: Record) -> dict[str, str]:
        every = [*record.mechanisms, *record.modifiers]
        return {t.text.lower().lstrip("+"): t.name for t in every if t.name not in ("all", "exp")}

    was, now = terms(old), terms(new)
    said: _Said = []
    for text, name in now.items():
        if text not in was:
            said.append((f"{who} now authorises {_target(text, name)}", _O))
    for text, name in was.items():
        if text not in now:
            said.append((f"{who} no longer authorises {_target(text, name)}", _O))
    return said


def _target(text: str, name: str) -> str:
    return text.partition(":")[2] if name in ("ip4", "ip6") else text


# DMARC (RFC 9989)

_LEVELS = ("none", "quarantine", "reject")


def _dmarc(before: RecordSet, after: RecordSet) -> _Said:
    said = _presence(before, after)
    if len(after.records) != 1 or len(before.records) != 1:
        return said
    old, new = (read_dmarc(r.name, r.records[0]) for r in (before, after))
    for tag, whose in (("p", "the domain"), ("sp", "its subdomains"), ("np", "subdomains that do not exist")):
        was, now = _level(old, tag), _level(new, tag)
        if was != now:
            words = f"{after.name}: the policy for {whose} is now {now}, before {was}"
            said.append((words, _W if _LEVELS.index(now) < _LEVELS.index(was) else _S))
    for tag, weak, meaning in (
        ("t", "y", "asks receivers to go one level easier (t=y)"),
        ("adkim", "r", "lets DKIM align with any name of the organization (adkim=r)"),
        ("aspf", "r", "lets SPF align with any name of the organization (aspf=r)"),
    ):  # fmt: skip
        was, now = old.tags.get(tag, _DEFAULTS[tag]).lower(), new.tags.get(tag, _DEFAULTS[tag]).lower()
        if was != now and weak in (was, now):
            said.append((f"{after.name} {'now' if now == weak else 'no longer'} {meaning}", _W if now == weak else _S))
    was, now = old.tags.get("rua", ""), new.tags.get("rua", "")
    if bool(was) != bool(now):
        words = f"{after.name}: reports are now asked for" if now else f"{after.name}: reports are no longer asked for"
        said.append((words, _S if now else _W))
    elif was != now:
        said.append((f"{after.name}: reports go somewhere else", _O))
    return said


_DEFAULTS = {"t": "n", "adkim": "r", "aspf": "r"}


def _level(record: DmarcRecord, tag: str) -> str:
    """The level in force for ``p``, ``sp`` and ``np``, each falling back to the one before (section 4.7)."""
    order = ("p", "sp", "np")
    for name in reversed(order[: order.index(tag) + 1]):
        level = record.tags.get(name, "").lower()
        if level in _LEVELS:
            return level
    return "none"


# DKIM (RFC 6376)


def _dkim(before: RecordSet, after: RecordSet) -> _Said:
    said = _presence(before, after)
    if len(after.records) != 1 or len(before.records) != 1:
        return said
    old, new = _key(before), _key(after)
    if isinstance(new, str):
        return [(f"The DKIM key {after.name} is now {new}", _W)]
    if isinstance(old, str):
        return [(f"The DKIM key {after.name} can be used, before it was {old}", _S)]
    if _encoded(before) != _encoded(after):
        words = (
            f"The DKIM key {after.name} is another one: {new.bits} bits {new.type}, before {old.bits} bits {old.type}"
        )
        weaker = new.type == old.type and new.bits < old.bits
        said.append((words, _W if weaker else _O))
    if old.testing != new.testing:
        words = f"The DKIM key {after.name} is {'now' if new.testing else 'no longer'} marked as being tested (t=y)"
        said.append((words, _W if new.testing else _S))
    return said


def _key(records: RecordSet) -> DkimKey | str:
    try:
        return read_key(records.records[0])
    except KeyRecordError as error:
        return "revoked" if "revoked" in str(error.args) else "unusable"


def _encoded(records: RecordSet) -> str:
    tags = (part.partition("=") for part in records.records[0].split(";"))
    return next(("".join(value.split()) for name, _, value in tags if name.strip() == "p"), "")


# Lists of hosts, and marks


def _hosts(before: RecordSet, after: RecordSet) -> _Said:
    title = _TITLE[after.role]
    if not after.records:
        return [(f"{title} of {after.name} is gone", _W)]
    said: _Said = [(f"{title} of {after.name} now has {r.rstrip('.')}", _O) for r in _new(after, before)]
    return said + [(f"{title} of {after.name} no longer has {r.rstrip('.')}", _O) for r in _new(before, after)]


def _new(these: RecordSet, others: RecordSet) -> Iterable[str]:
    return [record for record in these.records if record not in others.records]


def _mark(before: RecordSet, after: RecordSet) -> _Said:
    said = _presence(before, after)
    return said or [(f"{_TITLE[after.role]} of {after.name} is another one: {after.records[0]}", _O)]


_MODES = ("none", "testing", "enforce")


def _policy(before: RecordSet, after: RecordSet) -> _Said:
    was, now = policy_lines(before), policy_lines(after)
    who = f"The MTA-STS policy of {after.name}"
    said: _Said = []
    if was.get("mode") in _MODES and now.get("mode") in _MODES and was["mode"] != now["mode"]:
        weaker = _MODES.index(now["mode"]) < _MODES.index(was["mode"])
        said.append((f"{who} is now in mode {now['mode']}, before in mode {was['mode']}", _W if weaker else _S))
    ages = [int(lines.get("max_age", "")) if lines.get("max_age", "").isdecimal() else 0 for lines in (was, now)]
    if ages[0] != ages[1]:
        words = f"{who} is now kept for {_days(ages[1])}, before for {_days(ages[0])}"
        said.append((words, _W if ages[1] < ages[0] else _S))
    mx = "mx: "
    said += [(f"{who} now names {r.removeprefix(mx)}", _O) for r in _new(after, before) if r.startswith(mx)]
    return said + [(f"{who} no longer names {r.removeprefix(mx)}", _O) for r in _new(before, after) if r.startswith(mx)]


def _days(seconds: int) -> str:
    return f"{seconds / 86_400:.3g} days" if seconds >= 86_400 else f"{seconds} s"


_READERS: dict[str, Callable[[RecordSet, RecordSet], _Said]] = {
    "spf": _spf, "include": _spf, "dkim": _dkim, "dmarc": _dmarc, "mx": _hosts, "ns": _hosts, "mta_sts": _mark,
    "tls_rpt": _mark, "sts_policy": _policy,
}  # fmt: skip

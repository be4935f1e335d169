"""DMARC records and the Tree Walk that finds them (RFC 9989 sections 4.7, 4.8 and 4.10)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import msgspec

from agent.dns import taglist
from agent.dns.answer import Answer, valid_name

LEVELS = ("none", "quarantine", "reject")
_RECORD = re.compile(r"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_FAILURE_OPTIONS = frozenset("01ds")
_VALUES = {
    "t": ("y", "n"), "psd": ("y", "n", "u"), "adkim": ("r", "s"), "aspf": ("r", "s"),
}  # fmt: skip
_REMOVED = ("pct", "rf", "ri")
_WALK_LABELS = 8


class DmarcRecord(msgspec.Struct, frozen=True):
    """One record as found at ``_dmarc.<name>``. ``tags`` have lower-case names, the first of a repeated one;
    ``faults`` are sentences about what a strict reader would stumble over."""

    name: str
    text: str
    tags: dict[str, str]
    faults: tuple[str, ...] = ()

    def level(self, tag: str) -> str:
        """``p``, ``sp`` or ``np`` as one of ``LEVELS``; ``""`` when absent or invalid."""
        value = self.tags.get(tag, "").lower()
        return value if value in LEVELS else ""

    def flag(self, tag: str) -> str:
        value = self.tags.get(tag, "").lower()
        return value if value in _VALUES[tag] else ""

    @property
    def invalid_policy(self) -> list[str]:
        """Those of p, sp and np whose value is none of the three (section 4.10.1)."""
        return [tag for tag in ("p", "sp", "np") if tag in self.tags and not self.level(tag)]

    @property
    def removed(self) -> list[str]:
        """Tags in it that RFC 9989 has removed from DMARC (appendix C)."""
        return [tag for tag in _REMOVED if tag in self.tags]

    def uris(self, tag: str) -> list[str]:
        """The syntactically valid URIs of ``rua`` or ``ruf``, in order."""
        return [uri for text in self.tags.get(tag, "").split(",") if _URI.fullmatch(uri := text.strip())]

    def report_hosts(self, tag: str = "rua") -> list[str]:
        """The domains of the ``mailto:`` addresses in ``rua`` or ``ruf``, lower case, in order, each once."""
        hosts = []
        for uri in self.uris(tag):
            scheme, _, rest = uri.partition(":")
            mailbox = unquote(rest.partition("!")[0].partition("?")[0])
            host = mailbox.rpartition("@")[2].rstrip(".").lower()
            if scheme.lower() == "mailto" and mailbox.count("@") == 1 and "." in host and valid_name(host):
                hosts.append(host)
        return list(dict.fromkeys(hosts))

    def policy(self, *, own: bool, exists: bool = True) -> str:
        """The level asked for: for the record's own domain ``p``; for a subdomain ``sp``, or ``np`` if it does not
        exist, each falling back to the next. ``""`` means that DMARC is not applied (section 4.10.1)."""
        if self.invalid_policy or not self.level("p"):
            return "none" if self.uris("rua") else ""
        if own:
            return self.level("p")
        return (not exists and self.level("np")) or self.level("sp") or self.level("p")

    def rewritten(self, **changes: str) -> str:
        """The record with tags set to other values, without the tags that RFC 9989 has removed, without values that
        are none, and without size limits on report addresses."""
        tags = {
            k: v for k, v in self.tags.items() if k not in ("v", *_REMOVED) and not (k in _VALUES and not self.flag(k))
        }
        tags |= {k: ",".join(u.partition("!")[0] for u in uris) for k in ("rua", "ruf") if (uris := self.uris(k))}
        first = {"v": "DMARC1", "p": self.level("p") or "none"}
        return "; ".join(f"{k}={v}" for k, v in {**first, **tags, **changes}.items() if v)


def is_dmarc(text: str) -> bool:
    """Whether a TXT record is a DMARC record: ``v=DMARC1`` comes first, exactly so (section 4.8)."""
    return _RECORD.match(text) is not None


def read(name: str, text: str) -> DmarcRecord:
    """Read a record for which ``is_dmarc`` holds. Never raises: what is invalid is ignored (section 4.8)."""
    tags: dict[str, str] = {}
    faults: list[str] = []
    for piece in text.split(";"):
        if not piece.strip():
            continue
        try:
            ((key, value),) = taglist.parse(piece)
        except taglist.TagListError as e:
            faults.append(str(e))
            continue
        key = key.lower()
        if key in tags:
            faults.append(f"the tag {key}= stands in it twice")
            continue
        tags[key] = value
        if key in _VALUES and value.lower() not in _VALUES[key]:
            faults.append(f"{key}={value[:40]} is no valid value")
        if key == "fo" and not _failure_options(value):
            faults.append(f"fo={value[:40]} is no valid value")
    return DmarcRecord(name, text, tags, tuple(faults[:10]))


def _failure_options(value: str) -> bool:
    options = [option.strip().lower() for option in value.split(":")]
    return _FAILURE_OPTIONS.issuperset(options) and not {"0", "1"}.issubset(options)


def walk_names(domain: str) -> list[str]:
    """The names at whose ``_dmarc`` the Tree Walk asks, at most eight, from the domain up to its top-level label."""
    labels = domain.split(".")
    rest = labels[1:] if len(labels) < _WALK_LABELS else labels[-(_WALK_LABELS - 1) :]
    return [domain, *(".".join(rest[i:]) for i in range(len(rest)))]


class Walk(msgspec.Struct, frozen=True):
    """What a Tree Walk found, longest name first. ``lost`` is the answer that was needed and did not come;
    ``discarded`` are names with several records, which count as none."""

    start: str
    records: tuple[DmarcRecord, ...]
    lost: Answer | None = None
    discarded: tuple[str, ...] = ()

    @property
    def organizational_domain(self) -> str:
        """Section 4.10.2."""
        for record in self.records:
            if record.flag("psd") == "n":
                return record.name
            if record.flag("psd") == "y" and record.name != self.start:
                below = self.start.split(".")
                return ".".join(below[-(record.name.count(".") + 2) :])
        return self.records[-1].name if self.records else self.start

    @property
    def policy_record(self) -> DmarcRecord | None:
        """The record that speaks for the start: its own, else its organizational domain's, else the public suffix's
        (section 4.10.1)."""
        organization = self.organizational_domain
        by_name = {record.name: record for record in self.records}
        suffix = next((r for r in self.records if r.flag("psd") == "y"), None)
        return by_name.get(self.start) or by_name.get(organization) or suffix


def walk(names: Sequence[str], answers: Sequence[Answer]) -> Walk:
    """Read the answers to ``_dmarc.`` of ``walk_names`` in their order, as far as the walk goes."""
    found: list[DmarcRecord] = []
    several: list[str] = []
    lost = None
    for name, answer in zip(names, answers, strict=True):
        if not answer.outcome.definitive:
            lost = answer
            break
        texts = [text for text in answer.records if is_dmarc(text)]
        if len(texts) == 1:
            found.append(read(name, texts[0]))
            if found[-1].flag("psd") in ("y", "n"):
                break
        elif texts:
            several.append(name)
    return Walk(names[0], tuple(found), lost, tuple(several))

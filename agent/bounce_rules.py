"""The rules of ``bounce_rules.toml``: read strictly, and laid out so that an answer meets only those that can hold."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import msgspec

from agent.events import BounceClass


class Category(StrEnum):
    """What a report is that comes in the dress of a bounce: ``bounce`` alone is one."""

    BOUNCE = "bounce"
    SUPPRESSION = "suppression"
    AUTO_REPLY = "auto_reply"
    DELAY_NOTICE = "delay_notice"
    CHALLENGE_RESPONSE = "challenge_response"


# A refusal says 5xx; who answers or waits does not.
_NEVER_REFUSALS = frozenset({Category.AUTO_REPLY, Category.DELAY_NOTICE, Category.CHALLENGE_RESPONSE})


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule as the file describes it; its head explains the fields."""

    id: str
    says: str
    source: str
    examples: list[str]
    bounce_class: BounceClass | None = msgspec.field(name="class", default=None)
    category: Category = Category.BOUNCE
    receiver: str = ""
    enhanced: list[str] = msgspec.field(default_factory=list)
    basic: list[str] = msgspec.field(default_factory=list)
    words: list[str] = msgspec.field(default_factory=list)
    also: list[str] = msgspec.field(default_factory=list)
    points_to: list[str] = msgspec.field(default_factory=list)
    doubtful: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hints: dict[str, str]
    receivers: dict[str, list[str]]
    rule: list[Rule]


class RulesError(ValueError):
    """The rules cannot be used; the message names the rule and what is wrong with it."""


_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_ENHANCED = re.compile(r"([245x])\.(\d{1,3}|\*)\.(?:(\d{1,3})(?:-(\d{1,3}))?|\*)", re.ASCII)
_BASIC = re.compile(r"[2-5](?:\d\d|xx)", re.ASCII)
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def _unspaced(phrase: str) -> bool:
    """Whether a phrase is of a script that sets no spaces between words (CJK, kana, hangul)."""
    return any(character >= "⺀" for character in phrase)


class _Conditions(NamedTuple):
    enhanced: frozenset[str]
    basic: frozenset[str]
    # Groups of phrases of which each must be met.
    groups: frozenset[int]
    not_5xx: bool


class Rules:
    """Rules in the order in which they are asked. Raises ``RulesError`` when they are not as they have to be."""

    def __init__(self, text: str) -> None:
        try:
            content = msgspec.convert(tomllib.loads(text), _File)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as e:
            raise RulesError(f"bounce rules: {e}") from None
        self.hints: Mapping[str, str] = content.hints
        self.receivers: Mapping[str, list[str]] = content.receivers
        self.rules: Mapping[str, Rule] = {rule.id: rule for rule in content.rule}
        if len(self.rules) != len(content.rule):
            raise RulesError("bounce rules: two rules have the same id")
        self._ordered = tuple(content.rule)
        self._by_word: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        self._inside: list[tuple[str, int]] = []
        self._by_group: dict[int, int] = {}
        self._by_code: defaultdict[str, list[int]] = defaultdict(list)
        self._groups = 0
        receivers = {name: self._group(f"receiver {name}", marks) for name, marks in content.receivers.items()}
        self._conditions = tuple(self._lay_out(n, rule, receivers) for n, rule in enumerate(self._ordered))
        self._anchors = frozenset(self._by_word)

    def _lay_out(self, number: int, rule: Rule, receivers: Mapping[str, int]) -> _Conditions:
        problem = _problem(rule, self.hints, receivers)
        if problem:
            raise RulesError(f"bounce rule {rule.id!r}: {problem}")
        enhanced, basic = frozenset(_expand(rule.enhanced)), frozenset(rule.basic)
        groups = {receivers[rule.receiver]} if rule.receiver else set()
        if rule.also:
            groups.add(self._group(rule.id, rule.also))
        if rule.words:
            group = self._group(rule.id, rule.words)
            groups.add(group)
            self._by_group[group] = number
        else:
            for code in enhanced or basic:
                self._by_code[code].append(number)
        return _Conditions(enhanced, basic, frozenset(groups), rule.category in _NEVER_REFUSALS)

    def _group(self, owner: str, phrases: Iterable[str]) -> int:
        self._groups += 1
        for phrase in phrases:
            words = words_of(phrase)
            if not words:
                raise RulesError(f"bounce rules: {owner} has a phrase without words: {phrase!r}")
            joined = " ".join(words)
            if _unspaced(joined):
                self._inside.append((joined, self._groups))
            else:
                # The longest word is the rarest, as a rule.
                self._by_word[max(words, key=len)].append((f" {joined} ", self._groups))
        return self._groups

    def first(self, text: str, smtp_code: int | None, enhanced_code: str) -> Rule | None:
        """The first rule that holds for a text and its codes. Linear in the text, of which each word is looked up and
        only the phrases that share a word with it are compared."""
        words = words_of(text)
        joined = f" {' '.join(words)} "
        met = set()
        for word in self._anchors.intersection(words):
            for phrase, group in self._by_word[word]:
                if phrase in joined:
                    met.add(group)
        if not joined.isascii():  # such phrases are few, and most texts have none
            met.update(group for phrase, group in self._inside if phrase in joined)
        codes = _keys(smtp_code, enhanced_code)
        candidates = {self._by_group[group] for group in met if group in self._by_group}
        for code in codes:
            candidates.update(self._by_code.get(code, ()))
        for number in sorted(candidates):
            conditions = self._conditions[number]
            if (
                (not conditions.enhanced or not conditions.enhanced.isdisjoint(codes))
                and (not conditions.basic or not conditions.basic.isdisjoint(codes))
                and conditions.groups <= met
                and not (conditions.not_5xx and "5xx" in codes)
            ):
                return self._ordered[number]
        return None


def _keys(smtp_code: int | None, enhanced_code: str) -> tuple[str, ...]:
    """All the ways in which rules may name these codes."""
    basic = (str(smtp_code), f"{smtp_code // 100}xx") if smtp_code else ()
    parts = enhanced_code.split(".")
    if len(parts) != 3:
        return basic
    kind, subject, detail = parts
    return (
        *basic, enhanced_code, f"x.{subject}.{detail}", f"{kind}.{subject}.*", f"x.{subject}.*", f"{kind}.*.*",
    )  # fmt: skip


def _expand(codes: Iterable[str]) -> Iterator[str]:
    for code in codes:
        head, _, last = code.partition("-")
        if last:
            stem, _, first = head.rpartition(".")
            yield from (f"{stem}.{detail}" for detail in range(int(first), int(last) + 1))
        else:
            yield code


def _is_enhanced(code: str) -> bool:
    match = _ENHANCED.fullmatch(code)
    if match is None or (match[2] == "*" and match[3]):
        return False
    return match[4] is None or int(match[3]) < int(match[4])


def _problem(rule: Rule, hints: Mapping[str, str], receivers: Mapping[str, int]) -> str | None:
    """What is wrong with a rule, ``None`` if nothing is."""
    bad = [code for code in rule.enhanced if not _is_enhanced(code)]
    bad += [code for code in rule.basic if not _BASIC.fullmatch(code)]
    if not _ID.fullmatch(rule.id) or len(rule.id) > 64:
        return "an id is lower-case words joined by hyphens"
    if bad:
        return f"not a code: {bad[0]!r}"
    if (rule.category is Category.BOUNCE) == (rule.bounce_class is None):
        return "a rule has either a class or a category"
    if not (rule.enhanced or rule.basic or rule.words):
        return "it has neither enhanced nor basic codes nor words"
    if rule.receiver and rule.receiver not in receivers:
        return f"unknown receiver {rule.receiver!r}"
    if unknown := [hint for hint in rule.points_to if hint not in hints]:
        return f"unknown hint {unknown[0]!r}"
    if not (rule.examples and rule.says and rule.source):
        return "it needs says, source and examples"
    return None


@cache
def shipped() -> Rules:
    """The rules that come with the package."""
    return Rules(files("agent").joinpath("bounce_rules.toml").read_text("utf-8"))

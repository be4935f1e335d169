"""The rules by which answers are understood: strict to read, and each held to its examples."""

from __future__ import annotations

import pytest

from agent.bounce_rules import Rule, Rules, RulesError, shipped
from agent.classify import explain
from agent.events import reason_text

RULES = list(shipped().rules.values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_decides_its_examples(rule: Rule) -> None:
    # So no rule is without an example, and none stands behind another that always comes first.
    assert rule.examples
    for example in rule.examples:
        assert explain(example).rule == rule.id, example
        assert explain(reason_text(example)).rule == rule.id, example


def test_all_hints_and_receivers_are_used() -> None:
    assert {hint for rule in RULES for hint in rule.points_to} == set(shipped().hints)
    assert {rule.receiver for rule in RULES if rule.receiver} == set(shipped().receivers)


def test_a_hard_bounce_points_to_the_list_and_nothing_else() -> None:
    for rule in RULES:
        assert (rule.bounce_class == "hard") == (rule.points_to == ["list"]), rule.id


HEAD = '[hints]\nspf = "SPF"\n[receivers]\ngmail = ["gsmtp"]\n'
BODY = '[[rule]]\nid = "one"\nsays = "one"\nsource = "seen"\nexamples = ["550 one"]\n'
GOOD = 'class = "hard"\nwords = ["one"]\n'


def test_a_good_file_is_read() -> None:
    rules = Rules(HEAD + BODY + GOOD + 'basic = ["5xx"]\npoints_to = ["spf"]\n')
    found = rules.first("550 ONE!", 550, "")
    assert found is not None
    assert found.id == "one"
    assert rules.first("550 done", 550, "") is None
    assert rules.first("one", 450, "") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[rule", "bounce rules: "),
        (HEAD, "missing required field `rule`"),
        (HEAD + BODY + GOOD + 'colour = "red"\n', "unknown field `colour`"),
        (HEAD + BODY + 'class = "severe"\nwords = ["one"]\n', "Invalid enum value 'severe'"),
        (HEAD + BODY + 'words = ["one"]\n', "'one': a rule has either a class or a category"),
        (HEAD + BODY + GOOD + 'category = "auto_reply"\n', "'one': a rule has either a class or a category"),
        (HEAD + BODY + 'class = "hard"\n', "'one': it has neither"),
        (HEAD + BODY + GOOD + 'enhanced = ["6.1.1"]\n', "'one': not a code: '6.1.1'"),
        (HEAD + BODY + GOOD + 'enhanced = ["5.*.1"]\n', "'one': not a code: '5.*.1'"),
        (HEAD + BODY + GOOD + 'enhanced = ["5.1"]\n', "'one': not a code: '5.1'"),
        (HEAD + BODY + GOOD + 'enhanced = ["5.7.9-1"]\n', "'one': not a code: '5.7.9-1'"),
        (HEAD + BODY + GOOD + 'basic = ["55x"]\n', "'one': not a code: '55x'"),
        (HEAD + BODY + GOOD + 'receiver = "nobody"\n', "'one': unknown receiver 'nobody'"),
        (HEAD + BODY + GOOD + 'points_to = ["moon"]\n', "'one': unknown hint 'moon'"),
        (HEAD + BODY + 'class = "hard"\nwords = ["!"]\n', "a phrase without words: '!'"),
        (HEAD + BODY.replace('"550 one"', "") + GOOD, "'one': it needs says, source and examples"),
        (HEAD + BODY.replace('id = "one"', 'id = "One"') + GOOD, "'One': an id is"),
        (HEAD + (BODY + GOOD) * 2, "two rules have the same id"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(text: str, complaint: str) -> None:
    with pytest.raises(RulesError) as caught:
        Rules(text)
    assert complaint in str(caught.value)


def test_phrases_are_whole_words_except_where_a_script_has_no_spaces() -> None:
    rules = Rules(HEAD + BODY + 'class = "soft"\nwords = ["mailbox full", "邮箱已满"]\n')
    assert rules.first("Mailbox... full", None, "")
    assert not rules.first("mailbox fully there", None, "")
    assert rules.first("抱歉邮箱已满了", None, "")


def test_ranges_and_classes_of_codes() -> None:
    rules = Rules(HEAD + BODY + 'class = "block"\nenhanced = ["5.7.606-608", "x.1.8", "4.9.*"]\n')
    codes = ("5.7.605", "5.7.606", "5.7.608", "5.7.609", "4.1.8", "5.1.8", "4.9.3", "5.9.3", "")
    found = [code for code in codes if rules.first("", None, code)]
    assert found == ["5.7.606", "5.7.608", "4.1.8", "5.1.8", "4.9.3"]

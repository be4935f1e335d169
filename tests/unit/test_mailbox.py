"""Mailbox providers by recipient domain."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mailbox import MAILBOX_PROVIDERS, OTHER, mailbox_provider


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("gmail.com", "gmail"),
        ("googlemail.com", "gmail"),
        ("outlook.com", "microsoft"),
        ("hotmail.co.uk", "microsoft"),
        ("live.fr", "microsoft"),
        ("yahoo.com", "yahoo"),
        ("yahoo.de", "yahoo"),
        ("aol.com", "yahoo"),
        ("yahoo.co.jp", "yahoo_japan"),
        ("icloud.com", "apple"),
        ("me.com", "apple"),
        ("web.de", "gmx"),
        ("gmx.net", "gmx"),
        ("mail.ru", "mail_ru"),
        ("ya.ru", "yandex"),
        ("proton.me", "proton"),
        ("wanadoo.fr", "orange"),
        ("qq.com", "tencent"),
        ("example.com", OTHER),
        ("notgmail.com", OTHER),
        ("mail.gmail.com", OTHER),
        ("", OTHER),
    ],
)
def test_known_domains(domain: str, name: str) -> None:
    assert mailbox_provider(domain) == name


@given(st.text())
def test_names_are_bounded(domain: str) -> None:
    assert mailbox_provider(domain) in MAILBOX_PROVIDERS


def test_names_are_labels() -> None:
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in MAILBOX_PROVIDERS)
    assert len(MAILBOX_PROVIDERS) < 100

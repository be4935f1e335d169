"""Mailbox providers by recipient domain."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.mailbox import MAILBOX_PROVIDERS, OTHER, by_mx, mailbox_provider, shown


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
    assert len(MAILBOX_PROVIDERS) < 120


@pytest.mark.parametrize(
    ("exchanger", "name"),
    [
        ("aspmx.l.google.com", "gmail"),
        ("smtp.google.com", "gmail"),
        ("alt1.aspmx.l.google.com", "gmail"),
        ("aspmx2.googlemail.com", "gmail"),
        ("example-com.mail.protection.outlook.com", "microsoft"),
        ("outlook-com.olc.protection.outlook.com", "microsoft"),
        ("example-com.h-v1.mx.microsoft", "microsoft"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("mx01.mail.icloud.com", "apple"),
        ("mx00.ionos.de", "ionos"),
        ("mx00.kundenserver.de", "ionos"),
        ("mx1.mail.ovh.net", "ovh"),
        ("mx.yandex.net", "yandex"),
        ("emx.mail.ru", "mail_ru"),
        ("mx.zoho.eu", "zoho"),
        ("in1-smtp.messagingengine.com", "fastmail"),
        ("mail.protonmail.ch", "proton"),
        ("mxbiz1.qq.com", "tencent"),
        ("qiye163mx01.mxmail.netease.com", "netease"),
        ("mx1.naver.com", "naver"),
        ("mx1.emailsrvr.com", "rackspace"),
        ("smtp.secureserver.net", "godaddy"),
        ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
        ("mxa-00169c01.gslb.pphosted.com", "proofpoint"),
        ("d1234a.ess.barracudanetworks.com", "barracuda"),
        ("mx1.hc1234-56.iphmx.com", "cisco_ironport"),
        ("mx.example.com", OTHER),
        ("notgoogle.com", OTHER),
        ("google.com.example.net", OTHER),
        ("ec2-192-0-2-1.compute-1.amazonaws.com", OTHER),
        ("", OTHER),
        (".", OTHER),
        ("..", OTHER),
    ],
)
def test_exchangers(exchanger: str, name: str) -> None:
    assert by_mx([(10, exchanger)]) == name


def test_the_lowest_preference_decides_then_the_most_then_the_name() -> None:
    gmail, zoho, own = "aspmx.l.google.com", "mx.zoho.com", "mx.example.com"
    assert by_mx([]) == OTHER
    assert by_mx([(20, gmail), (20, gmail), (10, zoho)]) == "zoho"
    assert by_mx([(10, zoho), (10, "mx2.zoho.com"), (10, gmail)]) == "zoho"
    assert by_mx([(10, zoho), (10, gmail)]) == by_mx([(10, gmail), (10, zoho)]) == "gmail"
    assert by_mx([(10, own), (20, gmail)]) == OTHER, "mail goes to the domain's own server first"
    assert by_mx(iter([(0, gmail)])) == "gmail"


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["smtp.google.com", "mx.zoho.com", "mx.example.com", ""])))
)
def test_the_order_of_the_records_does_not_matter(records: list[tuple[int, str]]) -> None:
    assert by_mx(records) == by_mx(reversed(records)) == by_mx(sorted(records))
    assert by_mx(records) in MAILBOX_PROVIDERS


@given(st.lists(st.tuples(st.integers(), st.text())))
def test_exchangers_out_of_anything_are_bounded(records: list[tuple[int, str]]) -> None:
    assert by_mx(records) in MAILBOX_PROVIDERS


def test_a_domain_that_waits_is_shown_as_unresolved() -> None:
    assert shown("?example.net") == "unresolved"
    assert shown("gmail") == "gmail"

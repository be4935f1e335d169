"""TLSA records against the certificates that mail hosts show, over real SMTP and TLS."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.checks.dane import matches, plan
from agent.dns.follow import follow
from agent.dns.page import Fetch, failed, starttls
from agent.dns.pages import Pages
from agent.dns.resolver import Resolver
from tests.dns.zone import web
from tests.servers.smtp import mail_host
from tests.servers.tls import Authority

HOST = "mx.example.com"
OTHER = "3 1 1 " + "00" * 32


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def digest(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def own(authority: Authority) -> x509.Certificate:
    """What ``authority.server(HOST)`` last put in a file."""
    return x509.load_pem_x509_certificate((authority.folder / f"{HOST}.pem").read_bytes())


class Zone(Resolver):
    """A signed zone whose mail host is on this machine and has these TLSA records."""

    def __init__(self, *tlsa: str, signed: bool = True) -> None:
        super().__init__()
        ad = {"AD": ["y"]} if signed else {}
        self.held = web(
            {
                "example.com": {"MX": [f"10 {HOST}."], **ad}, HOST: {"A": ["127.0.0.1"]},
                f"_25._tcp.{HOST}": {"TLSA": tlsa, **ad}, "org": {"SOA": ["x"], "AD": ["y"]},
            },
            {},
        )  # fmt: skip

    async def ask(self, question: Question) -> Answer:
        return self.held(question)


async def dane(zone: Zone, port: int, *, probe: bool = True) -> Finding:
    pages = Pages(allowed=lambda address: True, smtp_port=port)
    subject = Subject("example.com", smtp_probe=probe)
    (finding,) = await follow(zone, plan(subject), pages=pages)
    return finding


async def test_records_are_held_against_what_the_host_shows(authority: Authority) -> None:
    async with mail_host(authority.server(HOST)) as port:
        shown = own(authority)
        good = [f"3 1 1 {digest(shown)}", f"3 0 2 {hashlib.sha512(shown.public_bytes(Encoding.DER)).hexdigest()}"]
        assert (await dane(Zone(OTHER, good[0]), port)).reason == "ok"
        assert (await dane(Zone(OTHER, good[1]), port)).reason == "ok"
        wrong = await dane(Zone(OTHER, "3 1 1 " + "11" * 32), port)
        assert (wrong.verdict, wrong.reason) == ("fail", "tlsa_mismatch")
        assert f"_25._tcp.{HOST} TLSA {good[0]}" in wrong.advice
        unsigned = await dane(Zone(OTHER, "3 1 1 " + "11" * 32, signed=False), port)
        assert unsigned.verdict == "warn"
        assert {p.reason for p in unsigned.problems} == {"tlsa_mismatch", "tlsa_insecure"}
        assert (await dane(Zone(OTHER, "3 1 1 " + "11" * 32), port, probe=False)).reason == "ok", "nobody asked for it"


@pytest.mark.parametrize(
    ("fault", "verdict", "reason"),
    [
        ("plain", "fail", "tlsa_no_tls"),
        ("refused", "unknown", "indeterminate"),
        ("closed", "unknown", "indeterminate"),
        ("busy", "unknown", "indeterminate"),
        ("endless", "unknown", "indeterminate"),
    ],
)
async def test_a_host_that_shows_none(authority: Authority, fault: str, verdict: str, reason: str) -> None:
    context = None if fault == "plain" else authority.server(HOST)
    greeting = {"refused": b"554 no\r\n", "endless": b"220-x\r\n" * 500}.get(fault, b"220 hello\r\n")
    begin = b"454 not now\r\n" if fault == "busy" else b"220 go\r\n"
    async with mail_host(context, greeting=greeting, begin=begin) as port:
        finding = await dane(Zone(OTHER, OTHER), 1 if fault == "closed" else port)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


async def test_no_host_inside_the_own_network_is_connected_to() -> None:
    got = await Pages(smtp_port=1).get(starttls(HOST), Zone(OTHER))
    assert got.problem == "address"


def test_usage_2_belongs_to_any_of_the_chain(authority: Authority) -> None:
    authority.server(HOST)
    chain = [own(authority), authority.certificate]
    assert matches(f"2 1 1 {digest(authority.certificate)}", chain)
    assert not matches(f"3 1 1 {digest(authority.certificate)}", chain)
    assert matches(f"3 0 0 {chain[0].public_bytes(Encoding.DER).hex().upper()}", chain)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_decides_nothing(body: bytes) -> None:
    held = Zone(OTHER, OTHER).held

    def answer(question: Question) -> Answer:
        if not isinstance(question, Fetch):
            return held(question)
        return msgspec.structs.replace(failed(question, ""), outcome=Outcome.ANSWER, status=200, body=body)

    (finding,) = drive(plan(Subject("example.com", smtp_probe=True)), answer)
    assert finding.reason == "indeterminate"

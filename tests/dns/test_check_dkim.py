"""DKIM keys of every size and shape."""

from __future__ import annotations

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dns.answer import Outcome
from agent.dns.checks.base import Finding, Subject, Verdict
from agent.dns.dkim_key import KeyRecordError, read
from tests.dns.zone import Zone, findings, txt

RSA = rsa.generate_private_key(65537, 2048).public_key()
SPKI = b64encode(RSA.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
PKCS1 = b64encode(RSA.public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode()
ED = b64encode(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def key(bits: int, exponent: int = 65537, *, even: bool = False) -> str:
    modulus = (1 << (bits - 1)) | (0 if even else 1)
    numbers = [b"\0" + n.to_bytes((n.bit_length() + 7) // 8, "big") for n in (modulus, exponent)]
    return b64encode(der(0x30, b"".join(der(0x02, n) for n in numbers))).decode()


def only(zone: Zone, selector: str = "s1") -> Finding:
    (finding,) = findings("dkim", Subject("example.com", (selector,)), zone)
    return finding


@pytest.mark.parametrize(
    ("record", "verdict", "reason"),
    [
        (f"v=DKIM1; k=rsa; p={SPKI}", "ok", "ok"),
        (f"p={SPKI}", "ok", "ok"),
        (f"k=rsa; p={PKCS1};", "ok", "ok"),
        (f"v=DKIM1;t=s;h=sha1:sha256;s=email;n=note;p={SPKI[:100]} {SPKI[100:]}", "ok", "ok"),
        (f"v=DKIM1; x=unknown; p={key(4096)}", "ok", "ok"),
        (f"p={key(1024)}", "warn", "key_weak"),
        (f"p={key(2047)}", "warn", "key_weak"),
        (f"p={key(1023)}", "fail", "key_weak"),
        (f"p={key(512)}", "fail", "key_weak"),
        (f"p={key(4097)}", "warn", "key_oversized"),
        (f"t=y; p={SPKI}", "warn", "key_testing"),
        (f"t=s:y; p={SPKI}", "warn", "key_testing"),
        (f"k=rsa; v=DKIM1; p={SPKI}", "warn", "syntax_error"),
        (f"k=ed25519; p={ED}", "warn", "ed25519_only"),
        ("v=DKIM1; p=", "fail", "key_revoked"),
        (f"h=sha1; p={SPKI}", "fail", "hash_unusable"),
        (f"s=tlsrpt; p={SPKI}", "fail", "service_excluded"),
        (f"v=DKIM2; p={SPKI}", "fail", "key_undecodable"),
        (f"v=DKIM1\\; p={SPKI}", "fail", "key_undecodable"),
        (f"k=dsa; p={SPKI}", "fail", "key_undecodable"),
        (f"p={SPKI}; p={SPKI}", "fail", "key_undecodable"),
        ("v=DKIM1; k=rsa", "fail", "key_undecodable"),
        ("v=spf1 -all", "fail", "key_undecodable"),
        ("p=!!!!", "fail", "key_undecodable"),
        ("p=AAAA", "fail", "key_undecodable"),
        (f"k=ed25519; p={SPKI}", "fail", "key_undecodable"),
        (f"p={ED}", "fail", "key_undecodable"),
        (f"p={key(2048, 1)}", "fail", "key_undecodable"),
        (f"p={key(2048, even=True)}", "fail", "key_undecodable"),
        (f"v=DKIM1; k=rsa; p={SPKI}"[:255], "fail", "key_truncated"),
        (f"p={SPKI[:240]}", "fail", "key_truncated"),
    ],
)
def test_records(record: str, verdict: str, reason: str) -> None:
    finding = only({"s1._domainkey.example.com": txt(record)})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail
    assert finding.subject == "s1"
    assert finding.records == (record,)


@pytest.mark.parametrize("cut", range(0, len(SPKI), 7))
def test_every_prefix_of_a_key_is_refused(cut: int) -> None:
    with pytest.raises(KeyRecordError):
        read(f"v=DKIM1; p={SPKI[:cut]}")


def test_sizes_are_read_from_both_encodings() -> None:
    assert [read(f"p={k}").bits for k in (SPKI, PKCS1, key(1024), key(3072))] == [2048, 2048, 1024, 3072]


def test_a_missing_key_is_a_failure_that_names_the_record() -> None:
    finding = only({"example.com": txt("x")})
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "key_missing")
    assert "s1._domainkey.example.com TXT" in finding.advice


def test_a_key_behind_cnames() -> None:
    zone: Zone = {
        "s1._domainkey.example.com": {"CNAME": ["a.esp.com"]}, "a.esp.com": {"CNAME": ["b.esp.com"]},
        "b.esp.com": txt(f"p={SPKI}"), "s2._domainkey.example.com": {"CNAME": ["gone.esp.com"]},
        "s3._domainkey.example.com": {"CNAME": ["empty.esp.com"]}, "empty.esp.com": {"A": ["192.0.2.1"]},
    }  # fmt: skip
    good, gone, empty = findings("dkim", Subject("example.com", ("s1", "s2", "s3")), zone)
    assert good.verdict is Verdict.OK
    assert "b.esp.com" in good.detail
    for finding, target in ((gone, "gone.esp.com"), (empty, "empty.esp.com")):
        assert (finding.verdict, finding.reason) == (Verdict.FAIL, "cname_dangling")
        assert target in finding.detail


def test_several_records_work_as_long_as_one_is_a_key() -> None:
    name = "s1._domainkey.example.com"
    assert only({name: txt("junk", f"p={SPKI}")}).reason == "multiple_records"
    assert only({name: txt("junk", f"p={SPKI}")}).verdict is Verdict.WARN
    assert only({name: txt("junk", "p=")}).reason == "key_revoked"


def test_ed25519_beside_rsa_is_fine() -> None:
    zone = {"a._domainkey.example.com": txt(f"k=ed25519; p={ED}"), "b._domainkey.example.com": txt(f"p={SPKI}")}
    assert [f.verdict for f in findings("dkim", Subject("example.com", ("a", "b")), zone)] == [Verdict.OK] * 2


def test_each_selector_stands_for_itself() -> None:
    zone: Zone = {"a._domainkey.example.com": txt(f"p={SPKI}"), "b._domainkey.example.com": Outcome.TIMEOUT}
    found = findings("dkim", Subject("example.com", ("a", "b", "c", "a")), zone)
    assert [(f.subject, f.verdict.value) for f in found] == [("a", "ok"), ("b", "unknown"), ("c", "fail")]


def test_without_selectors_nobody_can_tell() -> None:
    (finding,) = findings("dkim", Subject("example.com"), {})
    assert (finding.verdict, finding.reason, finding.subject) == (Verdict.UNKNOWN, "no_selectors", "")
    assert "dkim_selectors" in finding.advice
    assert "--selector" in finding.advice

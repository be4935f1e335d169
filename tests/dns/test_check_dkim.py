"""DKIM keys of every size and shape."""

from __future__ import annotations

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, Verdict, drive
from agent.dns.dkim_key import KeyRecordError, read
from agent.dns.senders import SELECTORS, SERVICES
from tests.dns.zone import Zone, answers, findings, txt

RSA = rsa.generate_private_key(65537, 2048).public_key()
SPKI = b64encode(RSA.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
PKCS1 = b64encode(RSA.public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode()
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key()
ED = b64encode(ED25519.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


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


# Selectors that nobody named


def probed(zone: Zone, *, selectors: tuple[str, ...] = (), always: bool = False) -> dict[str, Finding]:
    found = findings("dkim", Subject("example.com", selectors, probe_selectors=always), zone)
    return {f.subject: f for f in found}


def test_the_usual_selectors_are_found_without_being_named() -> None:
    zone = {
        "s1._domainkey.example.com": {"CNAME": ["s1.domainkey.u1.wl1.sendgrid.net"]},
        "s1.domainkey.u1.wl1.sendgrid.net": txt(f"p={SPKI}"),
        "google._domainkey.example.com": txt(f"v=DKIM1; k=rsa; p={key(1024)}"),
        "selector2._domainkey.example.com": {"CNAME": ["gone.onmicrosoft.com"]}, "k1._domainkey.example.com": txt("p="),
        "mx._domainkey.example.com": txt("v=spf1 -all"), "api._domainkey.example.com": txt(f"h=sha1; p={SPKI}"),
    }  # fmt: skip
    found = probed(zone)
    assert {s: (f.verdict, f.reason) for s, f in found.items()} == {
        "s1": ("ok", "ok"), "google": ("warn", "key_weak"), "api": ("warn", "hash_unusable"),
    }  # fmt: skip
    assert "SendGrid uses this selector" in found["s1"].detail
    assert "dkim_selectors" in found["s1"].detail


def test_configured_selectors_are_not_probed_beside_unless_asked() -> None:
    zone = {"own._domainkey.example.com": txt(f"p={SPKI}"), "google._domainkey.example.com": txt(f"p={SPKI}")}
    assert list(probed(zone, selectors=("own",))) == ["own"]
    assert list(probed(zone, selectors=("own",), always=True)) == ["own", "google"]
    assert "usual name" not in probed(zone, selectors=("google",), always=True)["google"].detail


def test_a_wildcard_does_not_look_like_a_hundred_keys() -> None:
    def wild(question: Question) -> Answer:
        if question.name == "google._domainkey.example.com":
            return Answer(question, Outcome.ANSWER, (f"p={SPKI}",))
        return Answer(question, Outcome.ANSWER, (f"v=DKIM1; p={key(3072)}",))

    found = drive(CHECKS["dkim"].plan(Subject("example.com")), wild)
    assert [(f.subject, f.verdict) for f in found] == [("google", Verdict.OK)]


def test_without_an_answer_about_the_wildcard_nothing_is_concluded() -> None:
    def half(question: Question) -> Answer:
        known = "no-such-selector" not in question.name
        return Answer(question, Outcome.ANSWER if known else Outcome.TIMEOUT, (f"p={SPKI}",) if known else ())

    (finding,) = drive(CHECKS["dkim"].plan(Subject("example.com")), half)
    assert (finding.subject, finding.verdict, finding.reason) == ("", Verdict.UNKNOWN, "indeterminate")


def test_nothing_below_domainkey_ends_the_search_at_once() -> None:
    asked: list[Question] = []

    def nothing(question: Question) -> Answer:
        asked.append(question)
        return Answer(question, Outcome.NXDOMAIN)

    (finding,) = drive(CHECKS["dkim"].plan(Subject("example.com")), nothing)
    assert (finding.verdict, finding.reason, len(asked)) == (Verdict.UNKNOWN, "no_selectors", 2)
    assert "Nothing at all exists below _domainkey.example.com" in finding.detail


def test_none_of_the_usual_selectors_proves_nothing() -> None:
    (finding,) = probed({"odd._domainkey.example.com": txt(f"p={SPKI}")}).values()
    assert (finding.verdict, finding.reason) == (Verdict.UNKNOWN, "no_selectors")
    assert "proves nothing" in finding.detail


def test_the_search_is_bounded_and_no_selector_has_two_services() -> None:
    assert len(SERVICES) == sum(map(len, SELECTORS.values())) <= 100


def test_a_parked_domain_needs_no_key() -> None:
    (finding,) = findings("dkim", Subject("example.com", parked=True), {})
    assert (finding.verdict, finding.subject) == (Verdict.OK, "")
    (configured,) = findings("dkim", Subject("example.com", ("s1",), parked=True), {})
    assert configured.reason == "key_missing"


# Delegation and zone files


def test_a_long_chain_and_a_long_ttl_are_pointed_out() -> None:
    zone: Zone = {"s1._domainkey.example.com": {"CNAME": ["a.com"]}, "a.com": {"CNAME": ["b.com"]},
                  "b.com": {"CNAME": ["c.com"]}, "c.com": txt(f"p={SPKI}")}  # fmt: skip
    assert (only(zone).verdict, only(zone).reason) == (Verdict.WARN, "cname_chain")
    near = {**zone, "a.com": {"CNAME": ["c.com"]}}
    assert only(near).verdict is Verdict.OK
    for ttl, reason in ((86400, "ok"), (86401, "key_ttl")):
        (finding,) = drive(CHECKS["dkim"].plan(Subject("example.com", ("s1",))), answers(near, ttl))
        assert finding.reason == reason


def test_a_zone_name_added_twice_is_seen() -> None:
    zone = {"s1._domainkey.example.com.example.com": txt(f"p={SPKI}"), "example.com": txt("x")}
    finding = only(zone)
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "wrong_location")
    assert f'Move it: s1._domainkey.example.com TXT "p={SPKI}"' == finding.advice


@pytest.mark.parametrize("record", [f"v=DKIM1\\; k=rsa\\; p={SPKI}", f'"v=DKIM1; p={SPKI}"'])
def test_what_belongs_to_the_zone_file_is_named(record: str) -> None:
    finding = only({"s1._domainkey.example.com": txt(record)})
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "key_undecodable")
    assert "quotes or backslashes" in finding.detail


# RFC 6376, 8301 and 8463, clause by clause


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        # 3.2: tag lists
        (f"v=DKIM1;p={SPKI};", "ok"), (f" v = DKIM1 ; p = {SPKI} ", "ok"), (f"v=DKIM1;;p={SPKI}", "key_undecodable"),
        (f"P={SPKI}", "key_undecodable"), (f"V=DKIM1; p={SPKI}", "ok"), (f"p={SPKI}; p={SPKI}", "key_undecodable"),
        (f"p={SPKI}; =x", "key_undecodable"), (f"p={SPKI}; x", "key_undecodable"), (f"zz=; p={SPKI}", "ok"),
        # 3.6.1 v: first and exact
        (f"v=dkim1; p={SPKI}", "key_undecodable"), (f"v=DKIM1.0; p={SPKI}", "key_undecodable"),
        (f"p={SPKI}; v=DKIM1", "syntax_error"),
        # 3.6.1 h
        (f"h=sha256; p={SPKI}", "ok"), (f"h= sha1 : sha256 ; p={SPKI}", "ok"), (f"h=sha512; p={SPKI}", "hash_unusable"),
        (f"h=; p={SPKI}", "hash_unusable"),
        # 3.6.1 k
        (f"k=rsa; p={SPKI}", "ok"), (f"k=x; p={SPKI}", "key_undecodable"), (f"k=ed25519; p={ED}", "ed25519_only"),
        # 3.6.1 n, and g of RFC 4871
        (f"n=what=ever:we like; p={SPKI}", "ok"), (f"g=*; p={SPKI}", "ok"), (f"g=; p={SPKI}", "ok"),
        # 3.6.1 p: empty is revoked, folded is fine
        (f"p={SPKI[:64]}\r\n\t{SPKI[64:]}", "ok"), ("p=", "key_revoked"), ("v=DKIM1; k=ed25519; p= ", "key_revoked"),
        # 3.6.1 s
        (f"s=*; p={SPKI}", "ok"), (f"s=email; p={SPKI}", "ok"), (f"s=other:email; p={SPKI}", "ok"),
        (f"s=other; p={SPKI}", "service_excluded"),
        # 3.6.1 t: unknown flags are ignored
        (f"t=; p={SPKI}", "ok"), (f"t=s; p={SPKI}", "ok"), (f"t=x:z; p={SPKI}", "ok"),
        (f"t=x:y; p={SPKI}", "key_testing"),
        # RFC 8301 3.2
        (f"p={key(1024)}", "key_weak"), (f"p={key(2048)}", "ok"), (f"p={key(4096)}", "ok"),
        (f"p={key(8192)}", "key_oversized"),
        # RFC 8463 4.2: the bare 32 octets
        (f"k=ed25519; p={b64encode(b'x' * 31).decode()}", "key_undecodable"),
        (f"k=ed25519; p={b64encode(b'x' * 33).decode()}", "key_undecodable"),
    ],
)  # fmt: skip
def test_rfc_6376_3_6_1(record: str, reason: str) -> None:
    assert only({"s1._domainkey.example.com": txt(record)}).reason == reason


def test_3_1_selectors_may_have_dots() -> None:
    assert only({"a.b._domainkey.example.com": txt(f"p={SPKI}")}, "a.b").verdict is Verdict.OK


def test_3_6_1_t_s_is_told() -> None:
    assert "not for subdomains (t=s)" in only({"s1._domainkey.example.com": txt(f"t=s; p={SPKI}")}).detail

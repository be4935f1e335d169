"""Messages on the wire, held against dnspython's reading of the same octets."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.answer import Question
from agent.dns.message import AA, AD, CD, NUMBERS, RD, minimum, query, response, signature

RECORDS = {
    "A": "192.0.2.1", "AAAA": "2001:DB8::1", "NS": "NS.a.test.", "CNAME": "Other.a.test.", "PTR": "Host.a.test.",
    "MX": "10 MX.a.test.", "TXT": '"v=spf1 " "-all" ""', "SPF": '"x"', "SRV": "0 5 443 H.a.test.",
    "SOA": "ns.a.test. Host.a.test. 7 1 2 3 4294967295", "DS": "12345 13 2 " + "AB" * 32,
    "DNSKEY": "257 3 13 AQIDBAUGBwg=", "TLSA": "3 1 1 " + "0aF0" * 16, "CAA": '0 issue "ca.example"',
    "HTTPS": '1 . alpn="h2"',
}  # fmt: skip
TEXTS = {
    "AAAA": "2001:db8::1", "NS": "ns.a.test", "CNAME": "other.a.test", "PTR": "host.a.test", "MX": "10 mx.a.test.",
    "TXT": "v=spf1 -all", "SPF": "x", "SRV": "0 5 443 h.a.test.", "DS": "12345 13 2 " + "ab" * 32,
    "SOA": "ns.a.test host.a.test 7 1 2 3 4294967295", "TLSA": "3 1 1 " + "0af0" * 16,
}  # fmt: skip
ASKED = Question("a.test", "TXT")
SENT = query(ASKED, 7, RD, 1232)


def answer(kind: str, ttl: int = 300) -> dns.message.Message:
    made = dns.message.make_response(dns.message.from_wire(query(Question("a.test", kind), 7, RD, 1232)))
    made.flags |= dns.flags.AA
    made.answer.append(dns.rrset.from_text("A.test.", ttl, "IN", kind, RECORDS[kind]))
    made.authority.append(dns.rrset.from_text("test.", 60, "IN", "SOA", "ns.test. h.test. 1 2 3 4 50"))
    return made


@pytest.mark.parametrize("kind", RECORDS)
def test_every_type_reads_as_documented_with_names_compressed(kind: str) -> None:
    assert NUMBERS[kind] == dns.rdatatype.from_text(kind)
    got = response(query(Question("a.test", kind), 7, RD, 1232), answer(kind).to_wire())
    assert got is not None
    (record,) = got.answer
    assert (record.name, record.ttl, got.rcode) == ("a.test", 300, 0)
    assert got.flags & AA
    assert got.text(record) == TEXTS.get(kind, RECORDS[kind])
    assert minimum(got, got.authority[0]) == 50


def test_a_signature_tells_what_it_covers_and_for_how_long() -> None:
    made = answer("TXT")
    text = "TXT 13 2 300 20380119031408 20260101000000 12345 test. AQIDBA=="
    made.answer.append(dns.rrset.from_text("a.test.", 300, "IN", "RRSIG", text))
    got = response(SENT, made.to_wire())
    assert got is not None
    assert signature(got, got.answer[1]) == (16, 1767225600.0, 2147483648.0)
    assert signature(got, msgspec.structs.replace(got.answer[1], end=got.answer[1].start + 17)) == (0, 0.0, 0.0)


@pytest.mark.parametrize("flags", [0, RD, RD | AD | CD])
@pytest.mark.parametrize("payload", [0, 1232])
@pytest.mark.parametrize("dnssec", [False, True])
def test_a_query_is_what_another_reader_takes_it_for(flags: int, payload: int, dnssec: bool) -> None:
    read = dns.message.from_wire(query(Question("x_y.a.test", "TLSA", dnssec=dnssec), 513, flags, payload))
    assert (read.id, int(read.flags), read.payload) == (513, flags, payload)
    assert str(read.question[0]) == "x_y.a.test. IN TLSA"
    assert bool(read.ednsflags & dns.flags.DO) is (dnssec and payload > 0)


def test_what_answers_another_query_is_none() -> None:
    good = answer("TXT")
    assert response(SENT, good.to_wire())
    for other in (query(ASKED, 8, RD, 1232), query(Question("b.test", "TXT"), 7, RD, 1232), query(
        Question("a.test", "SPF"), 7, RD, 1232
    )):  # fmt: skip
        assert response(other, good.to_wire()) is None
    assert response(SENT, SENT) is None, "a query is no response"
    upper = dns.message.make_response(dns.message.make_query("A.TEST", "TXT", id=7))
    assert response(SENT, upper.to_wire())


@pytest.mark.parametrize("code", range(1, 24))
def test_response_codes_beyond_fifteen_and_questions_left_out(code: int) -> None:
    refused = dns.message.make_response(dns.message.from_wire(SENT))
    refused.set_rcode(dns.rcode.Rcode(code)) if code in set(dns.rcode.Rcode) else refused.set_rcode(dns.rcode.BADVERS)
    got = response(SENT, refused.to_wire())
    assert got is not None
    assert got.rcode == refused.rcode()
    refused.question.clear()
    assert (response(SENT, refused.to_wire()) is not None) is (refused.rcode() in (1, 2, 4, 5))


def test_a_ttl_with_the_highest_bit_is_zero() -> None:
    wire = answer("TXT", ttl=0x7FFFFFFF).to_wire()
    assert response(SENT, wire).answer[0].ttl == 0x7FFFFFFF  # type: ignore[union-attr]
    assert response(SENT, wire.replace(b"\x7f\xff\xff\xff", b"\x80\0\0\0")).answer[0].ttl == 0  # type: ignore[union-attr]


def test_names_that_never_end_are_refused() -> None:
    head = SENT[:2] + b"\x80\0\0\1\0\0\0\0\0\0"
    for name in (b"\xc0\x0c", b"\1a\xc0\x0c", b"\xc0\xff", b"\x40a\0", b"\x3f" + b"a" * 20, b"\1a" * 130 + b"\0"):
        with pytest.raises(ValueError):
            response(SENT, head + name + SENT[-15:-11])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_broken_octets_never_crash_and_what_dnspython_reads_reads_the_same(kind: str, data: st.DataObject) -> None:
    wire = bytearray(answer(kind).to_wire())
    for _ in range(data.draw(st.integers(0, 3))):
        wire[data.draw(st.integers(12, len(wire) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(wire[: data.draw(st.integers(0, len(wire)))] if data.draw(st.booleans()) else wire)
    sent = query(Question("a.test", kind), 7, RD, 1232)
    try:
        theirs = dns.message.from_wire(broken)
    except Exception:
        theirs = None
    try:
        ours = response(sent, broken)
        texts = [ours.text(r) for r in ours.answer if r.type == NUMBERS[kind]] if ours else []
    except (ValueError, dns.exception.DNSException):
        assert theirs is None or not dns.message.from_wire(sent).is_response(theirs)
        return
    if theirs is None:
        return  # ours passes over what nobody asked for
    assert (ours is not None) is dns.message.from_wire(sent).is_response(theirs)
    if ours is None:
        return
    assert (ours.rcode, ours.flags) == (theirs.rcode(), int(theirs.flags))
    found = [str(rdata) for rrset in theirs.answer if rrset.rdtype == NUMBERS[kind] for rdata in rrset]
    assert len(set(texts)) == len(found)

"""One question to one name server, with the flags that c-ares hides: over UDP, and over TCP what does not fit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from agent.dns.answer import Answer, Outcome, Question

PAYLOAD = 1232  # octets of UDP: what passes without fragments (DNS flag day 2020)

_RCODES = {
    dns.rcode.NXDOMAIN: Outcome.NXDOMAIN,
    dns.rcode.SERVFAIL: Outcome.SERVFAIL,
    dns.rcode.REFUSED: Outcome.REFUSED,
    dns.rcode.NOTAUTH: Outcome.REFUSED,
    dns.rcode.NOTIMP: Outcome.REFUSED,
}
_WITHOUT_EDNS = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)  # how servers from before 1999 take EDNS


async def exchange(
    question: Question, host: str, port: int, *, seconds: float, recurse: bool = True, unchecked: bool = False
) -> Answer:
    """Ask the server at an IP address, once. ``seconds`` is the limit of all of it. ``recurse`` sets RD, ``unchecked``
    sets CD (RFC 4035 section 3.2.2). Without ``recurse`` only an authoritative answer counts, the rest is ``lame``;
    a referral for the name of an NS question then shows the delegation's servers as ``records``. An authoritative
    server does not follow a CNAME out of its zones: of the last name in ``cnames`` its ``nodata`` says nothing.

    Every question has a socket, and so a random port, of its own, connected, so that only its server can answer;
    what bears another id or another question is passed over (RFC 5452).
    """
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = dns.name.Name([*(label.encode("ascii") for label in question.name.split(".")), b""])
    message = dns.message.make_query(name, question.type, use_edns=0, payload=PAYLOAD, want_dnssec=question.dnssec)
    if not recurse:
        message.flags &= ~dns.flags.RD
    if question.dnssec:
        message.flags |= dns.flags.AD
    if unchecked:
        message.flags |= dns.flags.CD
    garbled: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            response = await _ask(message, host, port, seconds, garbled)
            if response.rcode() in _WITHOUT_EDNS and not question.dnssec:
                message.use_edns(False)
                response = await _ask(message, host, port, seconds, garbled)
    except (TimeoutError, dns.exception.Timeout):
        return Answer(question, Outcome.MALFORMED if garbled else Outcome.TIMEOUT, server=server)
    except (OSError, EOFError):
        return Answer(question, Outcome.UNREACHABLE, server=server)
    except (dns.exception.DNSException, ValueError):
        return Answer(question, Outcome.MALFORMED, server=server)
    return _read(question, response, server, direct=not recurse)


async def _ask(
    message: dns.message.QueryMessage, host: str, port: int, seconds: float, garbled: list[bytes]
) -> dns.message.Message:
    response = await _udp(message, host, port, garbled)
    if response.flags & dns.flags.TC:
        response = await dns.asyncquery.tcp(message, host, seconds, port)
    return response


async def _udp(message: dns.message.QueryMessage, host: str, port: int, garbled: list[bytes]) -> dns.message.Message:
    wire = message.to_wire()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        s.connect((host, port))
        await loop.sock_sendall(s, wire)
        while True:
            data = await loop.sock_recv(s, 65535)
            # A reader may fail on hostile octets in any way; what cannot be read is not the answer.
            with contextlib.suppress(Exception):
                response = dns.message.from_wire(data, ignore_trailing=True)
                if message.is_response(response):
                    return response
                continue
            # Cut off within a record, as a few servers do; or nonsense from the right server.
            if data[:2] == wire[:2] and len(data) > 3:
                if data[2] & 0x02:
                    response = dns.message.make_response(message)
                    response.flags |= dns.flags.TC
                    return response
                garbled.append(data[:2])


def _read(question: Question, response: dns.message.Message, server: str, *, direct: bool) -> Answer:
    authoritative = bool(response.flags & dns.flags.AA)
    authentic = bool(response.flags & dns.flags.AD)
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(question, _RCODES.get(rcode, Outcome.MALFORMED), server=server)
    wanted = dns.rdatatype.from_text(question.type)
    sets = {(name_text(rrset.name), rrset.rdtype): rrset for rrset in response.answer}
    chain: list[str] = []
    name = question.name.lower()
    while wanted != dns.rdatatype.CNAME and (alias := sets.get((name, dns.rdatatype.CNAME))) is not None:
        name = name_text(alias[0].target)
        if name in chain or name == question.name.lower():
            break
        chain.append(name)
    found = sets.get((name, wanted))
    ttls = [rrset.ttl for rrset in response.answer]
    records = tuple(map(record_text, found)) if found is not None else ()
    if direct and not authoritative:
        if wanted == dns.rdatatype.NS and not records:
            delegation = [r for r in response.authority if r.rdtype == wanted and name_text(r.name) == name]
            records = tuple(record_text(rdata) for rrset in delegation for rdata in rrset)
            ttls = [rrset.ttl for rrset in delegation]
        outcome = Outcome.LAME
    elif records:
        outcome = Outcome.ANSWER
    else:
        outcome = Outcome.NXDOMAIN if rcode == dns.rcode.NXDOMAIN else Outcome.NODATA
        soas = [rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.SOA]
        ttls += [min(rrset.ttl, rrset[0].minimum) for rrset in soas]
        if not soas:
            ttls = []  # a negative answer without SOA may not be kept (RFC 2308 section 5)
    signed, at = (_signed(response, name, wanted), time.time()) if question.dnssec else ((0.0, 0.0), 0.0)
    return Answer(
        question, outcome, records, tuple(chain), min(ttls, default=0), server, authoritative, authentic, signed, at
    )


def _signed(response: dns.message.Message, name: str, type_: int) -> tuple[float, float]:
    """Inception and end of the signature over a record set that lasts longest (RFC 4034 section 3.1.5)."""
    spans = [
        (float(rdata.inception), float(rdata.expiration))
        for rrset in response.answer
        if rrset.rdtype == dns.rdatatype.RRSIG and rrset.covers == type_ and name_text(rrset.name) == name
        for rdata in rrset
    ]
    return max(spans, key=lambda span: span[1], default=(0.0, 0.0))


def record_text(rdata: Any) -> str:
    """A record as ``Answer.records`` has it."""
    match rdata.rdtype:
        case dns.rdatatype.TXT | dns.rdatatype.SPF:
            return b"".join(rdata.strings).decode("latin-1")
        case dns.rdatatype.MX:
            return f"{rdata.preference} {name_text(rdata.exchange)}."
        case dns.rdatatype.NS | dns.rdatatype.CNAME | dns.rdatatype.PTR:
            return name_text(rdata.target)
        case dns.rdatatype.SOA:
            times = f"{rdata.serial} {rdata.refresh} {rdata.retry} {rdata.expire} {rdata.minimum}"
            return f"{name_text(rdata.mname)} {name_text(rdata.rname)} {times}"
        case dns.rdatatype.SRV:
            return f"{rdata.priority} {rdata.weight} {rdata.port} {name_text(rdata.target)}."
        case dns.rdatatype.TLSA:
            return f"{rdata.usage} {rdata.selector} {rdata.mtype} {rdata.cert.hex()}"
        case dns.rdatatype.DS:
            return f"{rdata.key_tag} {rdata.algorithm} {rdata.digest_type} {rdata.digest.hex()}"
        case dns.rdatatype.DNSKEY:
            key = base64.b64encode(rdata.key).decode("ascii")
            return f"{int(rdata.flags)} {rdata.protocol} {int(rdata.algorithm)} {key}"
        case _:
            return str(rdata.to_text())


def name_text(name: Any) -> str:
    """A name without trailing dot, in lower case, labels as they are on the wire."""
    return ".".join(label.decode("latin-1") for label in name.labels if label).lower()

"""What c-ares returns, read into answers."""

from __future__ import annotations

from typing import Any

import pycares

from agent.dns.answer import Answer, Outcome, Question

OUTCOMES = {
    pycares.errno.ARES_ENODATA: Outcome.NODATA,
    pycares.errno.ARES_EFORMERR: Outcome.MALFORMED,
    pycares.errno.ARES_ESERVFAIL: Outcome.SERVFAIL,
    pycares.errno.ARES_ENOTFOUND: Outcome.NXDOMAIN,
    pycares.errno.ARES_ENOTIMP: Outcome.REFUSED,
    pycares.errno.ARES_EREFUSED: Outcome.REFUSED,
    pycares.errno.ARES_EBADNAME: Outcome.MALFORMED,
    pycares.errno.ARES_EBADRESP: Outcome.MALFORMED,
    pycares.errno.ARES_ECONNREFUSED: Outcome.UNREACHABLE,
    pycares.errno.ARES_ETIMEOUT: Outcome.TIMEOUT,
}
TYPES = {
    "A": pycares.QUERY_TYPE_A,
    "AAAA": pycares.QUERY_TYPE_AAAA,
    "CNAME": pycares.QUERY_TYPE_CNAME,
    "MX": pycares.QUERY_TYPE_MX,
    "NS": pycares.QUERY_TYPE_NS,
    "PTR": pycares.QUERY_TYPE_PTR,
    "SOA": pycares.QUERY_TYPE_SOA,
    "TXT": pycares.QUERY_TYPE_TXT,
}


def read(question: Question, result: pycares.DNSResult, server: str) -> Answer:
    """The answer of a query that c-ares calls a success."""
    # A CNAME that leads nowhere comes back as a success without records of the type asked for.
    type_, answer = TYPES[question.type], result.answer
    wanted = [record for record in answer if record.type == type_]
    chain = _chain(question.name, result) if len(wanted) < len(answer) and question.type != "CNAME" else ()
    return Answer(
        question,
        Outcome.ANSWER if wanted else Outcome.NODATA,
        tuple([_text(question.type, record.data) for record in wanted]),
        chain,
        min([record.ttl for record in answer], default=0),
        server,
    )


def _chain(name: str, result: pycares.DNSResult) -> tuple[str, ...]:
    hops = {
        _name(record.name): _name(record.data.cname)  # type: ignore[union-attr]
        for record in result.answer
        if record.type == pycares.QUERY_TYPE_CNAME
    }
    chain: list[str] = []
    while name in hops and hops[name] not in chain:
        name = hops[name]
        chain.append(name)
    return tuple(chain)


def _text(type_: str, data: Any) -> str:
    match type_:
        case "A" | "AAAA":
            return str(data.addr)
        case "CNAME":
            return _name(data.cname)
        case "MX":
            return f"{data.priority} {_name(data.exchange)}."
        case "NS":
            return _name(data.nsdname)
        case "PTR":
            return _name(data.dname)
        case "TXT":
            return str(data.data.decode("latin-1"))
        case _:
            times = f"{data.serial} {data.refresh} {data.retry} {data.expire} {data.minimum}"
            return f"{_name(data.mname)} {_name(data.rname)} {times}"


def _name(value: str | bytes) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.rstrip(".").lower()

"""One question to one name server, with the flags that c-ares hides: over UDP, and over TCP what does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable

import dns.exception

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.message import (
    AA,
    AD,
    CD,
    CNAME,
    NS,
    NUMBERS,
    RD,
    RRSIG,
    SOA,
    TC,
    Message,
    minimum,
    query,
    response,
    signature,
)

PAYLOAD = 1232  # octets of UDP: what passes without fragments (DNS flag day 2020)

_NOERROR, _FORMERR, _SERVFAIL, _NXDOMAIN, _NOTIMP, _REFUSED, _NOTAUTH, _BADVERS = 0, 1, 2, 3, 4, 5, 9, 16
_RCODES = {
    _NXDOMAIN: Outcome.NXDOMAIN,
    _SERVFAIL: Outcome.SERVFAIL,
    _REFUSED: Outcome.REFUSED,
    _NOTAUTH: Outcome.REFUSED,
    _NOTIMP: Outcome.REFUSED,
}
_WITHOUT_EDNS = (_FORMERR, _NOTIMP, _BADVERS)  # how servers from before 1999 take EDNS


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
    flags = (RD if recurse else 0) | (AD if question.dnssec else 0) | (CD if unchecked else 0)
    number = secrets.randbits(16)
    sent = query(question, number, flags, PAYLOAD)
    garbled: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            got = await _ask(sent, host, port, garbled)
            if got.rcode in _WITHOUT_EDNS and not question.dnssec:
                got = await _ask(query(question, number, flags, 0), host, port, garbled)
        return _read(question, got, server, direct=not recurse)
    except TimeoutError:
        return Answer(question, Outcome.MALFORMED if garbled else Outcome.TIMEOUT, server=server)
    except (OSError, EOFError):
        return Answer(question, Outcome.UNREACHABLE, server=server)
    except (dns.exception.DNSException, ValueError):
        return Answer(question, Outcome.MALFORMED, server=server)


async def _ask(sent: bytes, host: str, port: int, garbled: list[bytes]) -> Message:
    got = await _udp(sent, host, port, garbled)
    return got if got is not None else await _tcp(sent, host, port)


async def _tcp(sent: bytes, host: str, port: int) -> Message:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(len(sent).to_bytes(2) + sent)
        got = response(sent, await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        if got is None:
            raise ValueError("the answer to another question")
        return got
    finally:
        writer.close()


async def _udp(sent: bytes, host: str, port: int, garbled: list[bytes]) -> Message | None:
    """The answer; ``None`` when it was cut off."""
    came: asyncio.Future[Message | OSError | None] = asyncio.get_running_loop().create_future()

    def then(got: Message | OSError | None) -> None:
        if not came.done():
            came.set_result(got)

    datagram = _Datagram(sent, host, port, then, garbled)
    try:
        got = await came
    finally:
        datagram.close()
    if isinstance(got, OSError):
        raise got
    return got


class _Datagram:
    """A query on its way over UDP. ``then`` is told the answer, ``None`` when it was cut off. What comes and cannot be
    read is noted in ``garbled``. Raises ``OSError``."""

    def __init__(
        self,
        sent: bytes,
        host: str,
        port: int,
        then: Callable[[Message | OSError | None], None],
        garbled: list[bytes],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sent, self._then, self._garbled = sent, then, garbled
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._number = self._socket.fileno()
        try:
            self._socket.setblocking(False)
            self._socket.connect((host, port))
            self._socket.send(sent)
        except BaseException:
            self._socket.close()
            raise
        self._loop.add_reader(self._number, self._ready)

    def _ready(self) -> None:
        try:
            data = self._socket.recv(65535)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        # What cannot be read is not the answer.
        with contextlib.suppress(ValueError):
            if got := response(self._sent, data):
                self._end(None if got.flags & TC else got)
            return
        # Cut off within a record, as a few servers do; or nonsense from the right server.
        if data[:2] == self._sent[:2] and len(data) > 3:
            if data[2] & 0x02:
                self._end(None)
            else:
                self._garbled.append(data[:2])

    def _end(self, got: Message | OSError | None) -> None:
        self.close()
        self._then(got)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._number)
            self._socket.close()


class Asked:
    """A question to one server as ``exchange`` asks it, with recursion and over UDP alone, that needs no task. ``then``
    is told the answer in a later turn of the loop; ``None`` when only ``exchange`` can get it: what does not fit a
    datagram, and from a server that does not know EDNS."""

    def __init__(
        self, question: Question, host: str, port: int, *, seconds: float, then: Callable[[Answer | None], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._question, self._then = question, then
        self._server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._garbled: list[bytes] = []
        self._datagram: _Datagram | None = None
        sent = query(question, secrets.randbits(16), RD | (AD if question.dnssec else 0), PAYLOAD)
        try:
            self._datagram = _Datagram(sent, host, port, self._came, self._garbled)
        except OSError:
            loop.call_soon(self._end, Answer(question, Outcome.UNREACHABLE, server=self._server))
        self._late = loop.call_later(seconds, self._too_late)

    def _came(self, got: Message | OSError | None) -> None:
        if isinstance(got, OSError):
            answer: Answer | None = Answer(self._question, Outcome.UNREACHABLE, server=self._server)
        elif got is None or (got.rcode in _WITHOUT_EDNS and not self._question.dnssec):
            answer = None
        else:
            try:
                answer = _read(self._question, got, self._server, direct=False)
            except (dns.exception.DNSException, ValueError):
                answer = Answer(self._question, Outcome.MALFORMED, server=self._server)
        self._end(answer)

    def _too_late(self) -> None:
        outcome = Outcome.MALFORMED if self._garbled else Outcome.TIMEOUT
        self._end(Answer(self._question, outcome, server=self._server))

    def _end(self, answer: Answer | None) -> None:
        self._late.cancel()
        if self._datagram is not None:
            self._datagram.close()
        self._then(answer)

    def close(self) -> None:
        """It ends as ``unreachable``."""
        self._end(Answer(self._question, Outcome.UNREACHABLE, server=self._server))


def _read(question: Question, got: Message, server: str, *, direct: bool) -> Answer:
    authoritative = bool(got.flags & AA)
    if got.rcode not in (_NOERROR, _NXDOMAIN):
        return Answer(question, _RCODES.get(got.rcode, Outcome.MALFORMED), server=server)
    wanted, name = NUMBERS[question.type], question.name.lower()
    chain: list[str] = []
    if wanted != CNAME:
        aliases = {record.name: record for record in got.answer if record.type == CNAME}
        while (alias := aliases.get(name)) is not None:
            name = got.text(alias)
            if name in chain or name == question.name.lower():
                break
            chain.append(name)
    records = tuple(dict.fromkeys([got.text(r) for r in got.answer if r.type == wanted and r.name == name]))
    ttls = [record.ttl for record in got.answer]
    if direct and not authoritative:
        if wanted == NS and not records:
            delegation = [r for r in got.authority if r.type == NS and r.name == name]
            records = tuple(dict.fromkeys(map(got.text, delegation)))
            ttls = [record.ttl for record in delegation]
        outcome = Outcome.LAME
    elif records:
        outcome = Outcome.ANSWER
    else:
        outcome = Outcome.NXDOMAIN if got.rcode == _NXDOMAIN else Outcome.NODATA
        soas = [record for record in got.authority if record.type == SOA]
        # A negative answer without SOA may not be kept (RFC 2308 section 5).
        ttls = [*ttls, *(min(soa.ttl, minimum(got, soa)) for soa in soas)] if soas else []
    signed, at = (_signed(got, name, wanted), time.time()) if question.dnssec else ((0.0, 0.0), 0.0)
    return Answer(
        question, outcome, records, tuple(chain), min(ttls, default=0), server, authoritative, bool(got.flags & AD),
        signed, at,
    )  # fmt: skip


def _signed(got: Message, name: str, type_: int) -> tuple[float, float]:
    """Inception and end of the signature over a record set that lasts longest."""
    seen = [signature(got, record) for record in got.answer if record.type == RRSIG and record.name == name]
    spans = [(inception, end) for covers, inception, end in seen if covers == type_]
    return max(spans, key=lambda span: span[1], default=(0.0, 0.0))

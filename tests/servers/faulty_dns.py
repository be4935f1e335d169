"""A name server on loopback that errs as it is told: lost, late, forged, cut off, lame, rewritten, stale answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Records = Mapping[str, Mapping[str, Sequence[str]]]  # name -> type -> records in master-file form

# What the server makes of a query and the true answer; ``None`` is silence. ``tcp`` tells how it came.
Fault = Callable[["FaultyDns", dns.message.Message, dns.message.Message, bool], "bytes | list[bytes] | None"]


class FaultyDns:
    """Answers for the zones whose apexes are ``zones``, truthfully until ``fault`` says otherwise. ``recursive``
    answers as a resolver does: without AA, whatever is asked for."""

    def __init__(
        self, records: Records, *, zones: Sequence[str] = ("test",), ttl: int = 300, recursive: bool = False
    ) -> None:
        self.records: Records = records
        self.zones, self.ttl, self.recursive = zones, ttl, recursive
        self.fault: Fault | None = None
        self.asked: Counter[tuple[str, str]] = Counter()
        self.queries: list[dns.message.Message] = []
        self.ports: set[int] = set()
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> FaultyDns:
        for _ in range(50):
            self._tcp = await asyncio.start_server(self._stream, "127.0.0.1", self.port)
            port = self._tcp.sockets[0].getsockname()[1]
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), ("127.0.0.1", port))
                self.port = port
                return self
            self._tcp.close()
        raise RuntimeError("no port is free for both UDP and TCP")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.close()
        self._tcp.close()

    def truth(self, query: dns.message.Message) -> dns.message.Message:
        """The true answer to a query."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA if self.recursive else dns.flags.AA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        if not any(name == zone or name.endswith("." + zone) for zone in self.zones):
            response.flags &= ~dns.flags.AA
            response.set_rcode(dns.rcode.REFUSED)
            return response
        kind = dns.rdatatype.to_text(question.rdtype)
        for _ in range(8):
            held = self.records.get(name, {})
            if kind in held or "CNAME" not in held:
                break
            response.answer.append(self._set(name, "CNAME", held["CNAME"]))
            name = held["CNAME"][0].rstrip(".")
        if kind in held:
            response.answer.append(self._set(name, kind, held[kind]))
        else:
            if name not in self.records and not any(other.endswith("." + name) for other in self.records):
                response.set_rcode(dns.rcode.NXDOMAIN)
            zone = max((z for z in self.zones if name == z or name.endswith("." + z)), key=len, default=self.zones[0])
            response.authority.append(self._set(zone, "SOA", [f"ns.{zone}. h.{zone}. 1 60 60 60 {self.ttl}"]))
        return response

    def _set(self, name: str, kind: str, texts: Sequence[str]) -> dns.rrset.RRset:
        return dns.rrset.from_text_list(name + ".", self.ttl, "IN", kind, list(texts))

    def replies(self, wire: bytes, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked[question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)] += 1
        self.queries.append(query)
        truth = self.truth(query)
        made = self.fault(self, query, truth, tcp) if self.fault else truth.to_wire()
        return [] if made is None else [made] if isinstance(made, bytes) else made

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                for reply in self.replies(await reader.readexactly(length), tcp=True):
                    writer.write(struct.pack("!H", len(reply)) + reply)
        writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: FaultyDns) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.ports.add(addr[1])
        for reply in self._server.replies(data, tcp=False):
            self._transport.sendto(reply, addr)


# Faults


def silent(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> None:
    return None


def rcode(code: int) -> Fault:
    """Every question ends in this code."""

    def fault(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.Rcode(code))
        return response.to_wire()

    return fault


def truncated(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes:
    """Nothing but TC by UDP, the whole by TCP."""
    if tcp:
        return truth.to_wire()
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response.to_wire()


def forged(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> list[bytes]:
    """Before the truth: nonsense, another id, another question, and an answer from another port."""
    lie = dns.message.make_response(query)
    lie.set_rcode(dns.rcode.NXDOMAIN)
    other_id = struct.pack("!H", query.id ^ 1) + lie.to_wire()[2:]
    other = dns.message.make_response(dns.message.make_query("other.test", "TXT", id=query.id))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for port in server.ports:
            s.sendto(lie.to_wire(), ("127.0.0.1", port))
    return [b"nonsense", other_id, other.to_wire(), truth.to_wire()]


def lame(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes:
    truth.flags &= ~dns.flags.AA
    return truth.to_wire()


def rewriting(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes:
    """What does not exist is answered with the address of a search page."""
    if truth.rcode() == dns.rcode.NXDOMAIN:
        truth.set_rcode(dns.rcode.NOERROR)
        truth.authority.clear()
        question = query.question[0]
        if question.rdtype == dns.rdatatype.A:
            truth.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "198.51.100.99"))
    return truth.to_wire()


def losing(share: float, rng: random.Random) -> Fault:
    """This share of the answers is lost."""

    def fault(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes | None:
        return None if rng.random() < share else truth.to_wire()

    return fault


@contextlib.asynccontextmanager
async def faulty(records: Records, fault: Fault | None = None, **options: object) -> AsyncIterator[FaultyDns]:
    async with FaultyDns(records, **options) as server:  # type: ignore[arg-type]
        server.fault = fault
        yield server

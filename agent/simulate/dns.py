"""A small authoritative DNS server for made-up zones: real packets over UDP on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL = 60


class DnsServer:
    """Answers from ``records``: (name, type) to presentation texts; TXT texts are quoted and split here. Names that
    are there with another type are NODATA, others of the same zones (their last two labels) NXDOMAIN; all else is
    refused. Every zone has an SOA and one server."""

    def __init__(self, records: Mapping[tuple[str, str], Sequence[str]]) -> None:
        self._records = records
        self._names = {name for name, _ in records}
        self._zones = {".".join(name.split(".")[-2:]) for name in self._names}
        self._socket: socket.socket | None = None
        self._transport: asyncio.DatagramTransport | None = None

    @contextmanager
    def reserved(self) -> Iterator[str]:
        """Holds a port; its address is known before anything is answered."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            bound.setblocking(False)
            self._socket = bound
            yield f"127.0.0.1:{bound.getsockname()[1]}"

    async def start(self) -> None:
        """Answer on the reserved port."""
        server = self

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                server._transport = transport  # type: ignore[assignment]

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                answer = server.answer(data)
                if answer and server._transport:
                    server._transport.sendto(answer, addr)

        await asyncio.get_running_loop().create_datagram_endpoint(Protocol, sock=self._socket)

    def stop(self) -> None:
        """Answer no more."""
        if self._transport:
            self._transport.close()

    def answer(self, data: bytes) -> bytes:
        """The answer to one query, ``b""`` to what is none."""
        try:
            query = dns.message.from_wire(data)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError, ValueError):
            return b""
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        texts = self._records.get((name, kind), ())
        if name in self._zones and kind in ("SOA", "NS") and not texts:
            texts = [f"ns.{name}." if kind == "NS" else f"ns.{name}. hostmaster.{name}. 1 3600 900 86400 {TTL}"]
        if texts:
            values = [_quoted(text) if kind == "TXT" else text for text in texts]
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", kind, *values))
        elif ".".join(name.split(".")[-2:]) not in self._zones:
            response.flags &= ~dns.flags.AA
            response.set_rcode(dns.rcode.REFUSED)
        elif not any(known == name or known.endswith("." + name) for known in self._names):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()


def _quoted(text: str) -> str:
    """TXT presentation: strings of at most 255 octets."""
    return " ".join(f'"{text[i : i + 255]}"' for i in range(0, len(text), 255))

"""HTTP as bytes on a socket: for requests that no client library would send."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Answer(NamedTuple):
    """``status`` is 0 when the connection ended without an answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


NONE = Answer(0, {}, b"")


def request(
    method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, length: int | None = None
) -> bytes:
    """A whole request; ``length`` is announced instead of the body's own."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *(f"{k}: {v}" for k, v in headers.items())]
    if "Transfer-Encoding" not in headers:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(parts: Iterable[bytes]) -> bytes:
    """The parts as a body in chunks, its end included."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


def connect(port: int, timeout: float = 10.0, source: str = "") -> socket.socket:
    """A connection to a loopback port, from the loopback address ``source`` if need be."""
    return socket.create_connection(("127.0.0.1", port), timeout, (source, 0) if source else None)


def read_answer(connection: socket.socket) -> Answer:
    """The next final answer on a connection."""
    data = b""
    try:
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return NONE
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
            if status >= 200:
                break
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(data) < int(headers.get("content-length", 0)) and (more := connection.recv(65536)):
            data += more
    except ConnectionError:
        return NONE
    return Answer(status, headers, data)


def exchange(port: int, data: bytes, *, end: bool = False, timeout: float = 10.0) -> Answer:
    """Send on a connection of its own and read the answer; with ``end`` nothing more is to come."""
    with connect(port, timeout) as connection:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # Answered before all was sent, perhaps.
        return read_answer(connection)

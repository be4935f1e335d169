"""A mail host on loopback that speaks as much SMTP as it takes to begin TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def mail_host(
    context: ssl.SSLContext | None,
    *,
    greeting: bytes = b"220-mx.test ESMTP\r\n220 ready\r\n",
    begin: bytes = b"220 go ahead\r\n",
) -> AsyncIterator[int]:
    """The port of a host that offers STARTTLS if there is a ``context``, and answers it with ``begin``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            writer.write(greeting)
            while line := await reader.readline():
                command = line.split()[0].upper() if line.split() else b""
                if command == b"EHLO":
                    offers = [b"mx.test", b"SIZE 1000", *([b"StartTLS"] if context else []), b"8BITMIME"]
                    writer.writelines(
                        b"250" + (b"-" if i < len(offers) - 1 else b" ") + o + b"\r\n" for i, o in enumerate(offers)
                    )
                elif command == b"STARTTLS" and context:
                    writer.write(begin)
                    await writer.drain()
                    if begin.startswith(b"220"):
                        await writer.start_tls(context)
                else:
                    writer.write(b"221 bye\r\n" if command == b"QUIT" else b"502 what?\r\n")
                    if command == b"QUIT":
                        break
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()

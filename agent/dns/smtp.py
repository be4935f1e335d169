"""The certificates that a mail host shows after STARTTLS (RFC 3207): what its TLSA records are held against."""

from __future__ import annotations

import _ssl
import asyncio
import contextlib
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from agent.fetch import Address, FetchError, Resolve, is_public

_ADDRESSES = 3  # of a host that are tried
_LINES = 100  # of one reply
_CERTIFICATES = 10


async def certificates(
    host: str,
    port: int,
    *,
    resolve: Resolve,
    timeout: float = 10.0,  # noqa: ASYNC109 - of everything together
    allowed: Callable[[Address], bool] = is_public,
) -> bytes:
    """The chain as PEM, the host's own certificate first; nobody's word is taken for it. Raises ``FetchError``, and
    nothing else: ``dns``, ``address``, ``connect``, ``timeout`` and ``tls`` as ``fetch`` does, ``starttls`` (the host
    offers none) and ``smtp`` (it takes no mail from here, or speaks something else)."""
    try:
        async with asyncio.timeout(timeout):
            found = (await resolve(host, port))[:_ADDRESSES]
            if not found:
                raise FetchError("dns")
            if not all(allowed(ip_address(address)) for address, _ in found):
                raise FetchError("address")
            for address, at in found:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection(address, at)
                    break
            else:
                raise FetchError("connect")
            try:
                return await _shown(host, reader, writer)
            finally:
                writer.close()
    except TimeoutError:
        raise FetchError("timeout") from None
    except ssl.SSLError:
        raise FetchError("tls") from None
    except (OSError, EOFError, ValueError):
        raise FetchError("smtp") from None


async def _shown(host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    await _reply(reader, b"220")
    here = ip_address(writer.get_extra_info("sockname")[0])
    literal = f"IPv6:{here}" if here.version == 6 else str(here)
    writer.write(f"EHLO [{literal}]\r\n".encode())
    offered = await _reply(reader, b"250")
    if b"STARTTLS" not in {line.strip().upper() for line in offered[1:]}:
        writer.write(b"QUIT\r\n")
        raise FetchError("starttls")
    writer.write(b"STARTTLS\r\n")
    await _reply(reader, b"220")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    await writer.start_tls(context, server_hostname=host)
    writer.write(b"QUIT\r\n")
    chain = _chain(writer.get_extra_info("ssl_object"))[:_CERTIFICATES]
    if not chain:
        raise FetchError("tls")
    return "".join(map(ssl.DER_cert_to_PEM_cert, chain)).encode()


async def _reply(reader: asyncio.StreamReader, wanted: bytes) -> list[bytes]:
    """The text of a reply's lines (RFC 5321 section 4.2.1)."""
    lines: list[bytes] = []
    while len(lines) < _LINES:
        line = await reader.readuntil(b"\n")
        if line[:3] != wanted:
            break
        lines.append(line[4:].strip())
        if line[3:4] != b"-":
            return lines
    raise FetchError("smtp")


def _chain(tls: Any) -> list[bytes]:
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    # Before Python 3.13 the module has it, and does not show it.
    return [held.public_bytes(_ssl.ENCODING_DER) for held in tls._sslobj.get_unverified_chain() or ()]

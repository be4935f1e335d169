"""An authority of our own, and a TLS server on loopback that answers with whatever bytes a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = 86400.0  # seconds
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def certificate(
    name: str,
    key: CertificateIssuerPrivateKeyTypes,
    issuer: Authority | None = None,
    *,
    begins: float | None = None,
    days: int = 30,
) -> x509.Certificate:
    """A certificate of a host name or an address, by an authority; of an authority by itself without one.
    ``begins`` is Unix seconds, by default a day ago."""
    first = dt.datetime.fromtimestamp(time.time() - DAY if begins is None else begins, dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject)
    builder = builder.issuer_name(issuer.certificate.subject if issuer else subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())  # type: ignore[arg-type]
    builder = builder.not_valid_before(first).not_valid_after(first + dt.timedelta(days))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    if issuer is not None:
        try:
            alternative: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
    return builder.sign(issuer.key if issuer else key, SHA256())


class Authority:
    """Signs certificates that nobody but ``client`` trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key: CertificateIssuerPrivateKeyTypes = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate("Test authority", self.key)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def client(self) -> ssl.SSLContext:
        """What trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.file))

    def server(self, name: str, **validity: object) -> ssl.SSLContext:
        """The server's side of a host name; ``validity`` is that of ``certificate``."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self.folder / f"{name.replace(':', '_')}.pem"
        made = certificate(name, key, self, **validity)  # type: ignore[arg-type]
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A TLS server on 127.0.0.1; gives its port. ``handler`` gets each connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()

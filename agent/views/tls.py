"""TLS of the private listener, whose files may be renewed while it runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

log = structlog.get_logger()


class ServerTls:
    """A certificate with its key, and the authorities whose client certificates are believed, all PEM files.

    A client may come without a certificate, since the probes have none; one that shows a wrong one is not connected.
    """

    def __init__(self, certificate: str, key: str, client_ca: str = "") -> None:
        """Raises ``OSError`` for files that cannot be used."""
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.asks_clients = bool(client_ca)
        try:
            if client_ca:
                self.context.verify_mode = ssl.CERT_OPTIONAL
                self.context.load_verify_locations(client_ca)
            self._changed = self._times()
            self.context.load_cert_chain(certificate, key)
        except OSError as e:
            raise OSError(e.errno, f"listen.private_tls: {_why(e)}") from None

    def renew(self) -> None:
        """Read the certificate and its key again if their files have changed. What cannot be used changes nothing."""
        try:
            changed = self._times()
            if changed == self._changed:
                return
            self._changed = changed
            # Not into the context that serves: half of a pair would spoil it.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
            self.context.load_cert_chain(*self._files)
        except OSError as e:
            log.warning("tls.not_renewed", reason=_why(e))
        else:
            log.info("tls.renewed")

    def _times(self) -> tuple[int, ...]:
        return tuple(Path(file).stat().st_mtime_ns for file in self._files)


def _why(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)

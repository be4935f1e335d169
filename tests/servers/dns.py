"""A real authoritative name server (Knot DNS) for tests, whose zones can be changed while it runs."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import dns.dnssec
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers.base import free_port, program, running

_HEAD = (
    "$TTL {ttl}\n@ SOA ns.{name}. hostmaster.{name}. 1 3600 900 86400 {ttl}\n"
    "@ NS ns\n@ NS ns2\nns A 127.0.53.1\nns2 A 127.0.54.1\n"
)


class DnsServer:
    """``address`` is ``127.0.0.1:port``. Zone texts are master-file lines; SOA and NS are added."""

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path, control: Path, port: int, stack: contextlib.ExitStack, ttl: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.port = port
        self._folder, self._control, self._stack, self._ttl = folder, control, stack, ttl

    def write(self, name: str, text: str) -> None:
        (self._folder / f"{name}.zone").write_text(_HEAD.format(name=name, ttl=self._ttl) + text + "\n")

    def set_zone(self, name: str, text: str, *, whole: bool = False) -> None:
        """Replace a zone; in force when this returns. A ``whole`` one brings its own SOA and NS."""
        if whole:
            (self._folder / f"{name}.zone").write_text(text)
        else:
            self.write(name, text)
        self.control("-b", "zone-reload", name)

    def presigned(self, name: str, text: str, inception: float, end: float) -> tuple[str, str]:
        """A zone signed beforehand, with signatures good from ``inception`` to ``end`` (Unix seconds), and its DS."""
        head = _HEAD.format(name=name, ttl=self._ttl)
        zone = dns.zone.from_text(head + text + "\n", origin=name, relativize=False)
        private = ec.generate_private_key(ec.SECP256R1())
        key = dns.dnssec.make_dnskey(private.public_key(), "ECDSAP256SHA256", 257)
        dns.dnssec.sign_zone(zone, keys=[(private, key)], dnskey_ttl=self._ttl, inception=inception, expiration=end)
        return zone.to_text(), f"{name}. DS {dns.dnssec.make_ds(name + '.', key, 'SHA256')}"

    def control(self, *arguments: str) -> None:
        command = [program("knotc", "knot"), "-c", str(self._folder / "knot.conf"), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise RuntimeError(f"knotc {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def ds(self, zone: str) -> str:
        """The DS record of a zone that the server signs."""
        command = [program("keymgr", "knot"), "-c", str(self._folder / "knot.conf"), zone, "ds"]
        out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
        return next(line for line in out.splitlines() if " DS " in line and " 13 2 " in line)

    def freeze(self) -> None:
        """Take questions and answer none, until ``thaw``."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop answering. Safe to call twice."""
        self._stack.close()


@contextlib.contextmanager
def dns_server(
    tmp_path: Path, zones: Mapping[str, str], *, ttl: int = 0, port: int = 0, signed: Collection[str] = ()
) -> Iterator[DnsServer]:
    """A running name server with these zones; those ``signed`` it signs itself."""
    folder = tmp_path / "knot"
    folder.mkdir(exist_ok=True)
    port = port or free_dns_port()
    # A socket's path is limited to about 100 characters, which pytest's folders exceed.
    run = Path(tempfile.mkdtemp(prefix="knot-"))
    (run / "db").mkdir()
    listed = "".join(
        f"  - domain: {name}\n    file: {folder / name}.zone\n" + "    dnssec-signing: on\n" * (name in signed)
        for name in zones
    )
    (folder / "knot.conf").write_text(
        f"server:\n  listen: 127.0.0.1@{port}\n  rundir: {run}\n  udp-workers: 1\n  tcp-workers: 1\n"
        f"  background-workers: 1\ncontrol:\n  listen: {run / 'control'}\n"
        f"database:\n  storage: {run / 'db'}\n  journal-db-max-size: 16M\n  kasp-db-max-size: 8M\n"
        "  timer-db-max-size: 8M\n"
        "log:\n  - target: stderr\n    any: info\n"
        "template:\n  - id: default\n    zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\n"
        "    semantic-checks: soft\n"
        f"zone:\n{listed}"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        server = DnsServer(folder, run / "control", port, stack, ttl)
        for name, text in zones.items():
            server.write(name, text)
        command = [program("knotd", "knot"), "-c", str(folder / "knot.conf")]
        loaded = folder / "knotd.log"

        def ready() -> bool:
            log = loaded.read_text()
            if "failed to load zone" in log:
                raise RuntimeError(log[-2000:])
            return all(f"[{name}.] loaded" in log for name in zones) and "server started" in log

        server.process = stack.enter_context(running(command, loaded, ready))
        yield server


def free_dns_port() -> int:
    """A port free for both UDP and TCP."""
    for _ in range(50):
        port = free_port(socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free for both UDP and TCP")

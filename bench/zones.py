"""Thousands of domains in good order, each a zone of its own, and the name server that serves them."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import shake_256
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dns.checks.base import MailStream, Subject

TTL = 300
_SOA = "@ SOA ns1.esp.test. h.esp.test. 1 3600 600 1209600 300\n@ NS ns1.esp.test.\n@ NS ns2.esp.test.\n"
_DOMAIN = """
@ A 192.0.2.9
@ MX 10 mx1.esp.test.
@ MX 20 mx2.esp.test.
@ TXT "v=spf1 include:_spf.esp.test ip4:{ip} -all"
@ TXT "site-verification={key:.40}"
bounce MX 10 feedback.esp.test.
bounce TXT "v=spf1 include:_spf.esp.test -all"
links CNAME r.esp.test.
_dmarc TXT "v=DMARC1; p=reject; rua=mailto:reports@{domain}"
_smtp._tls TXT "v=TLSRPTv1; rua=mailto:reports@{domain}"
s1._domainkey TXT "v=DKIM1; k=rsa; p={key:.200}" "{rest}"
"""
_ESP = """
@ A 192.0.2.8
_spf TXT "v=spf1 include:_spf1.esp.test include:_spf2.esp.test -all"
_spf1 TXT "v=spf1 ip4:192.0.2.0/24 ~all"
_spf2 TXT "v=spf1 ip6:2001:db8::/32 ~all"
ns1 A 192.0.2.53
ns2 A 198.51.100.53
mx1 A 192.0.2.2
mx2 A 192.0.2.3
feedback A 192.0.2.4
r A 192.0.2.5
"""


def name(number: int) -> str:
    return f"d{number}.test"


def address(number: int) -> str:
    """Where a domain sends from; some share one."""
    return f"192.0.2.{1 + number % 250}"


def subject(number: int) -> Subject:
    """What settings would say of a domain: everything that a check could make use of."""
    domain, ip = name(number), address(number)
    path = f"bounce.{domain}"
    return Subject(
        domain, ("s1",), (ip,), helo={ip: f"mail{number % 250}.esp.test"}, return_path_domains=(path,),
        link_domains=(f"links.{domain}",), mail_streams=(MailStream("news", return_path=path, ips=(ip,)),),
    )  # fmt: skip


def _key(number: int) -> str:
    """A key that nobody has the private half of, another for each domain: to make real ones would take minutes."""
    modulus = int.from_bytes(shake_256(str(number).encode()).digest(256)) | 1 << 2047 | 1
    public = RSAPublicNumbers(65537, modulus).public_key()
    return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode("ascii")


class Server:
    """A running Knot. ``address`` is ``127.0.0.1:port``."""

    def __init__(self, folder: Path, port: int, pid: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.pid = pid
        self._folder = folder

    def asked(self) -> int:
        """How many questions have come in so far."""
        said = subprocess.run(
            [_program("knotc"), "-s", str(self._folder / "control"), "stats", "mod-stats.request-protocol"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return sum(map(int, re.findall(r"= (\d+)$", said, re.MULTILINE)))


@contextmanager
def serving(count: int) -> Iterator[Server]:
    """A name server that knows ``count`` domains, and all that they refer to."""
    with TemporaryDirectory(prefix="bench-dns-") as temporary:
        folder, port = Path(temporary), _free_port()
        _write(folder, count, port)
        command = [_program("knotd"), "-c", str(folder / "knot.conf")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            server = Server(folder, port, process.pid)
            end = time.monotonic() + 60
            while time.monotonic() < end and process.poll() is None:
                with suppress(subprocess.CalledProcessError):
                    if server.asked() >= 0 and _loaded(folder):
                        break
                time.sleep(0.1)
            else:
                sys.exit("the name server does not start")
            yield server
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    """One that is free for UDP and TCP."""
    while True:
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp, suppress(OSError):
            udp.bind(("127.0.0.1", 0))
            port: int = udp.getsockname()[1]
            tcp.bind(("127.0.0.1", port))
            return port


def _loaded(folder: Path) -> bool:
    status = subprocess.run(
        [_program("knotc"), "-s", str(folder / "control"), "zone-status", "+serial"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return "serial: -" not in status


def _write(folder: Path, count: int, port: int) -> None:
    names = {name(n): _zone(n) for n in range(count)}
    greetings = "".join(f"mail{n} A {address(n)}\n" for n in range(250))
    reverse = "".join(f"{1 + n} PTR mail{n}.esp.test.\n" for n in range(250))
    delegations = "".join(f"{name(n)}. NS ns1.esp.test.\n" for n in range(count))
    names |= {
        "esp.test": _SOA + _ESP + greetings, "2.0.192.in-addr.arpa": _SOA + reverse, "test": _SOA + delegations,
        ".": _SOA,
    }  # fmt: skip
    (folder / "zones").mkdir()
    (folder / "db").mkdir()
    for zone, text in names.items():
        (folder / "zones" / f"{zone.strip('.') or 'root'}.zone").write_text(
            f"$ORIGIN {zone.rstrip('.')}.\n$TTL {TTL}\n{text}"
        )
    (folder / "knot.conf").write_text(
        f"server:\n  listen: 127.0.0.1@{port}\n  rundir: {folder}\n  udp-workers: 1\n  tcp-workers: 1\n"
        f"  background-workers: 2\ncontrol:\n  listen: {folder}/control\ndatabase:\n  storage: {folder}/db\n"
        "log:\n  - target: stderr\n    any: error\nmod-stats:\n  - id: all\n    request-protocol: on\n"
        f'template:\n  - id: default\n    storage: {folder}/zones\n    file: "%s.zone"\n    zonefile-sync: -1\n'
        "    journal-content: none\n    global-module: mod-stats/all\nzone:\n"
        + "".join(f"  - domain: {zone}\n" + "    file: root.zone\n" * (zone == ".") for zone in names)
    )


def _zone(number: int) -> str:
    key = _key(number)
    return _SOA + _DOMAIN.format(domain=name(number), ip=address(number), key=key, rest=key[200:])


def _program(named: str) -> str:
    found = shutil.which(named, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    if not found:
        sys.exit(f"the DNS benchmark needs {named}: apt-get install knot")
    return found

"""A real validating resolver (Unbound) for tests, that finds its zones on given servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.servers.base import program, running
from tests.servers.dns import free_dns_port


@contextlib.contextmanager
def unbound(
    tmp_path: Path, stubs: Mapping[str, str], anchors: Sequence[str] = (), *, stale: bool = False
) -> Iterator[str]:
    """The address of a running resolver. ``stubs`` maps zones to the ``host:port`` of their servers, ``anchors`` are
    DS records; what they do not cover is insecure. ``stale`` ones answer from what has expired (RFC 8767)."""
    port = free_dns_port()
    zones = "".join(
        f"stub-zone:\n  name: {zone}\n  stub-addr: {address.replace(':', '@')}\n" for zone, address in stubs.items()
    )
    trusted = "".join(f'  trust-anchor: "{anchor}"\n' for anchor in anchors)
    expired = "  serve-expired: yes\n" if stale else ""
    config = tmp_path / "unbound.conf"
    config.write_text(
        f"server:\n  interface: 127.0.0.1@{port}\n  do-daemonize: no\n  use-syslog: no\n  verbosity: 1\n"
        f"  username: ''\n  chroot: ''\n  directory: {tmp_path}\n  pidfile: ''\n  num-threads: 1\n"
        f"  do-not-query-localhost: no\n  module-config: 'validator iterator'\n  local-zone: test. nodefault\n"
        f"  msg-cache-size: 1m\n  rrset-cache-size: 1m\n{trusted}{expired}"
        f"remote-control:\n  control-enable: no\n{zones}"
    )
    log = tmp_path / "unbound.log"
    command = [program("unbound", "unbound"), "-d", "-c", str(config)]
    with running(command, log, lambda: "start of service" in log.read_text()):
        yield f"127.0.0.1:{port}"

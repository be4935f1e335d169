"""Real servers for tests: started on loopback on free ports, stopped by their own process handle."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Debian installs some daemons where an ordinary user's PATH does not look.
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")


# Below what the kernel takes for connections that go out: none takes a port before its server starts, or while that is
# started again. Processes that test side by side never give out the same, those of strangers hardly ever.
_FIRST, _LAST = 10_000, 32_000
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.count(random.SystemRandom().randrange(_LAST - _FIRST))


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that was free on 127.0.0.1 a moment ago, and that this process has not given out lately."""
    own = range(_FIRST + _WORKER, _LAST, _WORKERS)
    for number in itertools.islice(_ports, len(own)):
        port = own[number % len(own)]
        with socket.socket(socket.AF_INET, kind) as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def program(name: str, package: str) -> str:
    """The path of an installed program. A missing one is an error, never a skip."""
    found = shutil.which(name) or next((str(Path(d) / name) for d in _SBIN if (Path(d) / name).exists()), None)
    if not found:
        raise RuntimeError(f"{name} is not installed; the tests need it: apt-get install {package}")
    return found


def wait_until(condition: Callable[[], object], timeout: float = 20.0, what: str = "") -> None:
    """Poll until the condition is true; an exception of it counts as not yet."""
    end = time.monotonic() + timeout
    error: Exception | None = None
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (OSError, urllib.error.URLError, AssertionError, KeyError, IndexError, ValueError) as e:
            error = e
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout:g} s: {what or condition}" + (f" ({error!r})" if error else ""))


def http_ok(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as response:
        return 200 <= response.status < 300


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, ready: Callable[[], object], *, cwd: Path | None = None, timeout: float = 30.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, ready to use; on exit it is asked to stop (TERM), then made to (KILL)."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=cwd)
        try:

            def up() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
                return bool(ready())

            wait_until(up, timeout, f"{command[0]} to be ready")
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

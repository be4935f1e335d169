"""The command on a terminal, as a person sees it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

from tests.servers.agent import ROOT, environment


def terminal(
    *arguments: str, columns: int = 80, env: dict[str, str] | None = None, interrupt_at: str = "", timeout: float = 60
) -> tuple[int, str]:
    """Run ``mailvitals`` on a terminal; the exit code and all that it showed. Ctrl-C is pressed once ``interrupt_at``
    is to be seen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *arguments], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment(), "TERM": "xterm-256color", **(env or {})},
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()
    with contextlib.suppress(OSError):  # that is how the other end's closing shows
        while chunk := os.read(ours, 65536):
            shown += chunk
            if interrupt_at and interrupt_at in shown.decode(errors="replace"):
                interrupt_at = ""
                process.send_signal(signal.SIGINT)
    os.close(ours)
    return process.wait(timeout), shown.decode()

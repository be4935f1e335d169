"""Whom an Alertmanager tells: counts every notification."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Labels = tuple[tuple[str, str], ...]


Told = tuple[Labels, datetime]
"""An alert, by its labels and its start."""


class Receiver:
    """``told`` is how often each alert was told to be ``firing`` or ``resolved``."""

    def __init__(self) -> None:
        self.url = ""
        self.told: dict[str, Counter[Told]] = {"firing": Counter(), "resolved": Counter()}

    def take(self, notification: dict[str, Any]) -> None:
        for alert in notification["alerts"]:
            start = datetime.fromisoformat(alert["startsAt"])
            self.told[alert["status"]][labels(alert["labels"]), start] += 1


def to_be_told(of: dict[str, str], starts_at: float) -> Told:
    """An alert with these labels that began at ``starts_at`` (Unix seconds), as it is sent: to the millisecond."""
    text = datetime.fromtimestamp(starts_at, UTC).isoformat(timespec="milliseconds")
    return labels(of), datetime.fromisoformat(text)


def labels(of: dict[str, str]) -> Labels:
    """A label set that can be counted; empty ones do not count."""
    return tuple(sorted((name, value) for name, value in of.items() if value))


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """A running receiver of webhooks."""
    one = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            one.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

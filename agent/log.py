"""Logging: one JSON object a line, or readable lines on a terminal. Libraries' records go the same way."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, TextIO

import msgspec
import structlog

_encode = msgspec.json.Encoder().encode


def configure(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Set up structlog. ``level`` is debug, info, warning or error; ``form`` is json, console, or auto: console when
    the stream (stderr by default) is a terminal."""
    out = stream or sys.stderr
    console = form == "console" or (form == "auto" and out.isatty())
    number = {"debug": 10, "info": 20, "warning": 30, "error": 40}[level]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any]
    if console:
        # The default would print every frame's local variables, and with them recipients.
        plain = structlog.dev.plain_traceback
        colours = out.isatty() and not os.environ.get("NO_COLOR")
        last = [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.WARNING))
    # Every malformed request of a stranger would leave a traceback here; they are counted instead.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _json(value: object, **_: object) -> str:
    try:
        return _encode(value).decode()
    except (TypeError, ValueError):
        # A line must not be lost, nor its writer fail, for a value that JSON has no form for (a lone surrogate, say).
        return json.dumps(value, default=repr)

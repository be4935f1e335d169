"""Logging: one line is one JSON object, whatever is in it, and no line shows more than it was given."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from agent import log

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configured() -> Iterator[Configure]:
    """Configures logging for a test alone."""
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    before = root.handlers, root.level, server.level

    def configure(level: str, form: str) -> io.StringIO:
        out = io.StringIO()
        log.configure(level, form, out)
        return out

    yield configure
    root.handlers, root.level, server.level = before
    structlog.reset_defaults()


def _fail(recipient: str) -> None:
    raise ValueError("a defect")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_lines_of_code_and_no_values(configured: Configure, form: str) -> None:
    out = configured("info", form)
    recipient = "".join(["jane", "@", "private.example"])
    for logger in (structlog.get_logger(), logging.getLogger("library")):
        try:
            _fail(recipient)
        except ValueError:
            logger.exception("batch.failed")
    text = out.getvalue()
    assert text.count("Traceback") == text.count("ValueError: a defect") == 2
    assert "_fail(recipient)" in text
    assert "private.example" not in text


@pytest.mark.parametrize("value", ["\ud800", b"\xff", {1}, object(), float("nan"), 10**30, ["\ud800"], {"a": "\udfff"}])
def test_no_value_can_fail_a_line(configured: Configure, value: object) -> None:
    out = configured("info", "json")
    structlog.get_logger().info("odd", value=value, other="kept")
    (line,) = out.getvalue().encode("utf-8").splitlines()
    written = json.loads(line)
    assert (written["event"], written["other"], written["level"]) == ("odd", "kept", "info")


def test_lines_are_json_objects_with_a_time_and_libraries_say_only_what_matters(configured: Configure) -> None:
    out = configured("debug", "auto")
    structlog.get_logger().debug("one", text="two\nlines")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("trouble %s", "here")
    logging.getLogger("aiohttp.server").error("a stranger's request")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["text"]) == ("one", "two\nlines")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("trouble here", "warning")


def test_what_is_below_the_level_is_not_written(configured: Configure) -> None:
    out = configured("error", "json")
    structlog.get_logger().warning("no")
    structlog.get_logger().error("yes")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["yes"]

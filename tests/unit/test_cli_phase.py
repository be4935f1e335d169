"""``mailvitals phase``: its exit codes, for scripts that wait for a phase."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from agent import cli_phase
from agent.views.status import phase
from tests.unit.views import states


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run the command before an agent whose domains are in these states (or whose answer is these bytes)."""

    def run(arguments: str = "", *gates: str, body: bytes | None = None) -> tuple[int, str]:
        document = phase(states.state())
        for gate, state in zip(document["domains"].values(), gates, strict=False):
            gate["state"] = state
        answer = json.dumps(document).encode() if body is None else body
        monkeypatch.setattr(cli_phase, "ask_agent", lambda url, token, certificate, path: answer)
        # The number is the command's own return value, as ``main`` passes it to ``exit``.
        done = CliRunner().invoke(cli_phase.phase, arguments.split(), standalone_mode=False)
        if isinstance(done.exception, click.ClickException):
            return done.exception.exit_code, done.exception.message
        return done.return_value, done.output

    return run


@pytest.mark.parametrize(
    ("states_", "code"),
    [
        (("ready", "ready"), 0), (("ready", "not_yet"), 1), (("cannot_tell", "not_yet"), 1), (("not_yet", "ready"), 1),
        (("ready", "cannot_tell"), 3), (("cannot_tell", "cannot_tell"), 3),
    ],
)  # fmt: skip
def test_the_worst_domain_speaks(run: Callable[..., tuple[int, str]], states_: tuple[str, str], code: int) -> None:
    assert run("", *states_)[0] == code


def test_one_domain_is_asked_for(run: Callable[..., tuple[int, str]]) -> None:
    code, text = run("--domain news.example.org --json", "not_yet", "ready")
    assert code == 0
    assert list(json.loads(text)["domains"]) == ["news.example.org"]
    code, text = run("--domain example.com", "not_yet", "ready")
    assert code == 1
    assert "example.com  growth → enterprise  not yet" in text
    assert "news.example.org" not in text


def test_a_domain_that_is_not_there_is_wrong_usage(run: Callable[..., tuple[int, str]]) -> None:
    code, why = run("--domain nobody.example")
    assert code == click.UsageError.exit_code
    assert why == "not configured: nobody.example; known: example.com, news.example.org"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"domains": 1}'])
def test_an_answer_that_is_none_is_cannot_tell(run: Callable[..., tuple[int, str]], body: bytes) -> None:
    code, why = run(body=body)
    assert code == 3
    assert "is not this version's private listener" in why


def test_no_domain_and_no_agent_are_cannot_tell(run: Callable[..., tuple[int, str]]) -> None:
    assert run(body=b'{"domains": {}, "phases": {}, "now": 1}')[0] == 3


def test_no_agent_is_cannot_tell() -> None:
    done = CliRunner().invoke(cli_phase.phase, ["--url", "http://127.0.0.1:1"], standalone_mode=False)
    assert isinstance(done.exception, click.ClickException)
    assert (done.exception.exit_code, done.exception.message[:8]) == (3, "no agent")
    wrong = CliRunner().invoke(cli_phase.phase, ["--url", "ftp://x"], standalone_mode=False)
    assert isinstance(wrong.exception, click.UsageError)

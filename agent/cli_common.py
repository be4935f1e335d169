"""What the parts of the command share: errors with their exit codes, settings, progress bars, the width of tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from agent.settings import Settings

EX_CONFIG = 78
PIPE_WIDTH = 160  # columns of tables that go to no terminal


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/mailvitals/mailvitals.yaml"),
    show_default=True,
    help="Settings file (YAML).",
)


class ConfigError(click.ClickException):
    exit_code = EX_CONFIG


def load_settings(path: Path) -> Settings:
    from agent.settings import SettingsError, load

    try:
        return load(path, os.environ)
    except SettingsError as e:
        raise ConfigError(str(e)) from None


def console() -> Console:
    """Standard output. What is piped somewhere is not squeezed into 80 columns, and NO_COLOR means plain text."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, color_system=None if os.environ.get("NO_COLOR") else "auto")


def agent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that asks a running agent: ``url``, ``token`` and ``certificate``."""
    for option in (
        click.option(
            "--certificate",
            type=click.Path(exists=True, dir_okay=False),
            help="PEM file of a client certificate and its key.",
        ),
        click.option("--token", envvar="MAILVITALS_LISTEN__PRIVATE_TOKEN", help="Its token, if it has one."),
        click.option("--url", default="http://127.0.0.1:8081", show_default=True, help="The agent's private listener."),
    ):
        command = option(command)
    return command


def ask_agent(url: str, token: str | None, certificate: str | None, path: str) -> bytes:
    """What a running agent's private listener answers. Raises ``click.ClickException``."""
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
    request = urllib.request.Request(url.rstrip("/") + path)  # noqa: S310 - scheme checked above
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        tls = ssl.create_default_context()
        if certificate:
            tls.load_cert_chain(certificate)
        with urllib.request.urlopen(request, timeout=10, context=tls) as response:  # noqa: S310
            body: bytes = response.read()
    except urllib.error.HTTPError as e:
        hint = "; give --token" if e.code == 401 else ""
        raise click.ClickException(f"{url} answered {e.code}{hint}") from None
    except (OSError, http.client.HTTPException) as e:
        raise click.ClickException(f"no agent at {url}: {getattr(e, 'reason', e)}") from None
    except ValueError:
        raise click.ClickException(f"what answers at {url} is not this version's private listener") from None
    return body


def progress(total: int, what: str, *, bytes_: bool = False) -> Any:
    """A context manager that gives a function to say how far it is; shows nothing unless stderr is a terminal."""
    from contextlib import contextmanager

    @contextmanager
    def bar() -> Any:
        if not sys.stderr.isatty():
            yield lambda done: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(what),
            BarColumn(),
            DownloadColumn() if bytes_ else MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)

    return bar()

"""What the parts of the command share: errors with their exit codes, settings, progress bars, the width of tables."""

from __future__ import annotations

import os
import sys
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

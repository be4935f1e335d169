"""The command ``mailvitals``. Heavy parts are imported by the commands that need them.

Exit codes: 0 done (``check``: ok; ``phase``: ready), 1 failed (``check``: warn; ``phase``: not yet), 2 ``check``: fail,
3 ``check``: unknown, ``phase``: cannot tell,
64 wrong usage, 78 wrong settings (sysexits.h).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from agent import __version__
from agent.cli_backtest import backtest
from agent.cli_check import check
from agent.cli_common import ConfigError, agent_options, ask_agent, console, load_settings
from agent.cli_import import import_, quarantine
from agent.cli_phase import phase
from agent.cli_simulate import simulate
from agent.cli_store import store

EX_USAGE = 64


def main() -> NoReturn:
    """Run the command and exit."""
    try:
        code = cli(prog_name="mailvitals", standalone_mode=False)
    except click.UsageError as e:
        e.show()
        sys.exit(EX_USAGE)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader has seen enough; Python must not complain about it while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mailvitals", message="%(prog)s %(version)s")
def cli() -> None:
    """Deliverability you can defend: every ESP's webhooks and the DNS behind your mail, held to your targets."""


cli.add_command(check)
cli.add_command(simulate)
cli.add_command(phase)
cli.add_command(import_)
cli.add_command(quarantine)
cli.add_command(store)
cli.add_command(backtest)


@cli.command()
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (YAML).")
@click.option("--demo", is_flag=True, help="Built-in settings and simulated, clearly marked traffic.")
def run(config: Path | None, demo: bool) -> None:
    """Run the agent until SIGTERM or Ctrl-C.

    \b
    mailvitals run --config /etc/mailvitals/mailvitals.yaml
    mailvitals run --demo
    """
    if (config is None) == (not demo):
        raise click.UsageError("give either --config FILE or --demo")
    from agent import log
    from agent.ledger.base import LedgerError, StoreUnavailable
    from agent.settings import SettingsError

    try:
        if config is None:
            from agent import demo as demonstration

            log.configure("warning")
            demonstration.run(os.environ)
        else:
            settings = load_settings(config)
            log.configure(settings.log.level, settings.log.format)
            if settings.bus.mode == "edge":
                from agent.bus.spool import SpoolError
                from agent.edge import serve as serve_edge

                try:
                    serve_edge(settings)
                except SpoolError as e:
                    raise ConfigError(str(e)) from None
            else:
                from agent.daemon import serve

                serve(settings)
    except SettingsError as e:
        raise ConfigError(str(e)) from None
    except LedgerError as e:
        raise ConfigError(str(e)) from None
    except OSError as e:
        why = e.strerror or str(e)
        raise click.ClickException(f"{e.filename}: {why}" if e.filename else why) from None
    except StoreUnavailable as e:
        raise click.ClickException(str(e)) from None


@cli.group()
def config() -> None:
    """Check a settings file, or print its schema."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def config_check(file: Path) -> None:
    """Say everything that is wrong with a settings file; exits 78 if anything is.

    \b
    mailvitals config check /etc/mailvitals/mailvitals.yaml
    """
    settings = load_settings(file)
    click.echo(
        f"{file}: good. Sources: {len(settings.sources)}, domains: {len(settings.domains)}, "
        f"Alertmanagers: {len(settings.alertmanagers)}."
    )


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of a settings file, for editors that check and complete it.

    \b
    mailvitals config schema > mailvitals.schema.json
    """
    import json

    from agent.settings import schema

    click.echo(json.dumps(schema(), indent=2))


@cli.command()
@agent_options
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def status(url: str, token: str | None, certificate: str | None, as_json: bool) -> int:
    """Show a running agent's domains, targets, checks and incidents. Exits 1 while an incident is open.

    \b
    mailvitals status
    mailvitals status --url http://mailvitals.internal:8081 --json
    SSL_CERT_FILE=ca.pem mailvitals status --url https://mailvitals.internal:8081 --certificate me.pem
    """
    import json

    from agent.views.terminal import render_status

    body = ask_agent(url, token, certificate, "/api/v1/status")
    try:
        document = json.loads(body)
        if document["api"] != 1:
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(f"what answers at {url} is not this version's private listener") from None
    if as_json:
        click.echo(body)
    else:
        console().print(render_status(document))
    return 1 if any(i["state"] == "open" for i in document["incidents"]) else 0

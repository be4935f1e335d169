"""The command ``mailvitals``. Heavy parts are imported by the commands that need them.

Exit codes: 0 done (``check``: ok), 1 failed (``check``: warn), 2 ``check``: fail, 3 ``check``: unknown,
64 wrong usage, 78 wrong settings (sysexits.h).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent import __version__
from agent.cli_common import ConfigError, console, load_settings
from agent.cli_import import import_, quarantine
from agent.cli_simulate import simulate

if TYPE_CHECKING:
    pass

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


cli.add_command(simulate)
cli.add_command(import_)
cli.add_command(quarantine)


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
    from agent.ledger.base import StoreUnavailable
    from agent.ledger.sqlite import LedgerError
    from agent.settings import SettingsError

    try:
        if config is None:
            from agent import demo as demonstration

            log.configure("warning")
            demonstration.run(os.environ)
        else:
            from agent.daemon import serve

            settings = load_settings(config)
            log.configure(settings.log.level, settings.log.format)
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


@cli.command()
@click.argument("domain")
@click.option("--selector", "selectors", multiple=True, help="DKIM selector in use; may be repeated.")
@click.option("--ip", "ips", multiple=True, help="Address that must pass SPF; may be repeated.")
@click.option("--nameserver", "nameservers", multiple=True, metavar="HOST:PORT", help="Ask this resolver instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    domain: str, selectors: tuple[str, ...], ips: tuple[str, ...], nameservers: tuple[str, ...], as_json: bool
) -> int:
    """Check a domain's SPF, DKIM, DMARC and MX now, without an agent.

    Exits 0 when all is ok, 1 on a warning, 2 on a failure, 3 when something could not be told.

    \b
    mailvitals check example.com --selector s1 --ip 192.0.2.1
    """
    from rich.console import Console

    from agent.dns.checks.base import Subject, Verdict
    from agent.dns.report import as_json as to_json
    from agent.dns.report import check_domain, render, worst
    from agent.dns.resolver import Resolver
    from agent.settings import domain_name, ip_address

    subject = Subject(
        _valid(domain_name, domain, "DOMAIN"), tuple(s.lower() for s in selectors),
        tuple(_valid(ip_address, ip, "--ip") for ip in ips),
    )  # fmt: skip

    async def look() -> Any:
        try:
            resolver = Resolver(nameservers)
        except ValueError as e:
            raise click.BadParameter(str(e), param_hint="--nameserver") from None
        try:
            return await check_domain(resolver, subject)
        finally:
            await resolver.aclose()

    if as_json or not sys.stderr.isatty():
        findings = asyncio.run(look())
    else:
        with Console(stderr=True).status(f"Asking about {subject.domain} …"):
            findings = asyncio.run(look())
    if as_json:
        sys.stdout.buffer.write(to_json(findings))
    else:
        console().print(render(findings))
    return {Verdict.OK: 0, Verdict.WARN: 1, Verdict.FAIL: 2, Verdict.UNKNOWN: 3}[worst(findings)]


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
@click.option("--url", default="http://127.0.0.1:8081", show_default=True, help="The agent's private listener.")
@click.option("--token", envvar="MAILVITALS_LISTEN__PRIVATE_TOKEN", help="Its token, if it has one.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def status(url: str, token: str | None, as_json: bool) -> int:
    """Show a running agent's domains, targets, checks and incidents. Exits 1 while an incident is open.

    \b
    mailvitals status
    mailvitals status --url http://mailvitals.internal:8081 --json
    """
    import http.client
    import json
    import urllib.error
    import urllib.request

    from agent.views.terminal import render_status

    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
    request = urllib.request.Request(url.rstrip("/") + "/api/v1/status")  # noqa: S310 - scheme checked above
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            body = response.read()
        document = json.loads(body)
        if document["api"] != 1:
            raise KeyError
    except urllib.error.HTTPError as e:
        hint = "; give --token" if e.code == 401 else ""
        raise click.ClickException(f"{url} answered {e.code}{hint}") from None
    except (OSError, http.client.HTTPException) as e:
        raise click.ClickException(f"no agent at {url}: {getattr(e, 'reason', e)}") from None
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(f"what answers at {url} is not this version's private listener") from None
    if as_json:
        click.echo(body)
    else:
        console().print(render_status(document))
    return 1 if any(i["state"] == "open" for i in document["incidents"]) else 0


def _valid(parse: Callable[[str], str], value: str, what: str) -> str:
    from pydantic_core import PydanticCustomError

    try:
        return parse(value)
    except PydanticCustomError as e:
        raise click.BadParameter(e.message(), param_hint=what) from None

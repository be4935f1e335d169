"""The command ``mailvitals``. Heavy parts are imported by the commands that need them.

Exit codes: 0 done (``check``: ok), 1 failed (``check``: warn), 2 ``check``: fail, 3 ``check``: unknown,
64 wrong usage, 78 wrong settings (sysexits.h).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from agent.providers import Credentials
    from agent.settings import Settings

EX_USAGE, EX_CONFIG = 64, 78
PIPE_WIDTH = 160  # columns of tables that go to no terminal


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


class _ConfigError(click.ClickException):
    exit_code = EX_CONFIG


_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/mailvitals/mailvitals.yaml"),
    show_default=True,
    help="Settings file (YAML).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mailvitals", message="%(prog)s %(version)s")
def cli() -> None:
    """Deliverability you can defend: every ESP's webhooks and the DNS behind your mail, held to your targets."""


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

            settings = _load(config)
            log.configure(settings.log.level, settings.log.format)
            serve(settings)
    except SettingsError as e:
        raise _ConfigError(str(e)) from None
    except LedgerError as e:
        raise _ConfigError(str(e)) from None
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
        _console().print(render(findings))
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
    settings = _load(file)
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


@cli.command("import")
@_CONFIG
@click.option("--source", required=True, help="Configured source the bodies belong to.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_(config: Path, source: str, files: tuple[Path, ...]) -> int:
    """Count stored webhook bodies, one a line or one a file, gzip or plain.

    They take the same path as live ones, so importing twice, or what came live as well, counts nothing twice. May run
    beside a running agent. Exits 1 when a body could not be read; such bodies are kept in quarantine.

    \b
    mailvitals import --config mailvitals.yaml --source sendgrid day1.ndjson day2.ndjson.gz
    """
    from agent.daemon import build_sources, open_ledger
    from agent.intake.files import Imported, ImportFailed, import_file
    from agent.intake.gate import Gate
    from agent.ledger.base import StoreUnavailable
    from agent.ledger.sqlite import LedgerError

    settings = _load(config)
    names = [s.name for s in settings.sources]
    if source not in names:
        known = ", ".join(sorted(names)) or "none"
        raise click.BadParameter(f"no source `{source}` in {config}; it has {known}", param_hint="--source")
    done = Imported()

    async def work(advance: Callable[[int], None]) -> None:
        ledger = open_ledger(settings)
        await ledger.start()
        one = build_sources(settings, ledger)[source]
        gate = Gate(ledger, _Silent())
        committing = asyncio.create_task(gate.run())
        before = 0
        try:
            for file in files:
                start = before

                def advance_in_file(read: int, start: int = start) -> None:
                    advance(start + read)

                await import_file(
                    file, one, gate, ledger, done,
                    max_bytes=settings.listen.max_body_bytes, progress=advance_in_file,
                )  # fmt: skip
                before += file.stat().st_size
                advance(before)
        finally:
            gate.close()
            await committing
            await ledger.close()

    try:
        with _progress(sum(f.stat().st_size for f in files), "Importing", bytes_=True) as advance:
            asyncio.run(work(advance))
    except LedgerError as e:
        raise _ConfigError(str(e)) from None
    except (ImportFailed, StoreUnavailable) as e:
        raise click.ClickException(f"{e}. What was read before is counted; run it again when this is mended.") from None
    _report(done)
    return 1 if done.unreadable or done.malformed_items else 0


def _report(done: Any) -> None:
    click.echo(
        f"Bodies: {done.bodies:,}; events counted: {sum(done.events.values()):,}, known before: {done.duplicates:,}."
    )
    for name, n in sorted(done.events.items()):
        click.echo(f"  {name:24} {n:>10,}")
    for reason, n in sorted(done.refused.items()):
        click.echo(f"  refused, {reason.replace('_', ' '):15} {n:>10,}")
    if done.malformed_items:
        click.echo(f"Items that could not be read: {done.malformed_items:,}; their bodies are in quarantine.", err=True)
    for line in done.unreadable[:20]:
        click.echo(line, err=True)
    if len(done.unreadable) > 20:
        click.echo(f"… and {len(done.unreadable) - 20} more unreadable bodies.", err=True)


class _Silent:
    def commit(self, seconds: float, events: int) -> None:
        pass

    def queue_depth(self, events: int) -> None:
        pass


def _simulate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    shares = (
        "hard", "soft", "block", "undetermined", "dropped", "deferred", "asynchronous", "soft-then-hard",
        "opened", "clicked", "complained", "unsubscribed", "duplicates", "changed-ids", "late",
    )  # fmt: skip
    for name in reversed(shares):
        command = click.option(f"--{name}", type=click.FloatRange(0, 1), help=f"Share {name.replace('-', ' ')}.")(
            command
        )
    return command


@cli.command()
@click.option("--provider", required=True, help="Provider id, such as sendgrid.")
@click.option("--url", help="Where to post: http://HOST:PORT/webhooks/SOURCE.")
@click.option(
    "--output", type=click.File("wb"), help="Write the bodies here instead, one a line, as `import` reads them."
)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Take the credentials of --source here."
)
@click.option("--source", help="Source whose credentials sign, with --config.")
@click.option("--private-key", type=click.File("r"), help="PEM file that signs as SendGrid does; see --new-key.")
@click.option(
    "--new-key", type=click.Path(path_type=Path), help="Make a key file, print its verification_key, and end."
)
@click.option("--messages", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Reports a second; 0 is as fast as they are taken.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Reports in a request.")
@click.option("--hours", type=click.FloatRange(0.001, 24 * 35), default=24.0, show_default=True,
              help="Send times are spread over so many hours until now, or --until.")  # fmt: skip
@click.option("--until", type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"]), help="When the traffic ends, UTC.")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same traffic.")
@click.option("--domain", "domains", multiple=True, help="Sending domain; may be repeated.")
@click.option("--stream", "streams", multiple=True, help="Stream (category, message stream); may be repeated.")
@click.option(
    "--mailbox", "mailboxes", multiple=True, metavar="DOMAIN=WEIGHT", help="Recipient domain; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was sent, and what must be counted, as JSON.")
@_simulate_options
def simulate(
    provider: str, url: str | None, output: Any, config: Path | None, source: str | None, private_key: Any,
    new_key: Path | None, messages: int, rate: float, batch: int, hours: float, until: datetime | None, seed: int,
    domains: tuple[str, ...], streams: tuple[str, ...], mailboxes: tuple[str, ...], as_json: bool,
    **shares: float | None,
) -> int:  # fmt: skip
    """Send realistic, correctly signed traffic of a provider to an agent, or write it to a file.

    The same seed and options, --until among them, give the same traffic to the byte. The exact counts that an agent
    must come to are printed.

    \b
    mailvitals simulate --provider postmark --config mailvitals.yaml --source pm --url http://127.0.0.1:8080/webhooks/pm
    mailvitals simulate --provider sendgrid --output day.ndjson --messages 50000 --hard 0.02
    """
    from agent.simulate import SIMULATORS
    from agent.simulate import send as sending

    if provider not in SIMULATORS:
        raise click.BadParameter(f"one of {', '.join(sorted(SIMULATORS))}", param_hint="--provider")
    if new_key is not None:
        return _make_key(provider, new_key)
    if (url is None) == (output is None):
        raise click.UsageError("give either --url or --output")
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
    scenario = _scenario(
        messages=messages, hours=hours, until=until, seed=seed, domains=domains, streams=streams, mailboxes=mailboxes,
        shares=shares,
    )  # fmt: skip
    if output is not None:
        truth = sending.write(provider, scenario, output, batch=batch)
        output.flush()
        _tell(truth, None, as_json)
        return 0
    credentials = _credentials(config, source, private_key)
    with _progress(messages, "Sending") as advance:
        try:
            sent = asyncio.run(
                sending.simulate(
                    provider, scenario, str(url), credentials, rate=rate, batch=batch,
                    progress=lambda s: advance(min(s.reports, messages)),
                )
            )  # fmt: skip
        except ValueError as e:
            raise click.UsageError(f"{e}. Give --config with --source, or --private-key.") from None
    _tell(sent.truth, sent, as_json)
    return 1 if sent.failed else 0


def _make_key(provider: str, path: Path) -> int:
    from agent.simulate import SIMULATORS

    pair = SIMULATORS[provider].new_credentials()
    key = pair.signing.get("private_key")
    if not isinstance(key, str):
        raise click.UsageError(f"{provider} signs with no key; its user name and password are in the settings")
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - mode
            file.write(key)
    except OSError as e:
        raise click.ClickException(f"{path}: {e.strerror}") from None
    for name, value in pair.settings.items():
        click.echo(f"{name}: {value}")
    return 0


def _scenario(
    *, messages: int, hours: float, until: datetime | None, seed: int, domains: Iterable[str], streams: Iterable[str],
    mailboxes: Iterable[str], shares: dict[str, float | None],
) -> Any:  # fmt: skip
    import time

    from agent.simulate import Scenario

    given: dict[str, Any] = {k: v for k, v in shares.items() if v is not None}
    if domains:
        given["domains"] = dict.fromkeys(domains, 1.0)
    if streams:
        given["streams"] = dict.fromkeys(streams, 1.0)
    weights = {}
    for text in mailboxes:
        name, _, weight = text.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise click.BadParameter(f"{text} is not DOMAIN=WEIGHT", param_hint="--mailbox") from None
    if weights:
        given["mailboxes"] = weights
    duration, end = hours * 3600, until.replace(tzinfo=UTC).timestamp() if until else time.time()
    try:
        return Scenario(start=end - duration, duration=duration, until=end, messages=messages, seed=seed, **given)
    except ValueError as e:
        raise click.UsageError(str(e)) from None


def _credentials(config: Path | None, source: str | None, private_key: Any) -> Credentials:
    if private_key is not None:
        return {"private_key": private_key.read()}
    if config is None or source is None:
        raise click.UsageError("give --config with --source, or --private-key")
    found = next((s for s in _load(config).sources if s.name == source), None)
    if found is None:
        raise click.BadParameter(f"no source `{source}` in {config}", param_hint="--source")
    return found.credentials


def _tell(truth: Any, sent: Any, as_json: bool) -> None:
    import json

    measures = sorted({measure for _, measure in truth.counts})
    counts = {measure: truth.total(measure) for measure in measures}
    if as_json:
        document = {"reports": truth.reports, "copies": truth.copies, "counts": counts}
        if sent is not None:
            document |= {"requests": sent.delivered, "retries": sent.retries, "failed_requests": sent.failed}
        click.echo(json.dumps(document))
        return
    if sent is not None:
        click.echo(f"{sent.delivered:,} requests taken, {sent.retries:,} retries, {sent.failed:,} given up"
                   + (f" (last answer: {sent.last_error})" if sent.failed else ""))  # fmt: skip
    click.echo(f"{truth.reports:,} reports, {truth.copies:,} of them copies. An agent must count exactly:")
    for measure, n in counts.items():
        click.echo(f"  {measure:16} {n:>10,}")


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
        _console().print(render_status(document))
    return 1 if any(i["state"] == "open" for i in document["incidents"]) else 0


def _load(path: Path) -> Settings:
    from agent.settings import SettingsError, load

    try:
        return load(path, os.environ)
    except SettingsError as e:
        raise _ConfigError(str(e)) from None


def _valid(parse: Callable[[str], str], value: str, what: str) -> str:
    from pydantic_core import PydanticCustomError

    try:
        return parse(value)
    except PydanticCustomError as e:
        raise click.BadParameter(e.message(), param_hint=what) from None


def _console() -> Console:
    """Standard output. What is piped somewhere is not squeezed into 80 columns, and NO_COLOR means plain text."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, color_system=None if os.environ.get("NO_COLOR") else "auto")


def _progress(total: int, what: str, *, bytes_: bool = False) -> Any:
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

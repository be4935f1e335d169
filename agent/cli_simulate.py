"""The command ``mailvitals simulate``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli_common import load_settings, progress

if TYPE_CHECKING:
    from agent.providers import Credentials


def _share_options(command: Callable[..., Any]) -> Callable[..., Any]:
    shares = (
        "hard", "soft", "block", "undetermined", "dropped", "deferred", "asynchronous", "soft-then-hard",
        "opened", "clicked", "complained", "unsubscribed", "duplicates", "changed-ids", "late",
    )  # fmt: skip
    for name in reversed(shares):
        command = click.option(f"--{name}", type=click.FloatRange(0, 1), help=f"Share {name.replace('-', ' ')}.")(
            command
        )
    return command


@click.command()
@click.option("--provider", required=True, help="Provider id, such as sendgrid.")
@click.option("--url", help="Where to post: http://HOST:PORT/webhooks/SOURCE.")
@click.option(
    "--output", type=click.File("wb"), help="Write the bodies here instead, one a line, as `import` reads them."
)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Take the credentials of --source here."
)
@click.option("--source", help="Source whose credentials sign, with --config.")
@click.option("--private-key", type=click.File("r"),
              help="PEM file that signs as SendGrid, Postal and Amazon SNS do; see --new-key. For SES with --config "
              "and --source, which name the topic.")  # fmt: skip
@click.option(
    "--new-key", type=click.Path(path_type=Path), help="Make a key file, print its verification_key, and end."
)
@click.option("--messages", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Reports a second; 0 is as fast as they are taken.")
@click.option("--time-scale", type=click.FloatRange(0, min_open=True),
              help="Replay the traffic and the vendor's retries so many times as fast as they come in life. Without it "
              "traffic goes at --rate, and an hour of the vendor's patience passes in a second.")  # fmt: skip
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
@_share_options
def simulate(
    provider: str, url: str | None, output: Any, config: Path | None, source: str | None, private_key: Any,
    new_key: Path | None, messages: int, rate: float, time_scale: float | None, batch: int,
    hours: float, until: datetime | None, seed: int,
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
    with progress(messages, "Sending") as advance:
        try:
            sent = asyncio.run(
                sending.simulate(
                    provider, scenario, str(url), credentials, rate=rate, batch=batch, time_scale=time_scale,
                    progress=lambda s: advance(min(s.reports, messages)),
                )
            )  # fmt: skip
        except ValueError as e:
            raise click.UsageError(f"{e}. Give --config with --source, --private-key, or both.") from None
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
    own = {} if private_key is None else {"private_key": private_key.read()}
    if own and config is None and source is None:
        return own
    if config is None or source is None:
        raise click.UsageError("give --config with --source, or --private-key")
    found = next((s for s in load_settings(config).sources if s.name == source), None)
    if found is None:
        raise click.BadParameter(f"no source `{source}` in {config}", param_hint="--source")
    return {**found.credentials, **own}


def _tell(truth: Any, sent: Any, as_json: bool) -> None:
    import json

    measures = sorted({measure for _, measure in truth.counts})
    counts = {measure: truth.total(measure) for measure in measures}
    if as_json:
        document = {"reports": truth.reports, "copies": truth.copies, "counts": counts}
        if sent is not None:
            document |= {"requests": sent.delivered, "retries": sent.retries, "failed_requests": sent.failed}
            document |= {"retried": sent.retried, "given_up": sent.given_up, "lost_reports": sent.lost}
        click.echo(json.dumps(document))
        return
    if sent is not None:
        click.echo(f"{sent.delivered:,} requests taken, {sent.retries:,} retries, {sent.failed:,} given up"
                   + (f" (last answer: {sent.last_error})" if sent.failed else ""))  # fmt: skip
        for answer, n in sorted(sent.retried.items()):
            click.echo(f"  retried after {answer}: {n:,}")
        for rule, n in sorted(sent.given_up.items()):
            click.echo(f"  given up, {rule}: {n:,}")
        if sent.lost:
            click.echo(f"{sent.lost:,} reports are lost at the vendor; an agent cannot count them.")
    click.echo(f"{truth.reports:,} reports, {truth.copies:,} of them copies. An agent must count exactly:")
    for measure, n in counts.items():
        click.echo(f"  {measure:16} {n:>10,}")

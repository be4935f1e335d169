"""The command ``mailvitals phase``."""

from __future__ import annotations

import click

from agent.cli_common import agent_options, ask_agent, console

EXIT = {"ready": 0, "not_yet": 1, "cannot_tell": 3}
# Of several domains the first of these speaks: what is known to be missing weighs more than what nobody can tell.
_WORST_FIRST = ("not_yet", "cannot_tell", "ready")


class _Unanswered(click.ClickException):
    exit_code = EXIT["cannot_tell"]


@click.command()
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be repeated.")
@agent_options
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def phase(domains: tuple[str, ...], url: str, token: str | None, certificate: str | None, as_json: bool) -> int:
    """Show whether a running agent's domains are ready for their next phase, and what is missing.

    Exits 0 when all of them are, 1 when one is not yet, 3 when nobody can tell; an agent that does not answer is 3 too.

    \b
    mailvitals phase
    mailvitals phase --domain example.com --url http://mailvitals.internal:8081 --json
    """
    import json

    from agent.views.terminal import render_phase

    try:
        document = json.loads(ask_agent(url, token, certificate, "/api/v1/phase"))
        gates = dict(document["domains"])
    except click.UsageError:
        raise
    except click.ClickException as e:
        raise _Unanswered(e.message) from None
    except (ValueError, KeyError, TypeError):
        raise _Unanswered(f"what answers at {url} is not this version's private listener") from None
    if unknown := [name for name in domains if name not in gates]:
        known = ", ".join(sorted(gates)) or "none"
        raise click.BadParameter(f"not configured: {', '.join(unknown)}; known: {known}", param_hint="--domain")
    if domains:
        document["domains"] = gates = {name: gates[name] for name in domains}
    if as_json:
        click.echo(json.dumps(document))
    else:
        console().print(render_phase(document))
    states = {gate["state"] for gate in gates.values()} or {"cannot_tell"}
    return EXIT[next(state for state in _WORST_FIRST if state in states)]

"""What the daemon, an edge and the command build from the settings alike: the store and the sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import SecretStr

from agent.events import Event
from agent.intake.mailboxes import by_name
from agent.intake.source import Source
from agent.ledger.base import LedgerError
from agent.ledger.process import ProcessLedger
from agent.ledger.sqlite import load_or_create_key
from agent.mailbox import mailbox_provider
from agent.providers import PROVIDERS
from agent.settings import Settings


def open_ledger(settings: Settings) -> ProcessLedger:
    """The store the settings name, to be started. Raises ``LedgerError`` or ``OSError``."""
    if settings.bus.mode == "edge":
        raise LedgerError("an edge has no ledger (bus.mode): this is done in a core")
    given = settings.store.identity_key
    limit = settings.store.quarantine_max_bytes
    if settings.store.server:
        assert given  # noqa: S101 - the settings insist
        return ProcessLedger(settings.store.server, given.get_secret_value().encode(), quarantine_max_bytes=limit)
    path = settings.store.path
    path.parent.mkdir(parents=True, exist_ok=True)
    key = given.get_secret_value().encode() if given else load_or_create_key(path.with_name(path.name + ".key"))
    return ProcessLedger(path, key, quarantine_max_bytes=limit)


def build_sources(
    settings: Settings,
    identify: Callable[[str, Sequence[Event]], Sequence[bytes]],
    mailbox: Callable[[str], str] = by_name,
) -> dict[str, Source]:
    """The configured sources by name. ``identify`` is the ledger's; ``mailbox`` looks up what ``dns.mailbox_lookup``
    wants looked up; without it that waits in the ledger for an agent."""
    if not settings.dns.mailbox_lookup:
        mailbox = mailbox_provider
    names = [d.name for d in settings.domains]
    return {
        s.name: Source(
            s.name, s.provider, PROVIDERS[s.provider], s.credentials,
            domain=s.domain, stream=s.stream, streams=s.streams, domains=names, identify=identify,
            seeds=settings.test_traffic.recipients, own_domains=settings.test_traffic.own_domains, mailbox=mailbox,
        )
        for s in settings.sources
    }  # fmt: skip


def reveal(secret: SecretStr | None) -> str:
    """A secret in clear text, empty when there is none."""
    return secret.get_secret_value() if secret else ""

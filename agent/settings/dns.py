"""How DNS is watched, and the blocklists that are asked."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.dns.blocklists import BLOCKLISTS
from agent.settings.kinds import Duration, Model, Resolver, Timeout
from agent.settings_file import did_you_mean


class Dns(Model):
    """How DNS is watched."""

    resolvers: tuple[Resolver, ...] = Field(
        (), description="IP addresses, with `:port` if not 53; the system's resolvers when empty."
    )
    interval: Duration = Field(300.0, description="Longest time between two looks at the same record.")
    min_interval: Duration = Field(60.0, description="Shortest time between two looks, however small the TTL.")
    timeout: Timeout = Field(3.0, description="How long the answer to one query is waited for.")
    queries_per_second: float = Field(
        500.0,
        gt=0,
        le=100_000,
        description="Questions that the watch asks at most; those about one domain a tenth of it.",
    )
    blocklist_interval: Duration = Field(1800.0, description="Time between two rounds of questions to blocklists.")
    mailbox_lookup: bool = Field(
        True, description="Look up whose mailboxes unknown recipient domains are, by their MX; `other` without it."
    )
    rdap: bool = Field(
        False,
        description="Whether registries are asked, once a day through https://rdap.org, when `domains` expire.",
    )
    smtp_probe: bool = Field(
        False,
        description="Whether TLSA records are held against the certificates that mail hosts show on port 25, which "
        "must be open to the outside; every six hours.",
    )


class Blocklist(Model):
    """A blocklist to ask."""

    name: str = Field(description="One of the lists in `docs/blocklists.md`, such as `spamcop`.")
    key: SecretStr | None = Field(None, description="The key of lists that want one, such as `spamhaus_zen_dqs`.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in BLOCKLISTS:
            raise PydanticCustomError("blocklist", "unknown blocklist{hint}; known: {known}", {
                "hint": did_you_mean(value, BLOCKLISTS), "known": ", ".join(BLOCKLISTS),
            })  # fmt: skip
        return value

    @model_validator(mode="after")
    def _keyed(self) -> Blocklist:
        key = self.key.get_secret_value() if self.key else ""
        if BLOCKLISTS[self.name].needs_key != bool(key):
            what = "needs a `key`" if not key else "takes no `key`"
            raise PydanticCustomError("blocklist", "{name} {what}", {"name": self.name, "what": what})
        if key and not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", key):
            raise PydanticCustomError("blocklist", "a key is part of a name in the DNS: letters, digits and hyphens")
        return self

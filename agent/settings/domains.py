"""The domains that are sent from."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.kinds import (
    DomainName,
    HeloName,
    IpAddress,
    Model,
    PhaseName,
    Selector,
    SourceName,
    known_provider,
)


class MailStream(Model):
    """How one kind of a domain's mail is sent, so that its alignment can be checked."""

    name: SourceName = Field(description="A label of its finding.")
    provider: str = Field("", description="Provider id of the service that sends it, such as `sendgrid`.")
    return_path: DomainName | None = Field(
        None, description="Domain of its return path (MAIL FROM); left out, it is the service's own."
    )
    dkim_domain: DomainName | None = Field(
        None, description="Domain that signs it (`d=`); left out, it is the sending domain."
    )
    selectors: tuple[Selector, ...] = Field(
        (), max_length=20, description="Selectors that sign it; left out, the domain's `dkim_selectors`."
    )
    ips: tuple[IpAddress, ...] = Field(
        (), max_length=50, description="Addresses that send it; left out, one of the service's own is tried."
    )

    @field_validator("provider")
    @classmethod
    def _known(cls, value: str) -> str:
        return known_provider(value) if value else value


class Domain(Model):
    """A sending domain that is watched."""

    name: DomainName = Field(
        description="The domain; events of its subdomains count as its own unless they are listed."
    )
    phase: PhaseName = Field("foundation", description="Phase whose targets it is held to.")
    dkim_selectors: tuple[Selector, ...] = Field(
        (), description="Selectors in use; without any, those that sending services use for everybody are looked for."
    )
    sending_ips: tuple[IpAddress, ...] = Field(
        (), description="Addresses that must pass SPF for this domain and have a reverse name."
    )
    helo: tuple[HeloName, ...] = Field(
        (), description="Names with which the own mail servers greet: one for all of `sending_ips`, or one for each."
    )
    return_path_domains: tuple[DomainName, ...] = Field(
        (), max_length=20, description="Domains of envelope senders, such as `bounce.example.com`; they must take mail."
    )
    link_domains: tuple[DomainName, ...] = Field(
        (), max_length=20, description="Domains of tracked links and images, delegated to a sending service."
    )
    parked: bool = Field(False, description="Whether it sends nothing, so that nobody may send in its name.")
    shared_ips: tuple[IpAddress, ...] = Field(
        (), description="Those of an ESP's shared pool: asked about on blocklists, where a listing only warns."
    )
    ip_shares: dict[IpAddress, Annotated[float, Field(ge=0, le=1)]] = Field(
        {},
        description="Share of the domain's mail, 0 to 1, by address; below 0.1 a listing only warns. Equal if unset.",
    )
    mail_streams: tuple[MailStream, ...] = Field(
        (), max_length=50, description="How its mail is sent, for the check of alignment."
    )
    phase_since: date | None = Field(
        None,
        description="Day on which the phase began, such as 2026-05-04; how long it has lasted is unknown without it.",
    )
    monthly_limit: Annotated[int, Field(gt=0)] | None = Field(
        None, description="Mails that the plan it is sent through includes in a calendar month."
    )

    @property
    def helo_names(self) -> dict[str, str]:
        """The greeting of each sending address that one is known of."""
        names = self.helo * len(self.sending_ips) if len(self.helo) == 1 else self.helo
        return dict(zip(self.sending_ips, names, strict=False))

    @field_validator("helo")
    @classmethod
    def _one_or_each(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(value) not in (0, 1, len(info.data.get("sending_ips", value))):
            raise PydanticCustomError("helo", "give one name for all of `sending_ips`, or one for each")
        return value

    @model_validator(mode="after")
    def _streams(self) -> Domain:
        twice = [name for name, n in Counter(s.name for s in self.mail_streams).items() if n > 1]
        if twice:
            raise PydanticCustomError("twice", "mail_streams has `{name}` twice", {"name": twice[0]})
        for stream in self.mail_streams:
            if stream.dkim_domain not in (None, self.name) and not stream.selectors:
                raise PydanticCustomError(
                    "stream", "mail_streams: `{name}` is signed by another domain, so name its `selectors`",
                    {"name": stream.name},
                )  # fmt: skip
        return self

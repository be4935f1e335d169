"""The webhooks, and which mail is none of their senders' own."""

from __future__ import annotations

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.providers import PROVIDERS, Credentials
from agent.settings.kinds import DomainName, Label, Model, Recipient, SourceName, known_provider
from agent.settings_file import did_you_mean


class Source(Model):
    """One configured webhook of one provider: `POST /webhooks/{name}`. Beside the keys below it takes the provider's
    credentials in the vendor's own words; each may be a list (rotation) and each has a `…_file` twin."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    name: SourceName = Field(description="Part of the webhook's URL and a label of its metrics.")
    provider: str = Field(description="Provider id, such as `sendgrid`.")
    domain: DomainName | None = Field(None, description="Sending domain of events whose payload names none.")
    stream: Label = Field("", description="Stream of events that carry none of the tags in `streams`.")
    streams: tuple[Label, ...] = Field((), max_length=50, description="Tags that are streams, the first match wins.")
    relayed: bool = Field(
        False,
        description="In a core: its webhooks come to an edge, so that here it has neither URL nor credentials, and "
        "its silence is noticed.",
    )

    @field_validator("provider")
    @classmethod
    def _known(cls, value: str) -> str:
        return known_provider(value)

    @model_validator(mode="after")
    def _authenticated(self) -> Source:
        ways = PROVIDERS[self.provider].CREDENTIALS
        names = {name for way in ways for name in way}
        extra = self.__pydantic_extra__ or {}
        for key, value in extra.items():
            if key not in names:
                known = (*type(self).model_fields, *names)
                raise PydanticCustomError("credential", "unknown key{hint}", {
                    "key": key, "hint": did_you_mean(key, known),
                })  # fmt: skip
            _check_credential(key, value)
        if self.relayed and not extra:
            return self
        if not any(all(extra.get(name) for name in way) for way in ways):
            wanted = " or ".join(" and ".join(f"`{name}`" for name in way) for way in ways)
            raise PydanticCustomError(
                "unauthenticated",
                "a {provider} source needs {wanted}, or anyone could post to it",
                {"provider": self.provider, "wanted": wanted},
            )
        problem = PROVIDERS[self.provider].validate_credentials(self.credentials)
        if problem:
            raise PydanticCustomError("credential", "{problem}", {"problem": problem})
        return self

    @property
    def credentials(self) -> Credentials:
        """The provider's credentials as ``Provider.authenticate`` takes them."""
        return {k: v if isinstance(v, dict | str) else tuple(v) for k, v in (self.__pydantic_extra__ or {}).items()}

    def __repr__(self) -> str:
        return f"Source(name={self.name!r}, provider={self.provider!r})"

    __str__ = __repr__


def _check_credential(key: str, value: object) -> None:
    flat = list(value.values()) if isinstance(value, dict) else [value]
    for item in flat:
        for secret in item if isinstance(item, list) else [item]:
            if not isinstance(secret, str) or not secret:
                raise PydanticCustomError("credential", "must be text, not empty (quote numbers)", {"key": key})
    if (key == "headers") != isinstance(value, dict):
        what = "a mapping of header names to secrets" if key == "headers" else "text or a list of texts"
        raise PydanticCustomError("credential", "must be {what}", {"key": key, "what": what})


class TestTraffic(Model):
    """Mail that is sent for a test, and enters no rate. What providers mark as a test themselves is left out anyway."""

    recipients: tuple[Recipient, ...] = Field(
        (),
        max_length=10_000,
        repr=False,
        description="Addresses of seeds, and domains (with all below them) that only seeds live in.",
    )
    own_domains: bool = Field(False, description="Whether mail to one of `domains` itself is a test.")

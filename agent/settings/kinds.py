"""What a value can be: durations, addresses, names. Each says what it wants in a sentence."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from agent.providers import PROVIDERS
from agent.settings_file import PREFIX, did_you_mean

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", value)
        if not match:
            raise PydanticCustomError("duration", "a duration is a number with a unit, such as 30s, 5m, 24h or 7d")
        return float(match[1]) * _UNITS[match[2]]
    return value


def _host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or (":" in host and host[0] != "["):
        raise PydanticCustomError("host_port", "an address is HOST:PORT, such as 127.0.0.1:8081 or [::]:8080")
    return value


def _resolver(value: str) -> str:
    match = re.fullmatch(r"\[([^]]*)\](?::(\d{1,5}))?|([^:]*):(\d{1,5})", value, re.ASCII)
    try:
        ipaddress.ip_address((match[1] or match[3] or "") if match else value)
        good = not match or 0 < int(match[2] or match[4] or 53) < 65536
    except ValueError:
        good = False
    if not good:
        raise PydanticCustomError("resolver", "a resolver is an IP address, or address:port")
    return value


def domain_name(value: str) -> str:
    """A domain in lower-case ASCII without a final dot. Raises ``PydanticCustomError``."""
    name = value.rstrip(".").lower()
    try:
        name = name.encode("idna").decode("ascii") if not name.isascii() else name
    except UnicodeError:
        raise PydanticCustomError("domain", "this is not a domain name") from None
    labels = name.split(".")
    if (
        len(name) > 253
        or len(labels) < 2
        or not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?", x) for x in labels)
    ):
        raise PydanticCustomError("domain", "a domain is a full name such as example.com")
    return name


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value):
        raise PydanticCustomError(
            "name", "a name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter or digit (it is part of the URL)"
        )
    return value


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise PydanticCustomError("url", "this must be an http:// or https:// URL")
    if "@" in parts.netloc:
        # The URL names the Alertmanager in metrics and on the status page.
        raise PydanticCustomError("url", "give the user and password as `username` and `password`, not in the URL")
    return value.rstrip("/")


def _broker_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise PydanticCustomError("url", "a broker is mqtt://HOST:PORT, or mqtts:// for TLS")
    if "@" in parts.netloc:
        raise PydanticCustomError("url", "give the user and password as `username` and `password`, not in the URL")
    return value.rstrip("/")


def _recipient(value: str) -> str:
    local, at, domain = value.strip().lower().rpartition("@")
    if (at and not local) or len(local) > 256 or any(c.isspace() for c in local):
        raise PydanticCustomError("recipient", "a recipient is a mail address or a domain")
    return local + at + domain_name(domain)


def ip_address(value: str) -> str:
    """An IP address in its usual form. Raises ``PydanticCustomError``."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise PydanticCustomError("ip", "this is not an IP address") from None


def known_provider(value: str) -> str:
    """A provider id. Raises ``PydanticCustomError``."""
    if value not in PROVIDERS:
        raise PydanticCustomError("provider", "unknown provider{hint}; known: {known}", {
            "hint": did_you_mean(value, PROVIDERS), "known": ", ".join(sorted(PROVIDERS)),
        })  # fmt: skip
    return value


def ascending(value: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two numbers of which the first is not the greater; ``None`` is no end. Raises ``PydanticCustomError``."""
    if None not in value and value[0] > value[1]:
        raise PydanticCustomError("range", "the first number must not be above the second")
    return value


_SPELLINGS = WithJsonSchema({
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*$"}],
    "examples": ["30s"],
})  # fmt: skip
Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=400 * 86400), _SPELLINGS]
Timeout = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=60), _SPELLINGS]
Interval = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=10), _SPELLINGS]
HostPort = Annotated[str, AfterValidator(_host_port), Field(examples=["127.0.0.1:8081"])]
DomainName = Annotated[str, AfterValidator(domain_name), Field(examples=["example.com"])]
Recipient = Annotated[str, AfterValidator(_recipient), Field(examples=["seed@example.net"])]
IpAddress = Annotated[str, AfterValidator(ip_address), Field(examples=["192.0.2.25"])]
Resolver = Annotated[str, AfterValidator(_resolver), Field(examples=["192.0.2.53:5353"])]
Selector = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$", max_length=200, examples=["s1"])
]
HeloName = Annotated[str, Field(pattern=r"^[!-~]{1,253}$", examples=["mail.example.com"])]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*[^/\x00]$", examples=["/etc/mailvitals-tls/tls.crt"])]
SourceName = Annotated[str, AfterValidator(_name), Field(examples=["marketing"])]
Label = Annotated[str, Field(max_length=100)]
HttpUrl = Annotated[str, AfterValidator(_http_url), Field(examples=["http://alertmanager:9093"])]
BrokerUrl = Annotated[str, AfterValidator(_broker_url), Field(examples=["mqtts://broker.example.internal:8883"])]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Mails = Annotated[int, Field(ge=0)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Range = Annotated[tuple[_NotNegative, _NotNegative], AfterValidator(ascending)]
PhaseName = Literal["foundation", "growth", "enterprise"]


class Model(BaseModel):
    """A section, or one of a list of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class File(BaseSettings):
    """What a whole file holds. Where its values come from is the business of ``settings_file`` alone."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

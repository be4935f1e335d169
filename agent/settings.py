"""The one typed model of all settings: a YAML file, ``MAILVITALS_…`` variables over it, secrets from ``…_file`` twins.

Every model refuses unknown keys and is frozen. ``load`` turns whatever is wrong into one ``SettingsError`` that
lists every problem with its path, its line where the file has one, and a suggestion where one is close.
``docs/settings.md`` is made from the descriptions here by ``make settings``.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from agent import settings_file
from agent.dns.blocklists import BLOCKLISTS
from agent.ledger.base import Server
from agent.providers import PROVIDERS, Credentials
from agent.settings_file import FILE, PREFIX, SettingsError, did_you_mean
from agent.vitals.phases import PHASES, Phase

__all__ = ["Settings", "SettingsError", "domain_name", "ip_address", "load", "loads", "schema"]

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


def _provider(value: str) -> str:
    if value not in PROVIDERS:
        raise PydanticCustomError("provider", "unknown provider{hint}; known: {known}", {
            "hint": did_you_mean(value, PROVIDERS), "known": ", ".join(sorted(PROVIDERS)),
        })  # fmt: skip
    return value


def _ascending(value: tuple[Any, Any]) -> tuple[Any, Any]:
    if None not in value and value[0] > value[1]:
        raise PydanticCustomError("range", "the first number must not be above the second")
    return value


_DURATION = WithJsonSchema({
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*$"}],
    "examples": ["30s"],
})  # fmt: skip
Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=400 * 86400), _DURATION]
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
Range = Annotated[tuple[_NotNegative, _NotNegative], AfterValidator(_ascending)]


PhaseName = Literal["foundation", "growth", "enterprise"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PrivateTls(_Model):
    """TLS of the private listener. PEM files; a new certificate is taken up within seconds."""

    certificate: AbsolutePath = Field(description="File of the certificate, and of those that lead to its authority.")
    key: AbsolutePath = Field(description="File of its private key.")
    client_ca: AbsolutePath | None = Field(
        None,
        description="File of authorities. All but /healthz and /readyz then takes a client certificate of theirs, and "
        "the token too where there is one.",
    )


class Listen(_Model):
    """Where the two listeners are."""

    public: HostPort = Field(
        "0.0.0.0:8080", description="Takes webhooks, nothing else; TLS is the work of the reverse proxy before it."
    )
    private: HostPort = Field("127.0.0.1:8081", description="Metrics, health, API and the status page.")
    private_token: SecretStr | None = Field(
        None, description="Bearer token that protects the private listener, all but /healthz and /readyz."
    )
    private_tls: PrivateTls | None = Field(
        None, description="TLS of the private listener, where others share the network that it is reached through."
    )
    max_body_bytes: int = Field(
        10 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Size in bytes beyond which a webhook body is answered 413.",
    )
    drain: Duration = Field(
        5.0,
        description="How long an agent that got SIGTERM still takes webhooks, not ready any more, until load balancers "
        "have noticed and connections that are kept have moved on. SIGINT ends it without.",
    )
    max_connections: int = Field(
        2000,
        ge=16,
        le=100_000,
        description="Most open connections of the public listener; one more is answered 503. Fewer where the process "
        "may not open so many files.",
    )
    max_connections_per_address: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Most of them from one address (of IPv6 one /64). Behind a reverse proxy all are the proxy's.",
    )


_POSTGRESQL = ("postgres://", "postgresql://")
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def _postgresql(url: str) -> str:
    """A URL that may be shown: its password is elsewhere."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if (
        not re.fullmatch(r"[^\0\s#]+", url)
        or not (parts.netloc or "host" in query)
        or len(parts.path) < 2
        or "@" in parts.path
    ):
        raise PydanticCustomError("store", "a store on PostgreSQL is postgresql://user@host:5432/database")
    if "password" in query:
        raise PydanticCustomError("store", "the password of a store goes into `store.password` or its file")
    if query.get("sslmode", "prefer") not in _SSLMODES:
        raise PydanticCustomError("store", "sslmode is one of {modes}", {"modes": ", ".join(_SSLMODES)})
    return url


class Store(_Model):
    """Where events are counted; in an edge, where they wait while no core can be reached."""

    url: str = Field(
        description="`sqlite:////absolute/path` on a local or block volume, never NFS; or, for several agents on one "
        "store, `postgresql://user@host:5432/database?sslmode=verify-full&sslrootcert=/path/ca.crt`."
    )
    password: SecretStr | None = Field(
        None, description="Password of a `postgresql:` store. One in the URL is taken out of it and kept as secret."
    )
    min_connections: int = Field(1, ge=0, le=100, description="Connections to PostgreSQL that are kept open.")
    max_connections: int = Field(4, ge=2, le=100, description="Most connections to PostgreSQL that an agent takes.")
    identity_key: SecretStr | None = Field(
        None,
        description="Key of the hashes that recognise an event, at least 32 characters. Without it the agent makes one "
        "on its first start, mode 0600, beside an SQLite database; for PostgreSQL it must be given, the same to every "
        "agent. A database written with another key is refused.",
    )
    quarantine_max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Most bytes of sealed unreadable bodies; the oldest give way, and after 7 days all do.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value.startswith(_POSTGRESQL):
            return _postgresql(value)
        if not re.fullmatch(r"sqlite:////[^\0?#]+", value) or value.endswith("/"):
            raise PydanticCustomError(
                "store",
                "a store is sqlite: with four slashes and an absolute path: sqlite:////var/lib/mailvitals/ledger.db, "
                "or postgresql://user@host:5432/database",
            )
        return value

    @field_validator("identity_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise PydanticCustomError("key", "an identity key has at least 32 characters")
        return value

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, value: object) -> object:
        """The password of a URL, taken out of it."""
        url = value.get("url") if isinstance(value, dict) else None
        if not isinstance(url, str) or not url.startswith(_POSTGRESQL):
            return value
        scheme, _, rest = url.partition("://")
        place, slash, database = rest.partition("/")
        who, at, hosts = place.rpartition("@")
        user, colon, password = who.partition(":")
        if not colon:
            return value
        if value.get("password"):  # type: ignore[attr-defined]
            raise PydanticCustomError("store", "the password is given twice: in `url` and in `password`")
        return {**value, "url": f"{scheme}://{user}{at}{hosts}{slash}{database}", "password": unquote(password)}  # type: ignore[dict-item]

    @model_validator(mode="after")
    def _whole(self) -> Store:
        if self.server and not self.identity_key:
            raise PydanticCustomError(
                "store", "a store that agents share needs `identity_key`, the same for all of them"
            )
        if self.min_connections > self.max_connections:
            raise PydanticCustomError("store", "`min_connections` is above `max_connections`")
        return self

    @property
    def server(self) -> Server | None:
        """The database of a ``postgresql:`` URL."""
        if not self.url.startswith(_POSTGRESQL):
            return None
        password = self.password.get_secret_value() if self.password else ""
        return Server(self.url, password, self.min_connections, self.max_connections)

    @property
    def path(self) -> Path:
        """The database file of a ``sqlite:`` URL."""
        return Path(self.url.removeprefix("sqlite:///"))


class Bus(_Model):
    """An MQTT 5 broker between agents."""

    mode: Literal["none", "edge", "core"] = Field(
        "none",
        description="`edge`: verifies webhooks and relays them; counts, judges and watches nothing. `core`: counts "
        "what edges relay, beside all that it does without a bus, and publishes verdicts and findings.",
    )
    url: BrokerUrl | None = Field(
        None, description="`mqtt://host:port`, or `mqtts://` for TLS; ports 1883 and 8883 if left out."
    )
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = Field(
        "", description="Name of this agent on the bus, which no other agent has; the host's name when empty."
    )
    username: str = Field("", description="User that the broker knows the agent by.")
    password: SecretStr | None = Field(None, description="Password of that user.")
    tls_ca: str = Field("", description="Path of the authorities to trust (PEM); the system's when empty.")
    tls_certificate: str = Field("", description="Path of a client certificate with its chain (PEM).")
    tls_key: str = Field("", description="Path of its key, if that is not in the same file.")
    key: SecretStr | tuple[SecretStr, ...] | None = Field(
        None,
        description="Key that signs what agents send each other, at least 32 characters, the same for all of them; of "
        "two the first signs and both are believed, so that it can be changed.",
    )
    spool_max_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=1024 * 1024,
        description="Most bytes that an edge keeps on disk (`store.url`) while no core can be reached; beyond it "
        "webhooks are answered 503.",
    )

    @field_validator("key")
    @classmethod
    def _keys(cls, value: SecretStr | tuple[SecretStr, ...] | None) -> SecretStr | tuple[SecretStr, ...] | None:
        given = value if isinstance(value, tuple) else (value,) if value else ()
        if (value is not None and not 1 <= len(given) <= 2) or any(len(k.get_secret_value()) < 32 for k in given):
            raise PydanticCustomError("key", "a bus key has at least 32 characters, and there are one or two of them")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Bus:
        if self.mode == "none":
            return self
        for name in ("url", "key"):
            if getattr(self, name) is None:
                raise PydanticCustomError("bus", "`{mode}` needs `{name}`", {"mode": self.mode, "name": name})
        if self.password and not self.username:
            raise PydanticCustomError("pair", "a password goes with a `username`")
        if (self.tls_ca or self.tls_certificate or self.tls_key) and not (self.url or "").startswith("mqtts:"):
            raise PydanticCustomError("bus", "`tls_…` needs a broker at mqtts://")
        return self

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys, the one that signs first."""
        given = self.key if isinstance(self.key, tuple) else (self.key,) if self.key else ()
        return tuple(key.get_secret_value().encode() for key in given)


class Blocklist(_Model):
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


class Dns(_Model):
    """How DNS is watched."""

    resolvers: tuple[Resolver, ...] = Field(
        (), description="IP addresses, with `:port` if not 53; the system's resolvers when empty."
    )
    interval: Duration = Field(300.0, description="Longest time between two looks at the same record.")
    min_interval: Duration = Field(60.0, description="Shortest time between two looks, however small the TTL.")
    timeout: Annotated[float, BeforeValidator(_duration), Field(gt=0, le=60), _DURATION] = Field(
        3.0, description="How long the answer to one query is waited for."
    )
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


class Alertmanager(_Model):
    """One Alertmanager; of a cluster, list every member."""

    url: HttpUrl = Field(
        description="Base URL, path included if it has one. Without user and password, which have keys of their own."
    )
    token: SecretStr | None = Field(None, description="Bearer token, instead of a username and password.")
    username: str | None = Field(None, description="User of basic authentication; goes with `password`.")
    password: SecretStr | None = Field(None, description="Password of basic authentication; goes with `username`.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Alertmanager:
        if (self.username is None) != (self.password is None):
            raise PydanticCustomError("pair", "username and password go together")
        if self.token and self.username:
            raise PydanticCustomError("pair", "give a token or a username and password, not both")
        return self


class Alerts(_Model):
    """When an incident ends and how it is sent."""

    quiet_period: Duration = Field(1800.0, description="How long a condition must be gone before its incident closes.")
    resend: Duration = Field(60.0, description="How often firing alerts are sent again.")
    runbook_base: str = Field(
        "docs/alerts.md", description="Where the runbooks are, a URL or path; `#anchor` is appended."
    )


class Vitals(_Model):
    """How often and by what the rates are judged."""

    interval: Annotated[float, BeforeValidator(_duration), Field(gt=0, le=10), _DURATION] = Field(
        5.0, description="Time between two evaluations, at most 10s."
    )
    stale_after: Duration = Field(
        86400.0, description="A domain without any event for so long is `stale`: no verdict rather than an old one."
    )
    bounce_classes: tuple[Literal["hard", "soft", "block", "undetermined"], ...] = Field(
        ("hard", "undetermined"), min_length=1, description="Which classes the bounce rate counts."
    )


class TestTraffic(_Model):
    """Mail that is sent for a test, and enters no rate. What providers mark as a test themselves is left out anyway."""

    recipients: tuple[Recipient, ...] = Field(
        (),
        max_length=10_000,
        repr=False,
        description="Addresses of seeds, and domains (with all below them) that only seeds live in.",
    )
    own_domains: bool = Field(False, description="Whether mail to one of `domains` itself is a test.")


class Log(_Model):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    format: Literal["auto", "json", "console"] = Field("auto", description="`auto`: console on a terminal, else JSON.")


class Source(_Model):
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
        return _provider(value)

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


class MailStream(_Model):
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
        return _provider(value) if value else value


class Domain(_Model):
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


class PhaseOverride(_Model):
    """Numbers of a built-in phase that are different here; see `docs/rates.md` for the built-in ones."""

    duration_weeks: Range | None = Field(None, description="Least and most weeks the phase takes.")
    budget_usd: Range | None = Field(None, description="Least and most USD a month.")
    expected_roi_percent: Range | None = Field(None, description="Least and most return on investment, percent.")
    deliverability_min: Ratio | None = Field(None, description="Least share of attempted mail that is delivered.")
    bounce_max: Ratio | None = Field(None, description="Share of attempted mail that bounces must stay below.")
    complaint_max: Ratio | None = Field(None, description="Share of delivered mail below which complaints are fine.")
    complaint_breach: Ratio | None = Field(None, description="Share of delivered mail above which they are a breach.")
    capacity: Annotated[tuple[Mails | None, Mails | None], AfterValidator(_ascending)] | None = Field(
        None, description="Mails in 30 days, from and to; `null` is no such end."
    )
    sustained_days: Annotated[int, Field(ge=1, le=180)] | None = Field(
        None, description="Days in a row on which the targets must be proven before the next phase."
    )


class Phases(_Model):
    """The three phases."""

    foundation: PhaseOverride = Field(PhaseOverride(), description="The first.")
    growth: PhaseOverride = Field(PhaseOverride(), description="The second.")
    enterprise: PhaseOverride = Field(PhaseOverride(), description="The third.")

    @model_validator(mode="after")
    def _sensible(self) -> Phases:
        for name, phase in self.in_force().items():
            if phase.complaint_max > phase.complaint_breach:
                raise PydanticCustomError(
                    "phase", "{name}: complaint_max must not be above complaint_breach", {"name": name}
                )
        return self

    def in_force(self) -> dict[str, Phase]:
        """The built-in phases with the overrides applied, by name."""
        return {
            name: msgspec.structs.replace(phase, **getattr(self, name).model_dump(exclude_none=True))
            for name, phase in PHASES.items()
        }


class _File(BaseSettings):
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


class Settings(_File):
    """mailvitals settings."""

    listen: Listen = Field(description="Where the two listeners are.")
    store: Store = Field(description="Where events are counted; in an edge, where they wait for a core.")
    dns: Dns = Field(Dns(), description="How DNS is watched.")
    blocklists: tuple[Blocklist, ...] = Field(
        (),
        max_length=50,
        description="Blocklists to ask about domains, `sending_ips` and `shared_ips`, each on its own terms of use "
        "(`docs/blocklists.md`). A name will do.",
    )
    alertmanagers: tuple[Alertmanager, ...] = Field(
        (),
        max_length=100,
        description="Where alerts go: every member of a cluster, never a load balancer before them. A URL will do.",
    )
    alerts: Alerts = Field(Alerts(), description="When an incident ends and how it is sent.")
    vitals: Vitals = Field(Vitals(), description="How often and by what the rates are judged.")
    test_traffic: TestTraffic = Field(TestTraffic(), description="Mail that is sent for a test, and enters no rate.")
    bus: Bus = Field(Bus(), description="An MQTT 5 broker between agents (`docs/mqtt.md`).")
    log: Log = Field(Log(), description="What is logged and how.")
    sources: tuple[Source, ...] = Field((), max_length=1000, description="The webhooks, one for each URL.")
    domains: tuple[Domain, ...] = Field((), max_length=10_000, description="The domains that are sent from.")
    phases: Phases = Field(Phases(), description="Numbers of the built-in phases that are different here.")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.sources and not self.domains:
            raise PydanticCustomError("empty", "there is nothing to watch: configure `sources`, `domains` or both")
        for what, names in (("sources", [s.name for s in self.sources]), ("domains", [d.name for d in self.domains])):
            twice = [name for name, n in Counter(names).items() if n > 1]
            if twice:
                raise PydanticCustomError("twice", "{what} has `{name}` twice", {"what": what, "name": twice[0]})
        self._check_bus()
        return self

    def _check_bus(self) -> None:
        mode = self.bus.mode
        if mode != "none" and not self.store.identity_key:
            what = "bus.mode {mode} needs `store.identity_key`, on which edges and cores must agree"
            raise PydanticCustomError("bus", what, {"mode": mode})
        if mode == "edge" and not self.sources:
            raise PydanticCustomError("bus", "an edge without `sources` has nothing to relay")
        if mode == "edge" and self.store.server:
            raise PydanticCustomError("bus", "what waits in an edge lies on its own disk: its `store.url` is sqlite:")
        relayed = [s.name for s in self.sources if s.relayed]
        if relayed and mode != "core":
            raise PydanticCustomError("bus", "the source `{name}` is `relayed`, which only a core's can be", {
                "name": relayed[0],
            })  # fmt: skip


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read and check the settings. Raises ``SettingsError`` with every problem found, and nothing else."""
    return settings_file.load(Settings, path, environ)


def loads(text: str, environ: Mapping[str, str], origin: str = "settings") -> Settings:
    """Like ``load``, from text."""
    return settings_file.loads(Settings, text, environ, origin)


class Trial(_File):
    """A policy to try on stored history: the settings that decide which rates become alerts, as far as they are to be
    different."""

    phases: Phases = Phases()
    vitals: Vitals = Vitals()
    alerts: Alerts = Alerts()
    domain_phases: dict[DomainName, PhaseName] = {}

    @model_validator(mode="after")
    def _has_effect(self) -> Trial:
        for section, idle in (("vitals", {"interval"}), ("alerts", {"resend", "runbook_base"})):
            given: set[str] = getattr(self, section).model_fields_set & idle
            if given:
                raise PydanticCustomError(
                    "idle", "`{key}` decides nothing that is replayed", {"key": f"{section}.{min(given)}"}
                )
        return self


def load_policy(path: Path, settings: Settings) -> Settings:
    """The settings with the policy in a file in place of their own. Raises ``SettingsError`` with every problem."""
    trial = settings_file.load(Trial, path, {})
    names = [d.name for d in settings.domains]
    problems = [
        f"{path}: domain_phases: no domain `{name}` is configured{did_you_mean(name, names)}"
        for name in trial.domain_phases
        if name not in names
    ]
    phases = {
        name: getattr(settings.phases, name).model_dump(exclude_unset=True)
        | getattr(trial.phases, name).model_dump(exclude_unset=True)
        for name in PHASES
    }
    try:
        merged = Phases.model_validate(phases)
    except ValidationError as e:
        problems += [f"{path}: phases, with those in force: {error['msg']}" for error in e.errors()]
    if problems:
        raise SettingsError(problems)
    return settings.model_copy(
        update={
            "phases": merged,
            "vitals": settings.vitals.model_copy(update=trial.vitals.model_dump(exclude_unset=True)),
            "alerts": settings.alerts.model_copy(update=trial.alerts.model_dump(exclude_unset=True)),
            "domains": tuple(
                d.model_copy(update={"phase": trial.domain_phases.get(d.name, d.phase)}) for d in settings.domains
            ),
        }
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of a settings file, with each provider's credentials and every ``…_file`` twin."""
    document = Settings.model_json_schema()
    text = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    source = document["$defs"]["Source"]
    source["properties"]["provider"]["enum"] = sorted(PROVIDERS)
    for name in sorted({n for p in PROVIDERS.values() for way in p.CREDENTIALS for n in way}):
        kind: dict[str, Any] = {"type": "object", "additionalProperties": text} if name == "headers" else text
        users = ", ".join(sorted(i for i, p in PROVIDERS.items() if any(name in way for way in p.CREDENTIALS)))
        source["properties"][name] = {**kind, "description": f"Credential ({users})."}
        source["properties"][name + FILE] = {**kind, "description": f"File(s) holding `{name}`."}
    source["additionalProperties"] = False
    for definition in document["$defs"].values():
        properties = definition.get("properties", {})
        for name, spec in list(properties.items()):
            if "'format': 'password'" in str(spec):
                kind = text if "'array'" in str(spec) else {"type": "string"}
                properties[name + FILE] = {**kind, "description": f"File holding `{name}`."}
    # One of the two must be there, and a plain URL or name is as good as a mapping.
    document["anyOf"] = [{"required": ["sources"]}, {"required": ["domains"]}]
    for name in ("alertmanagers", "blocklists"):
        items = document["properties"][name]["items"]
        document["properties"][name]["items"] = {"anyOf": [{"type": "string"}, items]}
    return document

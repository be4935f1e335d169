"""The one typed model of all settings: a YAML file, ``MAILVITALS_…`` variables over it, secrets from ``…_file`` twins.

Every model refuses unknown keys and is frozen. ``load`` turns whatever is wrong into one ``SettingsError`` that
lists every problem with its path, its line where the file has one, and a suggestion where one is close.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import EnvSettingsSource

from agent.providers import PROVIDERS, Credentials
from agent.vitals.phases import PHASES, Phase

PREFIX = "MAILVITALS_"
_FILE = "_file"
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class SettingsError(Exception):
    """The settings cannot be used. ``problems`` has one line for each thing that is wrong; none quotes a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", value)
        if not match:
            raise PydanticCustomError("duration", "a duration is a number with a unit, such as 30s, 5m, 24h or 7d")
        return float(match[1]) * _UNITS[match[2]]
    return value


def _host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 65536 or (":" in host and host[0] != "["):
        raise PydanticCustomError("host_port", "an address is HOST:PORT, such as 127.0.0.1:8081 or [::]:8080")
    return value


def _resolver(value: str) -> str:
    bare = value
    if not value.startswith("[") and value.count(":") == 1:
        bare, _, port = value.partition(":")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise PydanticCustomError("resolver", "a resolver is an IP address, or address:port")
    elif value.startswith("["):
        bare = value[1:].partition("]")[0]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise PydanticCustomError("resolver", "a resolver is an IP address, or address:port") from None
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
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PydanticCustomError("url", "this must be an http:// or https:// URL")
    return value.rstrip("/")


def ip_address(value: str) -> str:
    """An IP address in its usual form. Raises ``PydanticCustomError``."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise PydanticCustomError("ip", "this is not an IP address") from None


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=400 * 86400)]
HostPort = Annotated[str, AfterValidator(_host_port)]
DomainName = Annotated[str, AfterValidator(domain_name)]
SourceName = Annotated[str, AfterValidator(_name)]
Label = Annotated[str, Field(max_length=100)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Ratio = Annotated[float, Field(gt=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Listen(_Model):
    """Where the two listeners are."""

    public: HostPort = Field("0.0.0.0:8080", description="Takes webhooks, nothing else.")
    private: HostPort = Field("127.0.0.1:8081", description="Metrics, health, API and the status page.")
    private_token: SecretStr | None = Field(
        None, description="Bearer token that protects the private listener, all but /healthz and /readyz."
    )
    max_body_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024, description="Larger webhook bodies are answered 413."
    )


class Store(_Model):
    """Where events are counted."""

    url: str = Field(description="`sqlite:////absolute/path`.")
    identity_key: SecretStr | None = Field(
        None,
        description="Key of the identity hashes, at least 32 characters. The embedded store makes one on first start, "
        "mode 0600, beside the database.",
    )
    quarantine_max_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Cap of sealed unreadable bodies; the oldest give way."
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value.startswith(("postgres://", "postgresql://")):
            raise PydanticCustomError("store", "this version stores in SQLite only: sqlite:////absolute/path")
        if not re.fullmatch(r"sqlite:////[^\0?#]+", value) or value.endswith("/"):
            raise PydanticCustomError(
                "store",
                "a store is sqlite: with four slashes and an absolute path: sqlite:////var/lib/mailvitals/ledger.db",
            )
        return value

    @field_validator("identity_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise PydanticCustomError("key", "an identity key has at least 32 characters")
        return value

    @property
    def path(self) -> Path:
        """The database file of a ``sqlite:`` URL."""
        return Path(self.url.removeprefix("sqlite:///"))


class Dns(_Model):
    """How DNS is watched."""

    resolvers: tuple[Annotated[str, AfterValidator(_resolver)], ...] = Field(
        (), description="`host` or `host:port`; the system's resolvers when empty."
    )
    interval: Duration = Field(300.0, description="Longest time between two looks at the same record.")
    min_interval: Duration = Field(60.0, description="Shortest time between two looks, however small the TTL.")
    timeout: Annotated[float, BeforeValidator(_duration), Field(gt=0, le=60)] = Field(3.0, description="Of one query.")


class Alertmanager(_Model):
    """One Alertmanager; of a cluster, list every member."""

    url: HttpUrl = Field(description="Base URL, path included if it has one.")
    token: SecretStr | None = Field(None, description="Sent as a bearer token.")
    username: str | None = Field(None, description="For basic authentication.")
    password: SecretStr | None = Field(None, description="For basic authentication.")

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
    runbook_base: str = Field("docs/alerts.md", description="Where runbooks are; `#anchor` is appended.")


class Vitals(_Model):
    """How rates are judged."""

    interval: Annotated[float, BeforeValidator(_duration), Field(gt=0, le=10)] = Field(
        5.0, description="Time between two evaluations, at most 10s."
    )
    stale_after: Duration = Field(86400.0, description="A domain without any event for so long is `stale`.")
    bounce_classes: tuple[Literal["hard", "soft", "block", "undetermined"], ...] = Field(
        ("hard", "undetermined"), min_length=1, description="Which classes the bounce rate counts."
    )


class Log(_Model):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
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

    @field_validator("provider")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PROVIDERS:
            raise PydanticCustomError("provider", "unknown provider{hint}; known: {known}", {
                "hint": _did_you_mean(value, PROVIDERS), "known": ", ".join(sorted(PROVIDERS)),
            })  # fmt: skip
        return value

    @model_validator(mode="after")
    def _authenticated(self) -> Source:
        ways = PROVIDERS[self.provider].CREDENTIALS
        names = {name for way in ways for name in way}
        extra = self.__pydantic_extra__ or {}
        for key, value in extra.items():
            if key not in names:
                known = (*type(self).model_fields, *names)
                raise PydanticCustomError("credential", "unknown key{hint}", {
                    "key": key, "hint": _did_you_mean(key, known),
                })  # fmt: skip
            _check_credential(key, value)
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


class Domain(_Model):
    """A sending domain that is watched."""

    name: DomainName
    phase: Literal["foundation", "growth", "enterprise"] = "foundation"
    dkim_selectors: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$")], ...] = Field(
        (), description="Selectors in use; they cannot be discovered."
    )
    sending_ips: tuple[Annotated[str, AfterValidator(ip_address)], ...] = Field(
        (), description="Addresses that must pass SPF for this domain."
    )


class PhaseOverride(_Model):
    """Numbers of a built-in phase that are different here; see `docs/rates.md` for the built-in ones."""

    duration_weeks: tuple[float, float] | None = None
    budget_usd: tuple[float, float] | None = None
    expected_roi_percent: tuple[float, float] | None = None
    deliverability_min: Ratio | None = None
    bounce_max: Ratio | None = None
    complaint_max: Ratio | None = None
    complaint_breach: Ratio | None = None
    capacity: tuple[int | None, int | None] | None = None


class Phases(_Model):
    """The three phases."""

    foundation: PhaseOverride = PhaseOverride()
    growth: PhaseOverride = PhaseOverride()
    enterprise: PhaseOverride = PhaseOverride()

    def in_force(self) -> dict[str, Phase]:
        """The built-in phases with the overrides applied, by name."""
        return {
            name: msgspec.structs.replace(phase, **getattr(self, name).model_dump(exclude_none=True))
            for name, phase in PHASES.items()
        }


class Settings(BaseSettings):
    """mailvitals settings."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", hide_input_in_errors=True
    )

    listen: Listen
    store: Store
    dns: Dns = Dns()
    alertmanagers: tuple[Alertmanager, ...] = ()
    alerts: Alerts = Alerts()
    vitals: Vitals = Vitals()
    log: Log = Log()
    sources: tuple[Source, ...] = Field((), max_length=1000)
    domains: tuple[Domain, ...] = Field((), max_length=10_000)
    phases: Phases = Phases()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.sources and not self.domains:
            raise PydanticCustomError("empty", "there is nothing to watch: configure `sources`, `domains` or both")
        for what, names in (("sources", [s.name for s in self.sources]), ("domains", [d.name for d in self.domains])):
            twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
            if twice:
                raise PydanticCustomError("twice", "{what} has `{name}` twice", {"what": what, "name": twice[0]})
        return self

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


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read and check the settings. Raises ``SettingsError`` with every problem found, and nothing else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError([f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}"]) from None
    return loads(text, environ, str(path))


def loads(text: str, environ: Mapping[str, str], origin: str = "settings") -> Settings:
    """Like ``load``, from text."""
    data, lines, problems = _read_yaml(text, origin)
    problems += _unknown_variables(environ)
    if not problems:
        _merge(data, _from_environment(environ, problems))
        data = _read_files(data, (), problems)
    if problems:
        raise SettingsError(problems)
    try:
        return Settings(**data)
    except ValidationError as e:
        raise SettingsError([_explain(dict(err), lines, origin) for err in e.errors(include_url=False)]) from None


def _read_yaml(text: str, origin: str) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int], list[str]]:
    lines: dict[tuple[str | int, ...], int] = {}
    problems: list[str] = []

    def walk(node: yaml.Node | None, at: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = str(key.value)
                if (*at, name) in lines:
                    problems.append(f"{origin}:{key.start_mark.line + 1}: {_dotted((*at, name))}: given twice")
                lines[(*at, name)] = key.start_mark.line + 1
                walk(value, (*at, name))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                lines[(*at, i)] = value.start_mark.line + 1
                walk(value, (*at, i))

    try:
        walk(yaml.compose(text, Loader=yaml.SafeLoader), ())
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        return {}, {}, [f"{origin}{where}: not valid YAML: {getattr(e, 'problem', None) or type(e).__name__}"]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        return {}, {}, [f"{origin}: the file must be a mapping of sections such as `listen:` and `store:`"]
    return data, lines, problems


class _Environment(EnvSettingsSource):
    """pydantic-settings' own reading of nested variables, over a given mapping instead of the process's."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._given = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {k.lower(): v for k, v in self._given.items()}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    try:
        return _Environment(environ)()
    except ValueError as e:
        problems.append(f"environment: {str(e).splitlines()[0]} (lists and mappings are given as JSON)")
        return {}


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {PREFIX + "__".join(p).upper() for p in _paths(Settings, ())}
    known |= {k + _FILE.upper() for k in known}
    opaque = {PREFIX + k.upper() for k in ("phases",)}
    return [
        f"environment: {name}: unknown variable{_did_you_mean(name, known)}"
        for name in sorted(environ)
        if name.upper().startswith(PREFIX)
        and name.upper() not in known
        and not any(name.upper().startswith(o + "__") for o in opaque)
    ]


def _paths(model: type[BaseModel], at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*at, name)
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _paths(kind, (*at, name))


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            _merge(under[key], value)
        else:
            under[key] = value


def _read_files(value: Any, at: tuple[str | int, ...], problems: list[str]) -> Any:
    """Replace every ``x_file: path`` by ``x: content``; lists and mappings of paths become such of contents."""
    if isinstance(value, list):
        return [_read_files(item, (*at, i), problems) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = str(key)
        if not name.endswith(_FILE):
            out[name] = _read_files(item, (*at, name), problems)
            continue
        twin = name.removesuffix(_FILE)
        if twin in value:
            problems.append(f"{_dotted((*at, name))}: given beside `{twin}`; keep one of the two")
        out[twin] = _contents(item, (*at, name), problems)
    return out


def _contents(value: Any, at: tuple[str | int, ...], problems: list[str]) -> Any:
    if isinstance(value, list):
        return [_contents(item, (*at, i), problems) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(k): _contents(v, (*at, str(k)), problems) for k, v in value.items()}
    try:
        content = Path(str(value)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        problems.append(f"{_dotted(at)}: the secret file {value} cannot be read: {getattr(e, 'strerror', None) or e}")
        return "?" * 64
    if not content:
        problems.append(f"{_dotted(at)}: the secret file {value} is empty")
        return "?" * 64
    return content


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".") or "settings"


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def _explain(error: dict[str, Any], lines: Mapping[tuple[str | int, ...], int], origin: str) -> str:
    path: tuple[str | int, ...] = tuple(error["loc"])
    message = error["msg"]
    if error["type"] == "credential" and "key" in error.get("ctx", {}):
        path = (*path, error["ctx"]["key"])
    if error["type"] == "extra_forbidden":
        parent = _model_at(path[:-1])
        known = list(parent.model_fields) if parent else []
        known += [
            k + _FILE for k, f in (parent.model_fields if parent else {}).items() if "SecretStr" in str(f.annotation)
        ]
        message = f"unknown key{_did_you_mean(str(path[-1]), known)}"
    elif error["type"] == "missing":
        message = "required, but not given"
    elif not message[:1].isupper() and "`" in message:
        message = message.strip()
    else:
        message = message[:1].lower() + message[1:]
    at = path
    while at and at not in lines:
        at = at[:-1]
    where = f"{origin}:{lines[at]}" if at in lines else origin
    return f"{where}: {_dotted(path)}: {message}"


def _model_at(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: Any = Settings
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return None
        kinds = [field.annotation, *get_args(field.annotation)]
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model if isinstance(model, type) else None


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
        source["properties"][name + _FILE] = {**kind, "description": f"File(s) holding `{name}`."}
    source["additionalProperties"] = False
    for definition in document["$defs"].values():
        properties = definition.get("properties", {})
        for name, spec in list(properties.items()):
            if "password" in str(spec) and spec.get("anyOf"):
                properties[name + _FILE] = {"type": "string", "description": f"File holding `{name}`."}
    # One of the two must be there, and a plain URL is as good as a mapping.
    document["anyOf"] = [{"required": ["sources"]}, {"required": ["domains"]}]
    document["properties"]["alertmanagers"]["items"] = {
        "anyOf": [{"type": "string"}, document["properties"]["alertmanagers"]["items"]]
    }
    return document

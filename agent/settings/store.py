"""Where events are counted."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.ledger.base import Server
from agent.settings.kinds import Model

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


class Store(Model):
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

"""The broker between agents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.kinds import BrokerUrl, Model


class Bus(Model):
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

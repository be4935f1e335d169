"""Where alerts go, and when an incident ends."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.kinds import Duration, HttpUrl, Model


class Alertmanager(Model):
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


class Alerts(Model):
    """When an incident ends and how it is sent."""

    quiet_period: Duration = Field(1800.0, description="How long a condition must be gone before its incident closes.")
    resend: Duration = Field(60.0, description="How often firing alerts are sent again.")
    runbook_base: str = Field(
        "docs/alerts.md", description="Where the runbooks are, a URL or path; `#anchor` is appended."
    )

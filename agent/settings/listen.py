"""The two listeners, and what is logged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from agent.settings.kinds import AbsolutePath, Duration, HostPort, Model


class PrivateTls(Model):
    """TLS of the private listener. PEM files; a new certificate is taken up within seconds."""

    certificate: AbsolutePath = Field(description="File of the certificate, and of those that lead to its authority.")
    key: AbsolutePath = Field(description="File of its private key.")
    client_ca: AbsolutePath | None = Field(
        None,
        description="File of authorities. All but /healthz and /readyz then takes a client certificate of theirs, and "
        "the token too where there is one.",
    )


class Listen(Model):
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


class Log(Model):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    format: Literal["auto", "json", "console"] = Field("auto", description="`auto`: console on a terminal, else JSON.")

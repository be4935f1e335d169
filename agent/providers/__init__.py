"""The registry of providers: one line each."""

from __future__ import annotations

from agent.providers import postmark, sendgrid, sparkpost
from agent.providers.base import AuthenticationError, Credentials, Parsed, ParseError, Provider, WebhookRequest

PROVIDERS: dict[str, Provider] = {
    "sendgrid": sendgrid,
    "postmark": postmark,
    "sparkpost": sparkpost,
}

__all__ = ["PROVIDERS", "AuthenticationError", "Credentials", "ParseError", "Parsed", "Provider", "WebhookRequest"]

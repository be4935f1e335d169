"""The registry of providers: one line each."""

from __future__ import annotations

from agent.providers import mailersend, mailtrap, postmark, resend, sendgrid, sparkpost
from agent.providers.base import AuthenticationError, Credentials, Parsed, ParseError, Provider, WebhookRequest

PROVIDERS: dict[str, Provider] = {
    "sendgrid": sendgrid,
    "postmark": postmark,
    "mailersend": mailersend,
    "mailtrap": mailtrap,
    "resend": resend,
    "sparkpost": sparkpost,
}

__all__ = ["PROVIDERS", "AuthenticationError", "Credentials", "ParseError", "Parsed", "Provider", "WebhookRequest"]

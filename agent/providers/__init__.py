"""The registry of providers: one line each."""

from __future__ import annotations

from agent.providers import (
    brevo,
    elastic_email,
    generic,
    kumomta,
    mailersend,
    mailgun,
    mailjet,
    mailtrap,
    mandrill,
    postal,
    postmark,
    resend,
    sendgrid,
    smtp2go,
    sparkpost,
    unisender_go,
    zeptomail,
)
from agent.providers.base import AuthenticationError, Credentials, Parsed, ParseError, Provider, WebhookRequest

PROVIDERS: dict[str, Provider] = {
    "brevo": brevo,
    "elastic_email": elastic_email,
    "generic": generic,
    "kumomta": kumomta,
    "postmark": postmark,
    "mailersend": mailersend,
    "mailgun": mailgun,
    "mailjet": mailjet,
    "mailtrap": mailtrap,
    "mandrill": mandrill,
    "postal": postal,
    "resend": resend,
    "sendgrid": sendgrid,
    "smtp2go": smtp2go,
    "sparkpost": sparkpost,
    "unisender_go": unisender_go,
    "zeptomail": zeptomail,
}

__all__ = ["PROVIDERS", "AuthenticationError", "Credentials", "ParseError", "Parsed", "Provider", "WebhookRequest"]

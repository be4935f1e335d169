"""Realistic, correctly signed traffic of every provider, with the truth about it. One line per provider."""

from __future__ import annotations

from agent.simulate import (
    azure,
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
    scaleway,
    sendgrid,
    ses,
    smtp2go,
    sparkpost,
    unisender_go,
    zeptomail,
)
from agent.simulate.base import KeyPair, Request, Simulator
from agent.simulate.traffic import Item, Place, Scenario, Traffic, Truth, Voice

SIMULATORS: dict[str, Simulator] = {
    "azure": azure,
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
    "scaleway": scaleway,
    "sendgrid": sendgrid,
    "ses": ses,
    "smtp2go": smtp2go,
    "sparkpost": sparkpost,
    "unisender_go": unisender_go,
    "zeptomail": zeptomail,
}

__all__ = [
    "SIMULATORS",
    "Item",
    "KeyPair",
    "Place",
    "Request",
    "Scenario",
    "Simulator",
    "Traffic",
    "Truth",
    "Voice",
]

"""Realistic, correctly signed traffic of every provider, with the truth about it. One line per provider."""

from __future__ import annotations

from agent.simulate import mailersend, mailtrap, postmark, resend, sendgrid, sparkpost
from agent.simulate.base import KeyPair, Request, Simulator
from agent.simulate.traffic import Item, Place, Scenario, Traffic, Truth, Voice

SIMULATORS: dict[str, Simulator] = {
    "sendgrid": sendgrid,
    "postmark": postmark,
    "mailersend": mailersend,
    "mailtrap": mailtrap,
    "resend": resend,
    "sparkpost": sparkpost,
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

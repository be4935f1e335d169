"""What receiving servers say, by mailbox provider and outcome: the remote texts of simulated reports."""

from __future__ import annotations

from typing import NamedTuple

from agent.events import Kind
from agent.mailbox import mailbox_provider
from agent.simulate.traffic import Item


class Wording(NamedTuple):
    """A remote text and the enhanced code in it."""

    text: str
    enhanced_code: str


_BY_PROVIDER: dict[tuple[str, str], str] = {
    ("gmail", "hard"): "550 5.1.1 The email account that you tried to reach does not exist. {address} - gsmtp",
    ("gmail", "soft"): "452 4.2.2 The recipient's inbox is out of storage space. - gsmtp",
    (
        "gmail",
        "block",
    ): "550 5.7.26 Unauthenticated email from {sender} is not accepted due to domain's policy. - gsmtp",
    ("gmail", "deferred"): "421 4.7.28 Our system has detected an unusual rate of mail from your IP. - gsmtp",
    ("gmail", "delivered"): "250 2.0.0 OK {at} x12si{serial}qkf.12 - gsmtp",
    ("microsoft", "hard"): "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).",
    (
        "microsoft",
        "block",
    ): "550 5.7.1 Messages from [192.0.2.25] weren't sent; part of their network is on our block list",
    ("microsoft", "deferred"): "451 4.7.650 The mail server has been temporarily rate limited due to IP reputation.",
    ("microsoft", "delivered"): "250 2.6.0 <{serial}@{sender}> Queued mail for delivery",
    (
        "yahoo",
        "hard",
    ): "552 5.1.1 <{address}>: mailbox unavailable, delivery error: dd This user doesn't have an account",
    ("yahoo", "block"): "553 5.7.2 [TSS09] All messages from 192.0.2.25 will be permanently deferred",
    ("yahoo", "deferred"): "421 4.7.0 [TSS04] Messages from 192.0.2.25 temporarily deferred due to user complaints",
}
_COMMON = {
    "hard": "550 5.1.1 <{address}>: Recipient address rejected: User unknown",
    "soft": "452 4.2.2 <{address}>: mailbox full",
    "block": "554 5.7.1 Service unavailable; Client host [192.0.2.25] blocked using zen.spamhaus.org",
    "undetermined": "554 5.5.0 Transaction failed",
    "deferred": "450 4.2.0 <{address}>: Recipient address rejected: Greylisted, try again later",
    "delivered": "250 2.0.0 Ok: queued as {serial:011X}",
    "dropped": "Bounced Address",
}


def remote_text(item: Item) -> Wording:
    """What the server said; names the recipient as real ones do."""
    outcome = item.bounce_class or item.kind
    provider = mailbox_provider(item.recipient.rpartition("@")[2])
    template = _BY_PROVIDER.get((provider, outcome)) or _COMMON.get(outcome, "")
    text = template.format(address=item.recipient, sender=item.domain, serial=item.serial, at=item.at)
    coded = item.kind is not Kind.DROPPED and text
    return Wording(text, text.split(" ", 2)[1] if coded else "")

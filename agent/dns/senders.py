"""What sending services are known by in the DNS: the selectors they sign with and the records they ask customers for.

Names that a service makes up for each account (SES, Postmark, SparkPost, SMTP2GO) cannot be guessed and are not here.
Sources: the services' set-up guides and the Domain Connect template repository.
"""

from __future__ import annotations

from collections.abc import Collection, Generator

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.dkim_key import KeyRecordError, read

SELECTORS: dict[str, tuple[str, ...]] = {
    "SendGrid": ("s1", "s2", "smtpapi"),
    "Mailgun": ("pdk1", "pdk2", "mailo", "pic", "k1", "krs", "mx", "mg", "email", "smtp"),
    "Postmark": ("pm",),
    "Mailchimp": ("k2", "k3"),
    "Mandrill": ("mte1", "mte2", "mandrill"),
    "Brevo": ("brevo1", "brevo2", "mail"),
    "Mailjet": ("mailjet",),
    "Resend": ("resend",),
    "Mailtrap": ("rwmt1", "rwmt2"),
    "MailerSend": ("mlsend", "mlsend2", "ml", "litesrv"),
    "Elastic Email": ("api",),
    "SendLayer": ("sl",),
    "Google Workspace": ("google", "20230601"),
    "Microsoft 365": ("selector1", "selector2"),
    "Zoho": ("zmail", "zoho"),
    "Fastmail": ("fm1", "fm2", "fm3", "mesmtp"),
    "Proton": ("protonmail", "protonmail2", "protonmail3"),
    "iCloud": ("sig1",),
    "HubSpot": ("hs1", "hs2"),
    "Klaviyo": ("kl", "kl2", "km1", "km2"),
    "ActiveCampaign": ("acdkim1", "acdkim2", "dk"),
    "Constant Contact": ("ctct1", "ctct2"),
    "Campaign Monitor": ("cm",),
    "Zendesk": ("zendesk1", "zendesk2"),
    "Intercom": ("intercom",),
    "Help Scout": ("strong1", "strong2"),
    "Gorgias": ("gor", "gor2"),
    "Kit": ("cka",),
    "AWeber": ("aweber_key_a", "aweber_key_b", "aweber_key_c"),
    "Emma": ("e2ma-k1", "e2ma-k2", "e2ma-k3"),
    "Sailthru": ("sailthru",),
    "": ("default", "dkim", "key1", "key2", "s1024", "s2048", "selector", "m1"),
}
SERVICES = {selector: service for service, selectors in SELECTORS.items() for selector in selectors}

# What the return path's SPF record refers to, by provider id; the first is the one to publish.
SPF_INCLUDES: dict[str, tuple[str, ...]] = {
    "sendgrid": ("sendgrid.net",),
    "mailgun": ("mailgun.org", "eu.mailgun.org"),
    "ses": ("amazonses.com",),
    "resend": ("amazonses.com",),
    "postmark": ("spf.mtasv.net",),
    "sparkpost": ("sparkpostmail.com", "eu.sparkpostmail.com"),
    "mailjet": ("spf.mailjet.com",),
    "brevo": ("spf.brevo.com", "spf.sendinblue.com"),
    "mandrill": ("spf.mandrillapp.com",),
    "mailersend": ("_spf.mailersend.net",),
    "mailtrap": ("_spf.smtp.mailtrap.live",),
    "smtp2go": ("spf.smtp2go.com",),
    "elastic_email": ("_spf.elasticemail.com",),
    "zeptomail": ("zeptomail.net", "zeptomail.com"),
}

# A selector that nobody has: what answers for it is a wildcard.
_NOBODY = "mailvitals-no-such-selector"


class Probe(msgspec.Struct, frozen=True):
    """``found`` are the answers of the selectors that have a key record of their own. ``empty`` tells that nothing at
    all exists below ``_domainkey`` (RFC 8020), ``lost`` is an answer that did not come."""

    found: dict[str, Answer]
    empty: bool = False
    lost: Answer | None = None


def probe(
    domain: str, among: Collection[str] | None = None
) -> Generator[tuple[Question, ...], tuple[Answer, ...], Probe]:
    """Look for the usual selectors below a domain, or for those ``among`` them, with a question for each and two more.
    That none is found proves nothing: selectors can have any name."""
    selectors = SERVICES if among is None else among
    root = f"_domainkey.{domain}"
    below, nobody = yield (Question(root, "TXT"), Question(f"{_NOBODY}.{root}", "TXT"))
    for answer in (below, nobody):
        if not answer.outcome.definitive:
            return Probe({}, lost=answer)
    if below.outcome is Outcome.NXDOMAIN:
        return Probe({}, empty=True)
    answers = yield tuple(Question(f"{selector}.{root}", "TXT") for selector in selectors)
    wildcard = set(nobody.records)
    found = {
        selector: answer
        for selector, answer in zip(selectors, answers, strict=True)
        if not wildcard.issuperset(answer.records) and any(map(_is_key, answer.records))
    }
    return Probe(found, lost=next((a for a in answers if not a.outcome.definitive), None))


def _is_key(text: str) -> bool:
    """Whether the text is meant as a key that signs: a guess about what was never configured needs more than a tag."""
    try:
        return bool(read(text))
    except KeyRecordError as e:
        return e.reason not in ("key_revoked", "key_undecodable")

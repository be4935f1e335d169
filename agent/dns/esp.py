"""Whose host a name is, where a sending service or a hosting platform gave it out."""

from __future__ import annotations

# Hosts of services that send mail: what return paths, links, MX and reverse names point to.
_SENDERS = {
    "sendgrid.net": "SendGrid", "mailgun.org": "Mailgun", "mailgun.net": "Mailgun", "mailgun.com": "Mailgun",
    "amazonses.com": "Amazon SES", "awstrack.me": "Amazon SES", "mtasv.net": "Postmark",
    "postmarkapp.com": "Postmark", "sparkpostmail.com": "SparkPost", "sparkpostelite.com": "SparkPost",
    "spgo.io": "SparkPost", "resend-dns.com": "Resend", "smtp2go.net": "SMTP2GO", "smtp2go.com": "SMTP2GO",
    "mailersend.net": "MailerSend", "brevosend.com": "Brevo", "sendinblue.com": "Brevo", "sender-sib.com": "Brevo",
    "mailjet.com": "Mailjet", "mcsv.net": "Mailchimp", "rsgsv.net": "Mailchimp", "mcdlv.net": "Mailchimp",
    "mandrillapp.com": "Mandrill", "azurecomm.net": "Azure", "tem.scaleway.com": "Scaleway",
}  # fmt: skip

# Platforms that give a name to whoever asks for it next (can-i-take-over-xyz, February 2025: vulnerable or edge case).
_CLAIMABLE = {
    "s3.amazonaws.com": "AWS S3", "elasticbeanstalk.com": "AWS Elastic Beanstalk", "azurewebsites.net": "Azure",
    "cloudapp.net": "Azure", "cloudapp.azure.com": "Azure", "blob.core.windows.net": "Azure",
    "azureedge.net": "Azure", "trafficmanager.net": "Azure", "agilecrm.com": "Agile CRM",
    "createsend.com": "Campaign Monitor", "gr8.com": "GetResponse", "helpscoutdocs.com": "Help Scout",
    "ghost.io": "Ghost", "readme.io": "Readme", "surge.sh": "Surge", "wordpress.com": "WordPress",
    "github.io": "GitHub Pages", "herokuapp.com": "Heroku", "herokudns.com": "Heroku", "netlify.app": "Netlify",
    "myshopify.com": "Shopify", "vercel-dns.com": "Vercel", "webflow.io": "Webflow",
}  # fmt: skip


def sender(host: str) -> str:
    """The sending service that a host name belongs to, ``""`` for all others. ``host`` is lower-case, without a final
    dot."""
    if host.startswith(("feedback-smtp.", "inbound-smtp.")) and host.endswith((".amazonses.com", ".amazonaws.com")):
        return "Amazon SES"
    return _owner(host, _SENDERS)


def vendor(host: str) -> str:
    """The sending service or hosting platform that a host name belongs to, else ``""``."""
    return sender(host) or _owner(host, _CLAIMABLE)


def claimable(host: str) -> bool:
    """Whether a name of that platform goes to whoever asks for it next, once its holder has given it up."""
    return bool(_owner(host, _CLAIMABLE))


def _owner(host: str, table: dict[str, str]) -> str:
    labels = host.split(".")
    return next((table[name] for n in range(len(labels)) if (name := ".".join(labels[n:])) in table), "")

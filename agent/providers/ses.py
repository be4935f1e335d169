"""Amazon SES: one record per request, through SNS (signed, or raw) or EventBridge, by either of its two mechanisms.

Source: Amazon SES developer guide, "Contents of event data" of event publishing (``eventType``), "notification
contents" of feedback notifications (``notificationType``), and the EventBridge event reference. Where both mechanisms
are on, each tells of the same bounce under ids of its own; message id and recipient are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from agent.bounce_rules import Category
from agent.classify import explain, is_enhanced_code, is_policy, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers import sns
from agent.providers.base import (
    AuthenticationError,
    CertificateNeeded,
    Confirm,
    Credentials,
    Ended,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_text,
    as_time,
    check_basic,
    check_headers,
    check_token,
    domain_in,
    event_name,
    header_problem,
    load_json,
    salvage,
    secrets,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (
    ("topic_arns",),
    ("topic_arns", "certificates"),
    ("token",),
    ("username", "password"),
    ("headers",),
)
# A time is signed, but a retry that its sender delays is as good as any: what was counted is not counted again.
REPLAY_WINDOW = 0.0

_RAW = "x-amz-sns-rawdelivery"


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence about the first topic, certificate, user name or header name that could never prove anything."""
    if not all(sns.is_topic_arn(arn) for arn in secrets(credentials, "topic_arns")):
        return "topic_arns must be ARNs of SNS topics, such as arn:aws:sns:eu-west-1:123456789012:ses-events"
    if not all(sns.load_key(text) for text in secrets(credentials, "certificates")):
        return "certificates must be certificates in PEM, or RSA public keys in PEM or base64 (DER)"
    return username_problem(credentials) or header_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """An SNS message by its signature, and its topic by ``topic_arns``; what has no signature (raw delivery,
    EventBridge) by token, basic authentication or secret headers.

    Raises ``CertificateNeeded`` when nothing is amiss but the certificate not at hand.
    """
    topics = secrets(credentials, "topic_arns")
    if topics and request.header(sns.TYPE_HEADER) and not request.header(_RAW):
        _check_message(sns.checked(request), topics, credentials)
        return
    by_secret = (
        check_token(request, credentials), check_basic(request, credentials), check_headers(request, credentials)
    )  # fmt: skip
    if not any(by_secret):
        raise AuthenticationError("neither an SNS message of an allowed topic nor token, password or headers match")
    if request.header(_RAW) and topics and request.header(sns.TOPIC_HEADER) not in topics:
        raise AuthenticationError("the topic is not among topic_arns")


def _check_message(envelope: sns.Envelope, topics: tuple[str, ...], credentials: Credentials) -> None:
    # Every topic of Amazon's is signed alike: without this anyone could subscribe a topic of their own.
    if envelope.topic_arn not in topics:
        raise AuthenticationError("the topic is not among topic_arns")
    if envelope.type == sns.SUBSCRIPTION and not sns.subscribe_url(envelope):
        raise AuthenticationError("the subscription is not confirmed where the topic is")
    url = envelope.signing_cert_url or ""
    known = credentials.get("certificates", ())
    fetched = secrets(known, url) if isinstance(known, Mapping) else ()
    if sns.verify(envelope, fetched or secrets(credentials, "certificates")):
        return
    # None of the pinned ones fits when the vendor has a new one.
    if fetched:
        raise AuthenticationError("signature does not match")
    raise CertificateNeeded(url)


def follow_up(request: WebhookRequest) -> Confirm | Ended | None:
    """Where a subscription is confirmed. The end of one is not followed: its URL would begin it anew."""
    if request.header(sns.TYPE_HEADER) not in (sns.SUBSCRIPTION, sns.UNSUBSCRIPTION):
        return None
    try:
        envelope = sns.read(request.body)
    except ParseError:
        return None
    if envelope is None or envelope.type != sns.SUBSCRIPTION:
        return Ended() if envelope is not None and envelope.type == sns.UNSUBSCRIPTION else None
    url = sns.subscribe_url(envelope)
    return Confirm(url) if url else None


class _Mail(msgspec.Struct, gc=False, rename="camel"):
    message_id: str | None = None
    timestamp: str | None = None
    source: str | None = None
    destination: object = None
    tags: object = None
    headers: object = None


class _Detail(msgspec.Struct, gc=False, rename="camel"):
    """What a record says beside the mail, whatever its type."""

    timestamp: str | None = None
    feedback_id: str | None = None
    bounce_type: str | None = None
    bounce_sub_type: str | None = None
    bounced_recipients: object = None
    complained_recipients: object = None
    complaint_feedback_type: str | None = None
    complaint_sub_type: str | None = None
    delayed_recipients: object = None
    delay_type: str | None = None
    recipients: object = None
    reason: str | None = None
    error_message: str | None = None
    link: str | None = None
    new_topic_preferences: object = None


class _Record(msgspec.Struct, gc=False, rename="camel"):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    event_type: str | None = None
    notification_type: str | None = None
    mail: _Mail | None = None
    bounce: _Detail | None = None
    complaint: _Detail | None = None
    delivery: _Detail | None = None
    delivery_delay: _Detail | None = None
    reject: _Detail | None = None
    failure: _Detail | None = None
    open: _Detail | None = None
    click: _Detail | None = None
    subscription: _Detail | None = None


class _Bridged(msgspec.Struct, gc=False):
    """The envelope of EventBridge."""

    detail_type: str | None = msgspec.field(name="detail-type", default=None)
    detail: object = None
    id: str | None = None
    time: str | None = None


_decode = msgspec.json.Decoder(_Record).decode

_KINDS = {
    "Send": Kind.ACCEPTED,
    "Delivery": Kind.DELIVERED,
    "DeliveryDelay": Kind.DEFERRED,
    "Bounce": Kind.BOUNCED,
    "Complaint": Kind.COMPLAINED,
    "Reject": Kind.DROPPED,
    "Rendering Failure": Kind.DROPPED,
    "Open": Kind.OPENED,
    "Click": Kind.CLICKED,
    "Subscription": Kind.UNSUBSCRIBED,
}
_BRIDGED = {
    "Email Sent": "Send",
    "Email Delivered": "Delivery",
    "Email Delivery Delayed": "DeliveryDelay",
    "Email Bounced": "Bounce",
    "Email Complaint Received": "Complaint",
    "Email Rejected": "Reject",
    "Email Rendering Failed": "Rendering Failure",
    "Email Opened": "Open",
    "Email Clicked": "Click",
    "Email Subscribed": "Subscription",
}
_VALIDATED = "Successfully validated SNS topic"
_SUPPRESSED = frozenset({"Suppressed", "OnAccountSuppressionList", "UnsubscribedRecipient"})
_REFUSED = frozenset({"ContentRejected", "AttachmentRejected"})
_ANSWERS = frozenset({Category.AUTO_REPLY, Category.CHALLENGE_RESPONSE})
_NO_DOMAIN = "5.4.4"  # RFC 3463 section 3.5: unable to route
_OF_ONE = frozenset({Kind.OPENED, Kind.CLICKED, Kind.UNSUBSCRIBED, Kind.OTHER})
_SIMULATOR = "@simulator.amazonses.com"
_TAG = re.compile(r"\s*[\w-]{1,256}=([^,;\s]{1,256})")


def parse(request: WebhookRequest) -> Parsed:
    """An event per recipient of the record; opens, clicks and complaints are one each, however many recipients the
    mail had. Handshakes and the sentence with which SES tries a topic have none."""
    envelope = sns.read(request.body)
    if envelope is None:
        return _events(*_unbridge(request.body))
    text = (envelope.message or "").strip()
    if envelope.type != sns.NOTIFICATION or text.startswith(_VALIDATED):
        return Parsed()
    return _events(_record(text.encode("utf-8", "surrogatepass")), "", envelope.timestamp, "")


def _record(body: bytes) -> _Record:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        record = salvage(load_json(body), _Record)
    if record is None:
        raise ParseError("body is not a JSON object")
    return record


def _unbridge(body: bytes) -> tuple[_Record, str, str | None, str]:
    """A record that came without SNS around it, the name and time that EventBridge gives it, and its event id."""
    if b'"detail-type"' not in body:
        return _record(body), "", None, ""
    bridged = salvage(load_json(body), _Bridged)
    if bridged is None:
        raise ParseError("body is not a JSON object")
    name = bridged.detail_type or ""
    return salvage(bridged.detail, _Record) or _Record(), _BRIDGED.get(name, name), bridged.time, bridged.id or ""


def _events(record: _Record, name: str, sent_at: str | None, event_id: str) -> Parsed:
    """``name`` and ``sent_at`` serve where the record has none of its own."""
    name = (record.event_type or record.notification_type or name).strip()
    mail, kind = record.mail or _Mail(), _KINDS.get(name, Kind.OTHER)
    detail: _Detail = (getattr(record, _WHERE[name]) if name in _WHERE else None) or _NOTHING
    # The time of the mail is that of its sending, not of what became of it.
    at = as_time(detail.timestamp)
    if at is None and (detail is _NOTHING or kind in (Kind.ACCEPTED, Kind.DROPPED, Kind.OTHER)):
        at = as_time(mail.timestamp)
    if at is None:
        at = as_time(sent_at)
    if not name or at is None:
        return Parsed(malformed=1)
    message_id, event_id = (mail.message_id or "")[:512], (detail.feedback_id or event_id)[:512]
    domain, tags, raw_name = _domain(mail), _tags(mail), name if name in _KINDS else event_name(name)
    discriminator = (detail.link or "") if kind is Kind.CLICKED else ""
    everyone = mail.destination if isinstance(mail.destination, list) else []
    simulated = bool(everyone) and all(address_in(as_text(each)).endswith(_SIMULATOR) for each in everyone)

    events = Parsed()
    for recipient, status, text in _recipients(mail, detail, kind):
        what, bounce_class, smtp_code, enhanced_code = kind, None, None, ""
        if kind is Kind.BOUNCED:
            smtp_code, enhanced_code = _codes(status, text)
            what, bounce_class = _bounce(detail, text, smtp_code, enhanced_code)
        elif kind is Kind.DEFERRED:
            smtp_code, enhanced_code = _codes(status, text)
        elif kind is Kind.COMPLAINED:
            what = _complaint(detail)
        elif kind is Kind.UNSUBSCRIBED and not _opted_out(detail.new_topic_preferences):
            what = Kind.OTHER
        events.append(
            Event(
                what, at, recipient, message_id, event_id, bounce_class, domain, "", tags, smtp_code, enhanced_code,
                reason_text(text), raw_name, False, discriminator,
                recipient.endswith(_SIMULATOR) if recipient else simulated,
            )
        )  # fmt: skip
    if kind is Kind.COMPLAINED and len(events) > 1 and events[0].kind is not Kind.DROPPED:
        return _one_complaint(events)
    return events or Parsed(malformed=1)


def _one_complaint(events: Parsed) -> Parsed:
    """One of them, the same whatever their order: SES names all who may have complained. Known by the id of the
    report, since another complaint about the same mail names the same recipients."""
    first = min(events, key=lambda event: event.recipient)
    return Parsed((msgspec.structs.replace(first, message_id="") if first.event_id else first,))


_NOTHING = _Detail()


# Where a record of each type says more; of a rendering failure under another name.
_WHERE = {
    "Bounce": "bounce",
    "Complaint": "complaint",
    "Delivery": "delivery",
    "DeliveryDelay": "delivery_delay",
    "Reject": "reject",
    "Rendering Failure": "failure",
    "Open": "open",
    "Click": "click",
    "Subscription": "subscription",
}
# Of these, the list that names whom it is about; of all others that is everyone the mail was for.
_LISTS = {
    Kind.BOUNCED: "bounced_recipients",
    Kind.COMPLAINED: "complained_recipients",
    Kind.DEFERRED: "delayed_recipients",
    Kind.DELIVERED: "recipients",
}


def _recipients(mail: _Mail, detail: _Detail, kind: Kind) -> list[tuple[str, str, str]]:
    """Each recipient once, with the status code and the text that go with it."""
    listed: object = getattr(detail, _LISTS[kind]) if kind in _LISTS else None
    if not isinstance(listed, list) or not listed:
        listed = mail.destination if isinstance(mail.destination, list) else []
    common = detail.reason or detail.error_message or detail.delay_type or "" if kind is not Kind.DELIVERED else ""
    found: dict[str, tuple[str, str, str]] = {}
    for each in listed:
        status, text = "", common
        if isinstance(each, dict):
            address, status = address_in(as_text(each.get("emailAddress"))), as_text(each.get("status"))
            text = as_text(each.get("diagnosticCode")) or text
        else:
            address = address_in(as_text(each))
        if address:
            found.setdefault(address, (address, status, text))
    if kind in _OF_ONE and len(found) != 1:
        return [("", "", "")]  # Which of them it was, nobody says.
    return list(found.values()) or [("", "", common)]


def _codes(status: str, text: str) -> tuple[int | None, str]:
    smtp_code, enhanced_code = parse_reply(text)
    return smtp_code, status.strip() if is_enhanced_code(status.strip()) else enhanced_code


def _bounce(detail: _Detail, text: str, smtp_code: int | None, enhanced_code: str) -> tuple[Kind, BounceClass | None]:
    why = detail.bounce_sub_type or ""
    if why in _SUPPRESSED:
        return Kind.DROPPED, None
    match detail.bounce_type:
        case "Permanent":
            bounce_class = BounceClass.BLOCK if is_policy(enhanced_code) else BounceClass.HARD
        case "Transient" if why in _REFUSED:
            bounce_class = BounceClass.BLOCK
        case "Transient":
            if enhanced_code == _NO_DOMAIN:
                return Kind.BOUNCED, BounceClass.HARD
            # Replies of people and programs are filed here, too.
            if explain(text, smtp_code, enhanced_code).category in _ANSWERS:
                return Kind.OTHER, None
            bounce_class = BounceClass.SOFT
        case "Undetermined":
            bounce_class = BounceClass.UNDETERMINED
        case _:
            return explain(text, smtp_code, enhanced_code).meaning
    return Kind.BOUNCED, bounce_class


def _complaint(detail: _Detail) -> Kind:
    if detail.complaint_sub_type == "OnAccountSuppressionList":
        return Kind.DROPPED
    return Kind.OTHER if detail.complaint_feedback_type == "not-spam" else Kind.COMPLAINED


def _opted_out(preferences: object) -> bool:
    if not isinstance(preferences, dict):
        return False
    topics = preferences.get("topicSubscriptionStatus")
    opted_out = any(
        isinstance(topic, dict) and topic.get("subscriptionStatus") == "OptOut"
        for topic in (topics if isinstance(topics, list) else [])
    )
    return opted_out or preferences.get("unsubscribeAll") in (True, "true")


def _domain(mail: _Mail) -> str:
    named = mail.tags.get("ses:from-domain") if isinstance(mail.tags, dict) else None
    text = as_text(named[0]) if isinstance(named, list) and named else ""
    return text.strip().lower()[:253] or domain_in(mail.source or "")


def _tags(mail: _Mail) -> tuple[str, ...]:
    """The values of the sender's own tags, then the configuration set. Feedback notifications have no tags, but may
    have the headers in which they were given."""
    own: list[str] = []
    sets: list[str] = []
    if isinstance(mail.tags, dict):
        for name, values in mail.tags.items():
            texts = [text[:255] for each in (values if isinstance(values, list) else []) if (text := as_text(each))]
            if name == "ses:configuration-set":
                sets += texts
            elif not name.startswith("ses:"):
                own += texts
    elif isinstance(mail.headers, list):
        for header in mail.headers[:256]:
            if isinstance(header, dict):
                name, value = as_text(header.get("name")).lower(), as_text(header.get("value"))[:4096]
                if name == "x-ses-message-tags":
                    own += _TAG.findall(value)
                elif name == "x-ses-configuration-set":
                    sets.append(value.strip()[:255])
    return tuple((own + sets)[:32])

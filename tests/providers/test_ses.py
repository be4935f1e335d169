"""Amazon SES: the signatures of SNS to the byte, all that is checked before them, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import (
    AuthenticationError,
    CertificateNeeded,
    Confirm,
    Ended,
    ParseError,
    WebhookRequest,
    ses,
    sns,
)
from agent.simulate import SIMULATORS
from agent.simulate.base import sealed
from tests.providers.cases import NOW, request, signed
from tests.providers.test_postal import KEY, NO_RSA, PEM

TOPIC = "arn:aws:sns:us-east-1:123456789012:ses-events"
CERTIFICATE = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
# Computed once with an invented key.
V1 = (
    "G49nMaiCEoijY9k4M4Ulfw4zqZkI0WiG8o3U9uPGrorZucvsti8oO61SrIvPEukv+NgfCKkFAu0rgpA4jt9h2sVySp435K6VYAegnN6AHy7HpdToZhUH"
    "Ipm+zD2Z12QKa5l9qm6pD1d4cp9eXyUsaCO3TVjqoZOZn37JBe9CXE2QG8uPx9EqIqYxk5qem4V+moUB0keZD8XYa8PTUmT1mzK55vxcLE6JDJG+V2TJ"
    "FKh7gnMbR6RP9ZWj17+ETeCe9xbE6fEUwxfkRgQnf5QUtGpKg2Rkxtxl7VEQl8RddbSh43ENHMzZfhlyK1cUPyjodgC18XdDpPuBWSqo++CHFw=="
)
V2 = (
    "u0niW/YVNl3du07v6n7RBi4wPWsghCJLlMRco8LiA/eqJwl9tfHg13qwDg+FWXmvrrA8FZYXxbgT4Q7+VN5mb2WekodtgaV+VwT77W6w1y/LP7YxRq9L"
    "n66HuibPyFt3181QHNbGTDopuiGtY4ZEjJiCu6eqqbIfQcPixIGJLaYgqzvP3JdQxv2Ec1eXHc4X82kqLISO5XgGlqGeI2joDwO/xfBx4/mWgYArGdin"
    "L8kTBgzRjROp3MriVLVwcjufgvx3FwuXwufNK4tR5+Tp3OMjOxgMWT/QBhE5XRjndHmCza7VAMtfkO4gM+8s0sV7bjGoev/jauXCkZzlLBWfTA=="
)
FIELDS: dict[str, object] = {
    "Type": "Notification",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": TOPIC,
    "Message": '{"eventType":"Send"}\n',
    "Timestamp": "2023-11-14T22:13:20.000Z",
    "SignatureVersion": "1",
    "Signature": V1,
    "SigningCertURL": CERTIFICATE,
}
VERSION_2: dict[str, object] = {"SignatureVersion": "2", "Signature": V2}
BY_URL = {"topic_arns": TOPIC, "certificates": {CERTIFICATE: KEY}}


def post(changes: dict[str, object] | None = None, **headers: str) -> WebhookRequest:
    """The message of the vectors, but for ``changes`` (``None`` leaves a field out) and headers (``_`` for ``-``)."""
    fields = {k: v for k, v in (FIELDS | (changes or {})).items() if v is not None}
    said = {
        "x-amz-sns-message-type": str(fields.get("Type")),
        "x-amz-sns-message-id": str(fields.get("MessageId")),
        "x-amz-sns-topic-arn": str(fields.get("TopicArn")),
    }
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    return request(json.dumps(fields).encode(), said)


def refused(attempt: WebhookRequest, credentials: object = BY_URL) -> str:
    """Why it is refused, for good."""
    with pytest.raises(AuthenticationError) as caught:
        ses.authenticate(attempt, credentials)  # type: ignore[arg-type]
    assert not isinstance(caught.value, CertificateNeeded)
    return str(caught.value)


def test_the_text_that_is_signed() -> None:
    envelope = sns.read(post().body)
    assert envelope is not None
    text = sns.to_sign(envelope)
    assert len(text) == 185
    assert text.startswith(b'Message\n{"eventType":"Send"}\n\nMessageId\n22b80b92')
    assert text.endswith(b"\nType\nNotification\n")


@pytest.mark.parametrize("version", [{}, VERSION_2])
@pytest.mark.parametrize(
    "certificates", [{CERTIFICATE: KEY}, {CERTIFICATE: PEM}, {CERTIFICATE: ["nonsense", KEY]}, KEY, PEM, ["x", KEY]]
)
@pytest.mark.parametrize("topics", [TOPIC, ["arn:aws:sns:us-east-1:1:x", TOPIC]])
def test_vectors_are_accepted(version: dict[str, object], certificates: object, topics: object) -> None:
    ses.authenticate(post(version), {"topic_arns": topics, "certificates": certificates})  # type: ignore[dict-item]
    ses.authenticate(post(version | {"Subject": None}), BY_URL)  # type: ignore[arg-type]


def test_a_null_subject_is_none() -> None:
    body = json.dumps(FIELDS | {"Subject": None}).encode()
    ses.authenticate(request(body, post().headers), BY_URL)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [{}, VERSION_2])
@pytest.mark.parametrize(
    "change",
    [
        {"Message": '{"eventType":"Send"}'},
        {"Message": '{"eventType":"Sent"}\n'},
        {"Subject": ""},
        {"Subject": "x"},
        {"Timestamp": "2023-11-14T22:13:21.000Z"},
        {"MessageId": "x"},
        {"Signature": ""},
        {"Signature": None},
        {"Signature": "AAAA"},
        {"Signature": "é"},
        {"Signature": "not base64"},
        {"Signature": b64encode(bytes(256)).decode()},
    ],
)
def test_whatever_was_not_signed_is_refused(version: dict[str, object], change: dict[str, object]) -> None:
    assert refused(post(version | change)) == "signature does not match"


def test_versions_do_not_stand_in_for_each_other() -> None:
    assert refused(post({"Signature": V2})) == "signature does not match"
    assert refused(post({"SignatureVersion": "2"})) == "signature does not match"


@pytest.mark.parametrize("version", ["", "0", "3", "1.0", "01", None, 1, ["1"]])
def test_other_versions_are_refused(version: object) -> None:
    refused(post({"SignatureVersion": version}))


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "nonsense",
        CERTIFICATE.replace("https", "http"),
        CERTIFICATE.replace("https://", "https://a@"),
        CERTIFICATE.replace(".com/", ".com:443/"),
        CERTIFICATE.replace(".com/", ".com.evil.example/"),
        CERTIFICATE.replace(".com/", ".com.cn/"),
        CERTIFICATE.replace("us-east-1", "eu-west-1"),
        CERTIFICATE.replace("sns.", "s3."),
        CERTIFICATE.replace("sns.us", "sns.x.us"),
        CERTIFICATE + "?x",
        CERTIFICATE + "#x",
        CERTIFICATE.replace(".pem", ""),
        CERTIFICATE.replace("SimpleNotificationService-", ""),
        CERTIFICATE.replace(".com/", ".com/x/"),
        CERTIFICATE.replace(".com/", ".com/../"),
        CERTIFICATE + "\n",
        CERTIFICATE.replace("https", "HTTPS"),
        "https://evil.example/?" + CERTIFICATE,
        5,
        [CERTIFICATE],
        CERTIFICATE.replace("-0123", "-" + "0" * 3000),
        CERTIFICATE.replace("/S", "\\@evil.example/S"),
    ],
)
def test_a_certificate_from_elsewhere_is_never_asked_for(url: object) -> None:
    refused(post({"SigningCertURL": url}), {"topic_arns": TOPIC})


@pytest.mark.parametrize(
    ("topic", "host"),
    [
        (TOPIC, "sns.us-east-1.amazonaws.com"),
        ("arn:aws-cn:sns:cn-north-1:123456789012:t", "sns.cn-north-1.amazonaws.com.cn"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:t.fifo", "sns.us-gov-west-1.amazonaws.com"),
    ],
)
def test_a_certificate_not_at_hand_is_asked_for_where_the_topic_is(topic: str, host: str) -> None:
    url = f"https://{host}/SimpleNotificationService-{'a' * 32}.pem"
    attempt = post({"TopicArn": topic, "SigningCertURL": url})
    for certificates in ({}, {CERTIFICATE: KEY}, (), "nonsense", PEM.replace("A", "B")):
        with pytest.raises(CertificateNeeded) as caught:
            ses.authenticate(attempt, {"topic_arns": topic, "certificates": certificates})
        assert caught.value.url == url
        assert "amazonaws" not in str(caught.value)


@pytest.mark.parametrize(
    "topic",
    [
        "arn:aws:sns:us-east-1:123456789012:evil",
        "arn:aws:sns:us-east-1:999999999999:ses-events",
        TOPIC + "x",
        TOPIC[:-1],
        TOPIC.upper(),
        "",
        " " + TOPIC,
    ],
)
def test_another_topic_is_refused_before_anything_is_fetched(topic: str) -> None:
    refused(post({"TopicArn": topic}), {"topic_arns": TOPIC})


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "Signature"])
def test_a_message_without_a_field_is_refused(field: str) -> None:
    refused(post({field: None}), {"topic_arns": TOPIC})


def test_headers_and_body_must_agree() -> None:
    for headers in (
        {"x_amz_sns_message_type": "SubscriptionConfirmation"},
        {"x_amz_sns_message_id": "x"},
        {"x_amz_sns_message_id": ""},
        {"x_amz_sns_message_type": "notification"},
    ):
        assert refused(post(**headers), {"topic_arns": TOPIC}) == "SNS headers and body do not agree"
    assert "neither" in refused(post(x_amz_sns_message_type=""))
    assert "not an SNS message" in refused(post({"Type": "Alarm"}))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff", b'{"Type":"Notification"}']
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    refused(request(body, post().headers), {"topic_arns": TOPIC})


KEYS = SIMULATORS["ses"].new_credentials()
OWN = {"topic_arns": KEYS.settings["topic_arns"], "certificates": KEYS.settings["certificates"]}


def handshake(kind: str = sns.SUBSCRIPTION, **changes: object) -> WebhookRequest:
    """A signed handshake of the simulator's own topic."""
    topic = str(KEYS.signing["topic_arns"])
    token = "2336412f37"
    fields: dict[str, object] = {
        "Type": kind,
        "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
        "Token": token,
        "TopicArn": topic,
        "Message": "You have chosen to subscribe.",
        "Timestamp": "2023-11-14T22:13:20.000Z",
        "SubscribeURL": f"https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={topic}&Token={token}",
    }
    return signed("ses", json.dumps(fields | changes).encode(), KEYS.signing)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_subscription_is_confirmed_where_the_topic_is(version: str) -> None:
    given = handshake(SignatureVersion=version)
    ses.authenticate(given, OWN)
    assert ses.parse(given) == []
    assert ses.follow_up(given) == Confirm(json.loads(given.body)["SubscribeURL"])


def test_the_end_of_a_subscription_is_not_followed() -> None:
    given = handshake(sns.UNSUBSCRIPTION)
    ses.authenticate(given, OWN)
    assert ses.parse(given) == []
    assert ses.follow_up(given) == Ended()


@pytest.mark.parametrize("field", ["SubscribeURL", "Token", "Message"])
def test_a_handshake_is_signed_field_by_field(field: str) -> None:
    given = handshake()
    fields = json.loads(given.body)
    for value in ("https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=x", "", None):
        changed = request(json.dumps(fields | {field: value}).encode(), given.headers)
        with pytest.raises(AuthenticationError):
            ses.authenticate(changed, OWN)


@pytest.mark.parametrize(
    "url",
    [
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=x",
        "https://evil.example/",
        "http://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/",
        "https://a@sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://169.254.169.254/latest/",
        "https://sns.us-east-1.amazonaws.com:444/?Action=ConfirmSubscription",
        "",
        "x" * 3000,
        "https://sns.us-east-1.amazonaws.com/?Action=DeleteTopic&TopicArn=x",
        "https://sns.us-east-1.amazonaws.com/?Action=DeleteTopic&Action=ConfirmSubscription",
    ],
)
def test_even_a_signed_subscription_leads_nowhere_else(url: str) -> None:
    given = handshake(SubscribeURL=url)
    assert "confirmed" in refused(given, OWN)
    assert ses.follow_up(given) is None


def test_other_requests_ask_for_nothing_more() -> None:
    assert ses.follow_up(post()) is None
    for body in (b"", b"{", b"[]", b"{}", post().body):
        assert ses.follow_up(request(body, {"x-amz-sns-message-type": sns.SUBSCRIPTION})) is None


RECORD = b'{"eventType":"Send","mail":{"messageId":"m1","timestamp":"2023-11-14T22:13:20.000Z"}}'
RAW = {"x-amz-sns-rawdelivery": "true", "x-amz-sns-message-type": "Notification", "x-amz-sns-topic-arn": TOPIC}
BASIC = {"authorization": "Basic " + b64encode(b"u:p").decode()}
SECRETS = {"token": "t", "username": "u", "password": "p"}


@pytest.mark.parametrize("proof", [{"authorization": "Bearer t"}, BASIC])
def test_raw_delivery_needs_a_secret_and_the_topic(proof: dict[str, str]) -> None:
    ses.authenticate(request(RECORD, RAW | proof), SECRETS | {"topic_arns": TOPIC})
    ses.authenticate(request(RECORD, RAW | proof), SECRETS)
    for topic in ("", TOPIC + "x"):
        refused(request(RECORD, RAW | proof | {"x-amz-sns-topic-arn": topic}), SECRETS | {"topic_arns": TOPIC})
    refused(request(RECORD, RAW), SECRETS | {"topic_arns": TOPIC})
    refused(request(RECORD, RAW | proof), {"topic_arns": TOPIC})


def test_a_secret_does_not_stand_in_for_a_signature() -> None:
    forged = post({"Signature": "AAAA"}, authorization="Bearer t")
    assert refused(forged, SECRETS | BY_URL) == "signature does not match"


@pytest.mark.parametrize("proof", [{"authorization": "Bearer t"}, BASIC, {"x-secret": "s"}])
def test_eventbridge_needs_a_secret(proof: dict[str, str]) -> None:
    credentials = SECRETS | {"headers": {"X-Secret": "s"}, "topic_arns": TOPIC}
    ses.authenticate(request(RECORD, proof), credentials)
    refused(request(RECORD), credentials)
    refused(request(RECORD, {"authorization": "Bearer x", "x-secret": "t"}), credentials)


def test_the_settings_say_what_could_never_prove_anything() -> None:
    good = {"topic_arns": [TOPIC, TOPIC + ".fifo"], "certificates": [KEY, PEM], "username": "u"}
    assert ses.validate_credentials(good) is None
    for bad in ("x", TOPIC.replace("sns", "sqs"), TOPIC + "*", TOPIC + " "):
        assert "topic_arns" in str(ses.validate_credentials(good | {"topic_arns": [TOPIC, bad]}))
    for key in NO_RSA:
        assert "certificates" in str(ses.validate_credentials(good | {"certificates": [KEY, key]}))
    assert "username" in str(ses.validate_credentials(good | {"username": "a:b"}))
    assert "headers" in str(ses.validate_credentials(good | {"headers": {"a b": "c"}}))


def test_the_simulator_signs_in_both_versions() -> None:
    bodies = [sealed(SIMULATORS["ses"], b'{"n":%d}' % n, KEYS.signing, NOW) for n in range(20)]
    assert {json.loads(body)["SignatureVersion"] for body in bodies} == {"1", "2"}
    for missing in ("topic_arns", "private_key"):
        with pytest.raises(ValueError):
            SIMULATORS["ses"].sign(b"", {k: v for k, v in KEYS.signing.items() if k != missing}, NOW)


MAIL = {
    "messageId": "m1",
    "timestamp": "2023-11-14T22:00:00.000Z",
    "source": "Shop <shop@Shop.example>",
    "destination": ["R@example.com"],
    "tags": {
        "ses:configuration-set": ["main"],
        "ses:from-domain": ["Mail.shop.example"],
        "ses:source-ip": ["192.0.2.1"],
        "campaign": ["news"],
    },
}
AT = "2023-11-14T22:13:20.250Z"


def parse(record: object) -> list[Event]:
    """The events of a record, however it comes."""
    text = json.dumps(record)
    bare = ses.parse(request(text.encode()))
    wrapped = ses.parse(post({"Message": text + "\n"}))
    bridged = ses.parse(request(json.dumps({"detail-type": "X", "source": "aws.ses", "detail": record}).encode()))
    assert list(bare) == list(wrapped) == list(bridged)
    assert bare.malformed == wrapped.malformed == bridged.malformed == 0
    return list(bare)


def one(kind: str, mail: dict[str, object] | None = None, key: str = "", **detail: object) -> Event:
    where = key or kind[0].lower() + kind[1:]
    (event,) = parse({"eventType": kind, "mail": MAIL | (mail or {}), where: {"timestamp": AT} | detail})
    assert event.provider_event == kind
    return event


def bounce(kind: str, why: str, status: str = "", text: str = "", **mail: object) -> Event:
    recipient = {"emailAddress": "R@example.com", "status": status, "diagnosticCode": text}
    return one("Bounce", mail, bounceType=kind, bounceSubType=why, bouncedRecipients=[recipient], feedbackId="f1")


def test_a_delivery_in_full() -> None:
    event = one(
        "Delivery", recipients=["R@example.com"], smtpResponse="250 ok", reportingMTA="a.smtp-out.amazonses.com"
    )
    assert event == Event(
        event.kind,
        NOW + 0.25,
        "r@example.com",
        "m1",
        domain="mail.shop.example",
        tags=("news", "main"),
        provider_event="Delivery",
    )
    assert event.kind == "delivered"


@pytest.mark.parametrize(
    ("kind", "expected", "at"),
    [("Send", "accepted", NOW - 800), ("Reject", "dropped", NOW - 800), ("Rendering Failure", "dropped", NOW - 800)],
)
def test_what_has_no_time_of_its_own_has_that_of_the_mail(kind: str, expected: str, at: float) -> None:
    (event,) = parse({"eventType": kind, "mail": MAIL, kind.lower(): {}})
    assert (event.kind, event.at, event.recipient) == (expected, at, "r@example.com")


@pytest.mark.parametrize("kind", ["Delivery", "Bounce", "Complaint", "DeliveryDelay", "Open", "Click"])
def test_what_happened_later_never_has_the_time_of_the_mail(kind: str) -> None:
    detail = {kind[0].lower() + kind[1:]: {"recipients": ["r@example.com"]}}
    parsed = ses.parse(request(json.dumps({"eventType": kind, "mail": MAIL, **detail}).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)
    # SNS knows when it was published, which is a moment later.
    (event,) = ses.parse(post({"Message": json.dumps({"eventType": kind, "mail": MAIL, **detail})}))
    assert event.at == NOW


@pytest.mark.parametrize(
    ("kind", "why", "status", "expected"),
    [
        ("Permanent", "General", "5.1.1", "hard"),
        ("Permanent", "NoEmail", "", "hard"),
        ("Permanent", "General", "5.7.1", "block"),
        ("Permanent", "New", "5.2.2", "hard"),
        ("Transient", "General", "", "soft"),
        ("Transient", "MailboxFull", "4.2.2", "soft"),
        ("Transient", "MessageTooLarge", "5.3.4", "soft"),
        ("Transient", "New", "5.7.1", "soft"),
        ("Transient", "General", "5.4.4", "hard"),
        ("Transient", "ContentRejected", "", "block"),
        ("Transient", "AttachmentRejected", "5.4.4", "block"),
        ("Undetermined", "Undetermined", "5.1.1", "undetermined"),
        ("New", "New", "5.1.1", "hard"),
        ("", "", "", "undetermined"),
    ],
)
def test_classes_of_bounces(kind: str, why: str, status: str, expected: str) -> None:
    event = bounce(kind, why, status)
    assert (event.kind, event.bounce_class, event.event_id, event.enhanced_code) == ("bounced", expected, "f1", status)


@pytest.mark.parametrize("why", ["Suppressed", "OnAccountSuppressionList", "UnsubscribedRecipient"])
def test_suppressed_recipients_are_drops(why: str) -> None:
    event = bounce("Permanent", why, "5.1.1", "Amazon SES did not send the message to this address")
    assert (event.kind, event.bounce_class) == ("dropped", None)


def test_the_reply_of_a_person_is_no_bounce() -> None:
    event = bounce("Transient", "General", "", "Automatic reply: I am out of the office until Monday")
    assert (event.kind, event.bounce_class) == ("other", None)


def test_the_status_comes_before_the_text() -> None:
    event = bounce("Permanent", "General", "5.1.1", "smtp; 550 5.7.26 <r@example.com> unauthenticated")
    assert (event.bounce_class, event.smtp_code, event.enhanced_code) == ("hard", 550, "5.1.1")
    assert event.reason == "smtp; 550 5.7.26 <<address>> unauthenticated"
    event = bounce("Permanent", "General", "", "smtp; 550 5.7.26 unauthenticated")
    assert (event.bounce_class, event.enhanced_code) == ("block", "5.7.26")


def test_a_delay_names_its_type_or_the_reply() -> None:
    for code, reason in (("smtp; 421 4.7.0 try later", "smtp; 421 4.7.0 try later"), (None, "IPFailure")):
        delayed = [{"emailAddress": "r@example.com", "status": "4.7.0", "diagnosticCode": code}]
        event = one("DeliveryDelay", delayType="IPFailure", delayedRecipients=delayed)
        assert (event.kind, event.enhanced_code, event.reason) == ("deferred", "4.7.0", reason)


def test_reasons_of_what_was_not_sent() -> None:
    assert one("Reject", reason="Bad content").reason == "Bad content"
    event = one("Rendering Failure", key="failure", errorMessage="Attribute 'name' is missing", templateName="t")
    assert (event.kind, event.reason) == ("dropped", "Attribute 'name' is missing")


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({}, "complained"),
        ({"complaintFeedbackType": "abuse"}, "complained"),
        ({"complaintFeedbackType": "fraud"}, "complained"),
        ({"complaintFeedbackType": "virus"}, "complained"),
        ({"complaintFeedbackType": "other"}, "complained"),
        ({"complaintFeedbackType": "auth-failure"}, "complained"),
        ({"complaintFeedbackType": "not-spam"}, "other"),
        ({"complaintSubType": "OnAccountSuppressionList"}, "dropped"),
        ({"complaintSubType": None}, "complained"),
    ],
)
def test_complaints(detail: dict[str, object], expected: str) -> None:
    event = one("Complaint", complainedRecipients=[{"emailAddress": "R@example.com"}], feedbackId="f1", **detail)
    assert (event.kind, event.recipient, event.message_id, event.event_id) == (expected, "r@example.com", "m1", "f1")


def test_a_complaint_report_is_one_complaint() -> None:
    people = [{"emailAddress": f"{name}@example.com"} for name in ("b", "a", "c")]
    events = [one("Complaint", complainedRecipients=order, feedbackId="f1") for order in (people, people[::-1])]
    assert events[0] == events[1]
    assert (events[0].kind, events[0].message_id, events[0].event_id) == ("complained", "", "f1")
    without = one("Complaint", complainedRecipients=people)
    assert (without.message_id, without.recipient) == ("m1", "a@example.com")
    suppressed = {"complaintSubType": "OnAccountSuppressionList", "complainedRecipients": people, "timestamp": AT}
    dropped = parse({"eventType": "Complaint", "mail": MAIL, "complaint": suppressed})
    assert [event.kind for event in dropped] == ["dropped"] * 3


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        ({"unsubscribeAll": True}, "unsubscribed"),
        ({"unsubscribeAll": False}, "other"),
        (None, "other"),
        ([], "other"),
        ({"topicSubscriptionStatus": [{"topicName": "a", "subscriptionStatus": "OptOut"}]}, "unsubscribed"),
        ({"topicSubscriptionStatus": [{"topicName": "a", "subscriptionStatus": "OptIn"}]}, "other"),
        ({"topicSubscriptionStatus": ["OptOut", None]}, "other"),
    ],
)
def test_subscriptions(preferences: object, expected: str) -> None:
    assert one("Subscription", contactList="c", newTopicPreferences=preferences).kind == expected


def test_engagement() -> None:
    assert one("Open", ipAddress="198.51.100.7").kind == "opened"
    event = one("Click", link="https://a.example/x")
    assert (event.kind, event.discriminator, event.recipient) == ("clicked", "https://a.example/x", "r@example.com")
    assert one("Open", link="https://a.example/x").discriminator == ""
    several = one("Open", {"destination": ["a@example.com", "b@example.com"]})
    assert several.recipient == ""


def test_each_recipient_once() -> None:
    people = ["a@example.com", "B@example.com", "b@example.com", "", 5, None]
    events = parse({"eventType": "Delivery", "mail": MAIL, "delivery": {"timestamp": AT, "recipients": people}})
    assert [event.recipient for event in events] == ["a@example.com", "b@example.com", "5"]
    events = parse({"eventType": "Send", "mail": MAIL | {"destination": people[:3]}, "send": {}})
    assert [event.recipient for event in events] == ["a@example.com", "b@example.com"]


def test_both_mechanisms_tell_of_the_same() -> None:
    """What identifies an outcome and where it counts does not depend on who tells of it."""
    detail = {
        "timestamp": AT,
        "bounceType": "Permanent",
        "bounceSubType": "General",
        "feedbackId": "f1",
        "bouncedRecipients": [{"emailAddress": "r@example.com"}],
    }
    (event,) = parse({"eventType": "Bounce", "mail": MAIL, "bounce": detail})
    mail = {k: v for k, v in MAIL.items() if k != "tags"}
    headers = [
        {"name": "X-SES-MESSAGE-TAGS", "value": "campaign=news, x"},
        {"name": "x-ses-configuration-set", "value": "main"},
    ]
    mail |= {"headers": headers, "source": "a@mail.shop.example"}
    assert parse({"notificationType": "Bounce", "mail": mail, "bounce": detail}) == [event]


@pytest.mark.parametrize("name", ["success", "bounce", "ooto", "complaint", "suppressionlist", "bounce+label1"])
def test_the_mailbox_simulator_is_a_test(name: str) -> None:
    address = f"{name}@simulator.amazonses.com"
    assert one("Delivery", recipients=[address]).test
    assert one("Open", {"destination": [address, "success@simulator.amazonses.com"]}).test
    assert not one("Open", {"destination": [address, "a@example.com"]}).test
    assert not one("Delivery", recipients=[f"{address}.evil.example"]).test


def test_domain_and_tags() -> None:
    assert one("Open", {"tags": {"ses:from-domain": []}}).domain == "shop.example"
    assert one("Open", {"tags": None, "source": ""}).domain == ""
    tags = {"a": ["x", "y"], "ses:caller-identity": ["root"], "b": "z", "c": [None, 5]}
    assert one("Open", {"tags": tags}).tags == ("x", "y", "5")
    assert len(one("Open", {"tags": {str(n): ["v"] for n in range(500)}}).tags) == 32


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Email Sent", "accepted"),
        ("Email Delivered", "delivered"),
        ("Email Bounced", "bounced"),
        ("Email Complaint Received", "complained"),
        ("Email Rejected", "dropped"),
        ("Email Rendering Failed", "dropped"),
        ("Email Delivery Delayed", "deferred"),
        ("Email Opened", "opened"),
        ("Email Clicked", "clicked"),
        ("Email Subscribed", "other"),
        ("Sending Status Disabled", "other"),
        ("Advisor Recommendation Status Open", "other"),
    ],
)
def test_eventbridge_names_what_the_record_does_not(name: str, kind: str) -> None:
    envelope = {
        "id": "e1",
        "detail-type": name,
        "time": "2023-11-14T22:13:20Z",
        "detail": {"mail": {"messageId": "m1"}},
    }
    (event,) = ses.parse(request(json.dumps(envelope).encode()))
    assert (event.kind, event.at, event.event_id, event.message_id) == (kind, NOW, "e1", "m1")


@pytest.mark.parametrize(
    "message",
    ["Successfully validated SNS topic for Amazon SES event publishing.\n", "Successfully validated SNS topic"],
)
def test_the_sentence_that_tries_a_topic_is_nothing(message: str) -> None:
    parsed = ses.parse(post({"Message": message}))
    assert (list(parsed), parsed.malformed) == ([], 0)


@pytest.mark.parametrize("message", ["", "hello", "[]", "5", "{"])
def test_a_message_that_is_no_record_is_a_parse_error(message: str) -> None:
    with pytest.raises(ParseError):
        ses.parse(post({"Message": message}))


def test_incoming_mail_is_none_of_ours() -> None:
    (event,) = parse({"notificationType": "Received", "mail": MAIL, "receipt": {"timestamp": AT}})
    assert (event.kind, event.provider_event) == ("other", "Received")


@given(
    field=st.sampled_from(sorted(FIELDS)),
    value=st.none() | st.text(max_size=80) | st.integers() | st.lists(st.text(max_size=3), max_size=2),
)
def test_a_changed_field_is_refused_and_never_raises_anything_else(field: str, value: object) -> None:
    if value == FIELDS[field]:
        return
    body = json.dumps(FIELDS | {field: value}).encode()
    with pytest.raises(AuthenticationError):
        ses.authenticate(request(body, post().headers), BY_URL)  # type: ignore[arg-type]


def test_a_small_key_proves_nothing() -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    assert sns.load_key(small.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()) is None

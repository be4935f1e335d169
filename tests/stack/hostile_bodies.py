"""Bodies and proofs that nobody should send, each with the answer it gets and the outcome under which it is counted."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator

from agent.simulate import SIMULATORS
from agent.simulate.base import sealed
from tests.servers.raw import request
from tests.stack.hostile_http import Case, head
from tests.stack.live import MAX_BODY, SETTINGS, Live, signed

# fmt: off
MAILGUN, SES = (SIMULATORS[provider].new_credentials() for provider in ("mailgun", "ses"))
SOURCES = [
    *SETTINGS["sources"],
    {"name": "mg", "provider": "mailgun", **MAILGUN.settings},
    {"name": "ses", "provider": "ses", "topic_arns": [str(SES.signing["topic_arns"])]},
]


def bad_bodies(live: Live) -> Iterator[Case]:
    """Every case, signed for now where it is signed at all; no two have one name."""
    yield from _bodies()
    yield from _encodings(live)
    yield from _types()
    yield from _proofs(live)
    yield from _odd()


def _bodies() -> Iterator[Case]:
    deep = 200_000
    unreadable: dict[str, bytes] = {
        "empty": b"", "deep lists": b"[" * deep, "deep and closed": b"[" * deep + b"]" * deep,
        "deep objects": b'{"a":' * deep,
        "deep in a field": b'{"RecordType":' + b"[" * deep + b"]" * deep + b"}", "a huge number": b"9" * deep,
        "a huge exponent": b"1e999999999", "a huge fraction": b"0." + b"1" * deep, "NaN": b"NaN",
        "Infinity": b"[Infinity]",
        "minus nothing": b"-", "zeros before": b"[007]", "hex": b"0xff",
        "UTF-16": '{"RecordType":"Bounce"}'.encode("utf-16"),
        "a BOM": b"\xef\xbb\xbf{}", "NULs": b"\0" * 1000,
        "a bad escape": b'{"RecordType":"\\x41"}',
        "half an escape": b'{"RecordType":"\\u12"}', "trailing comma": b'{"a":1,}', "comments": b"{/* */}",
        "two documents": b"{}{}",
        "single quotes": b"{'a':1}",
        "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "YAML": b"!!python/object/apply:os.system ['true']",
        "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
        "a text": b'"' + b"a" * 500_000 + b'"', "an open text": b'"' + b"a" * 500_000, "null": b"null",
        "true": b"true", "many keys": json.dumps({f"k{i}": i for i in range(50_000)}).encode(),
        "colliding keys": b"{" + b",".join(b'"":1' for _ in range(50_000)) + b"}",
        "duplicate keys": b'{"RecordType":"Delivery","RecordType":"Bounce"}',
        "a list of scalars": b"[" + b"1," * 100_000 + b"1]", "prototype": b'{"__proto__":{"a":1},"constructor":1}',
        "types": b'{"RecordType":{"a":1},"MessageID":[],"Recipient":7,"DeliveredAt":true}',
    }
    for name, body in unreadable.items():
        yield Case(f"body: {name}", request("POST", "/webhooks/pmh", {"X-Secret": "s" * 20}, body), 200, "quarantined")
    unknown_types = {
        "invalid UTF-8": b"\xff\xfe", "overlong UTF-8": b"\xc0\xaf", "a NUL": b"a\0b", "a line end": b"a\nb",
        "half a surrogate": b"\\ud800", "markup": b"<script>", "a format": b"%n%s{0}", "many letters": b"a" * 500_000,
    }
    for name, text in unknown_types.items():
        data = request("POST", "/webhooks/pmh", {"X-Secret": "s" * 20}, b'{"RecordType":"' + text + b'"}')
        yield Case(f"a type of {name}", data, 200, "accepted")
    for name, (body, length) in {
        "shorter than it says": (b"{}", 100), "none of it": (b"", 100), "all but a byte": (b"{", 2),
    }.items():
        data = request("POST", "/webhooks/pmh", {"X-Secret": "s" * 20}, body, length=length)
        yield Case(f"body: {name}", data, 0, "invalid", end=True)
    longer = request("POST", "/webhooks/pmh", {"X-Secret": "s" * 20}, b"{}\0\0\0\0", length=2)
    yield Case("body: longer than it says", longer, 400, "invalid")
    yield Case(
        "body: announced beyond the limit", request("POST", "/webhooks/pmh", {}, length=MAX_BODY + 1), 413, "too_large"
    )
    yield Case("body: announced beyond all", request("POST", "/webhooks/pmh", {}, length=2**62), 413, "too_large")


def _encodings(live: Live) -> Iterator[Case]:
    def post(encoding: str, body: bytes) -> bytes:
        return request("POST", "/webhooks/pmh", {"X-Secret": "s" * 20, "Content-Encoding": encoding}, body)

    for encoding in (
        "br",
        "zstd",
        "compress",
        "gzip, gzip",
        "gzip, identity",
        "x-gzip",
        "gzip;q=1",
        "aws-chunked",
        "\xff",
        "GZIP GZIP",
    ):
        yield Case(f"encoding {encoding}", post(encoding, b"{}"), 415, "invalid")
    packed = gzip.compress(b"{}")
    for name, (encoding, body) in {
        "no gzip": ("gzip", b"{}"), "cut": ("gzip", packed[:-1]), "a byte more": ("gzip", packed + b"x"),
        "two members": ("gzip", packed * 2),
        "a bad checksum": ("gzip", packed[:-8] + b"\0" * 8), "a head alone": ("gzip", packed[:10]),
        "a name without end": ("gzip", b"\x1f\x8b\x08\x08" + b"a" * 5000),
        "junk as deflate": ("deflate", b"\x00" * 99),
        "a preset dictionary": ("deflate", b"\x78\xbb\x00\x00\x00\x01\x01"),
        "a cut stream": ("deflate", zlib.compress(b"{}" * 500)[:-6]),
        "NULs": ("gzip", b"\0" * 1000), "zip": ("gzip", b"PK\x03\x04" + b"\0" * 50),
    }.items():
        yield Case(f"encoded: {name}", post(encoding, body), 400, "invalid")
    for name, (encoding, body) in {
        "a gzip bomb": ("gzip", gzip.compress(b" " * (200 * MAX_BODY))),
        "a deflate bomb": ("deflate", zlib.compress(b" " * (200 * MAX_BODY))),
        "a raw deflate bomb": ("deflate", zlib.compress(b" " * (200 * MAX_BODY), wbits=-15)),
        "a byte beyond the limit": ("gzip", gzip.compress(b" " * (MAX_BODY + 1))),
    }.items():
        yield Case(f"encoded: {name}", post(encoding, body), 413, "too_large")
    for name, (encoding, body) in {
        "a bomb within the limit": ("gzip", gzip.compress(b"[" * MAX_BODY)),
        "a deep bomb": ("gzip", gzip.compress(b'{"a":' * (MAX_BODY // 5))),
        "gzip in gzip": ("gzip", gzip.compress(gzip.compress(b"{}"))),
        "nothing": ("gzip", b""), "of nothing": ("gzip", gzip.compress(b"")),
        "gzip called deflate": ("deflate", packed),
    }.items():
        yield Case(f"encoded: {name}", post(encoding, body), 200, "quarantined")
    body = live.batch()
    stale = {**signed("sg", body), "Content-Encoding": "gzip"}
    yield Case(
        "encoded: signed as packed",
        request("POST", "/webhooks/sg", stale, gzip.compress(live.batch())),
        401,
        "unauthorized",
    )


def _types() -> Iterator[Case]:
    for name, content_type, body in (
        ("none", "", b"{}"), ("unknown", "application/x-cow", b"{}"), ("malformed", ";;;=", b"{}"),
        ("long", "a/" + "b" * 8000, b"{}"),
        ("a form", "application/x-www-form-urlencoded", b"timestamp=1&token=a&signature=" + b"0" * 64),
        ("a form of many fields", "application/x-www-form-urlencoded", b"&".join(b"a%d=b" % i for i in range(50_000))),
        ("a form of one name", "application/x-www-form-urlencoded", b"&".join([b"timestamp=1"] * 50_000)),
        ("a form of escapes", "application/x-www-form-urlencoded", b"token=" + b"%00%ff%u1234%" * 5000),
        ("a form of nothing", "application/x-www-form-urlencoded", b"&=" * 100_000),
        ("another charset", "application/json; charset=utf-7", b"+AHsAfQ-"),
        ("an unknown charset", "application/json; charset=cow", b"{}"),
        ("multipart without boundary", "multipart/form-data", b"--a\r\n\r\n--a--"),
        ("multipart with an empty boundary", "multipart/form-data; boundary=", b"--\r\n\r\n----"),
        ("multipart with a long boundary", "multipart/form-data; boundary=" + "a" * 5000, b"--a"),
        ("multipart of many parts", "multipart/form-data; boundary=a", b"--a\r\n\r\nx\r\n" * 50_000 + b"--a--"),
        ("multipart that never ends", "multipart/form-data; boundary=a", b"--a\r\n" + b"X: y\r\n" * 50_000),
        (
            "multipart within multipart", "multipart/mixed; boundary=a",
            b"".join(b"--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" for _ in range(5000))),
        (
            "multipart with a path", "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="token"; filename="../../etc/passwd"\r\n\r\nx\r\n--a--'),
        (
            "multipart with NULs", "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="\0"\r\n\r\n\0\r\n--a--'),
    ):
        headers = {"Content-Type": content_type} if content_type else {}
        yield Case(f"type: {name}", request("POST", "/webhooks/mg", headers, body), 401, "unauthorized")


def _proofs(live: Live) -> Iterator[Case]:
    now = int(time.time())
    body = live.batch()
    right = signed("sg", body)
    signature, stamp = (k for k in right if k.startswith("X-"))
    for name, headers in {
        "a signature of another body": signed("sg", live.batch()),
        "a stale signature": signed("sg", body, now - 2 * 86400),
        "a signature of tomorrow": signed("sg", body, now + 86400),
        "a signature of zeros": {**right, signature: "A" * 96},
        "a long signature": {**right, signature: "A" * 8000},
        "a signature of NULs in base64": {**right, signature: "AAAA"},
        "a huge time": {**right, stamp: "9" * 300}, "another's secret": signed("pmh", body),
    }.items():
        yield Case(f"proof: {name}", request("POST", "/webhooks/sg", headers, body), 401, "unauthorized")
    once = sealed(SIMULATORS["mailgun"], _mailgun("once"), MAILGUN.signing, time.time())
    forged = json.loads(once)
    forged["event-data"]["id"] = "another"
    for name, data, status, counted in (
        ("a token", once, 200, "accepted"), ("the token again", once, 200, "accepted"),
        ("the token with another body", json.dumps(forged).encode(), 401, "replayed"),
        (
            "a stale token", sealed(SIMULATORS["mailgun"], _mailgun("stale"), MAILGUN.signing, now - 86400), 401,
            "unauthorized"),
        (
            "a token of no key", sealed(SIMULATORS["mailgun"], _mailgun("other"), {"signing_key": "x"}, now), 401,
            "unauthorized"),
    ):
        yield Case(
            f"proof: {name}",
            request("POST", "/webhooks/mg", {"Content-Type": "application/json"}, data),
            status,
            counted,
        )
    topic = str(SES.signing["topic_arns"])
    for url in (
        "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://evil.test/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com.evil.test/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com@evil.test/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com/../SimpleNotificationService-0.pem",
        "https://127.0.0.1/SimpleNotificationService-0.pem", "https://[::1]/a.pem",
        "https://169.254.169.254/latest/meta-data", "file:///etc/passwd", "gopher://127.0.0.1:25/_",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem#x",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem?x",
        "//sns.us-east-1.amazonaws.com/a.pem", "https://sns.eu-north-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com\\@evil.test/SimpleNotificationService-0.pem", "https://" + "a" * 5000, "",
    ):
        message = {
            "Type": "Notification", "MessageId": "m", "TopicArn": topic, "Message": "{}",
            "Timestamp": "2026-01-01T00:00:00.000Z",
            "SignatureVersion": "1", "Signature": "AAAA", "SigningCertURL": url,
        }
        headers = {"x-amz-sns-message-type": "Notification", "x-amz-sns-message-id": "m"}
        yield Case(
            f"SNS at {url[:90]}",
            request("POST", "/webhooks/ses", headers, json.dumps(message).encode()),
            401,
            "unauthorized",
        )


def _mailgun(name: str) -> bytes:
    message = {"headers": {"message-id": f"{name}@example.com"}}
    data = {
        "event": "delivered",
        "id": name,
        "timestamp": time.time() - 60,
        "recipient": "a@b.test",
        "message": message,
    }
    return json.dumps({"event-data": data}).encode()


def _odd() -> Iterator[Case]:
    secret = {"X-Secret": "s" * 20}
    for name, headers in {
        "an upgrade to a web socket": {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "AAAA",
            "Sec-WebSocket-Version": "13"},
        "an upgrade to HTTP/2": {
            "Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"},
        "a wish that is unknown": {"Expect": "200-ok"}, "a wish for leave": {"Expect": "100-continue"},
        "a wish to keep": {"Connection": "keep-alive", "Keep-Alive": "timeout=999999"},
        "a max of forwards": {"Max-Forwards": "0"},
        "an If-Match": {"If-Match": "*"}, "TE": {"TE": "trailers, deflate"},
    }.items():
        yield Case(f"odd: {name}", request("POST", "/webhooks/pmh", {**secret, **headers}, b"{}"), 200, "quarantined")
    yield Case(
        "odd: HTTP/1.0", head(b"Content-Length: 2", first=b"POST /webhooks/pmh HTTP/1.0") + b"{}", 200, "quarantined"
    )
    yield Case("odd: line ends before", b"\r\n\r\n" + head(b"Content-Length: 2") + b"{}", 200, "quarantined")

"""The agent with everything it needs to show itself: its own sources, domains, DNS server and signed traffic.

Nothing of it is real: the domains end in ``.example``, and every page says so.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.daemon import Daemon, serve
from agent.providers import Credentials
from agent.settings import Settings, loads
from agent.simulate import SIMULATORS, Scenario
from agent.simulate.dns import DnsServer
from agent.simulate.send import simulate

PUBLIC, PRIVATE = "127.0.0.1:8080", "127.0.0.1:8081"
HISTORY = 8 * 86400.0  # seconds of past traffic, sent at once
LIVE_CHUNK = 60.0  # seconds of live traffic planned at a time

log = structlog.get_logger()

# Three senders: one within its targets, one with a bad list, one too small to tell.
_HEALTHY = {"shop.example": 1.0}
_BREACHED = {"news.example": 1.0}
_SMALL = {"club.example": 1.0}


class _Sender(NamedTuple):
    """``messages`` over the past days, then ``rate`` messages a second."""

    source: str
    provider: str
    messages: int
    rate: float
    mix: Mapping[str, object]


_SENDERS = (
    _Sender("sendgrid-shop", "sendgrid", 24_000, 2.0, {"domains": _HEALTHY, "hard": 0.003, "complained": 0.0002}),
    _Sender("sendgrid-news", "sendgrid", 9_000, 0.8, {"domains": _BREACHED, "hard": 0.034, "block": 0.01}),
    _Sender("postmark-club", "postmark", 160, 0.02, {"domains": _SMALL, "hard": 0.01}),
)


def _records() -> dict[tuple[str, str], tuple[str, ...]]:
    """The demo's zones: ``news.example`` has no DKIM key and no DMARC policy, the others are in order."""
    key = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    dkim = f"v=DKIM1; k=rsa; p={b64encode(key).decode()}"
    zone = {
        "NS": ("ns1.shop.example.", "ns2.shop.example."),
        "SOA": ("ns1.shop.example. dns.shop.example. 1 7200 900 1209600 3600",),
    }
    mail = {"MX": ("10 mx.shop.example.",), "A": ("192.0.2.80",), **zone}
    zones: dict[str, dict[str, tuple[str, ...]]] = {
        "shop.example": {"TXT": ("v=spf1 ip4:192.0.2.0/28 ~all",), **mail},
        "s1._domainkey.shop.example": {"TXT": (dkim,)},
        "_dmarc.shop.example": {"TXT": ("v=DMARC1; p=reject; rua=mailto:dmarc@shop.example",)},
        "mx.shop.example": {"A": ("192.0.2.25",)},
        "ns1.shop.example": {"A": ("127.0.53.1",)},
        "ns2.shop.example": {"A": ("127.0.54.1",)},
        "out.shop.example": {"A": ("192.0.2.1",)},
        "1.2.0.192.in-addr.arpa": {"PTR": ("out.shop.example.",)},
        "out.news.example": {"A": ("192.0.2.17",)},
        "17.2.0.192.in-addr.arpa": {"PTR": ("out.news.example.",)},
        "news.example": {"TXT": ("v=spf1 ip4:192.0.2.16/28 ~all",), **mail},
        "_dmarc.news.example": {"TXT": ("v=DMARC1; p=none",)},
        # A recipient's domain, hosted as many are: whose mailboxes it has is known by its MX.
        "company.example": {"MX": ("1 smtp.google.com.",)},
        "club.example": {"TXT": ("v=spf1 ip4:192.0.2.32/28 ~all",), **mail},
        "20250101pm._domainkey.club.example": {"TXT": (dkim,)},
        "_dmarc.club.example": {"TXT": ("v=DMARC1; p=quarantine; rua=mailto:dmarc@club.example",)},
    }
    return {(name, kind): texts for name, kinds in zones.items() for kind, texts in kinds.items()}


_SETTINGS = """
listen: {{public: "{public}", private: "{private}"}}
store: {{url: "sqlite:///{directory}/ledger.db"}}
dns: {{resolvers: ["{dns}"], interval: 60s, min_interval: 10s}}
sources:
  - name: sendgrid-shop
    provider: sendgrid
    verification_key: "{verification_key}"
    domain: shop.example
    streams: [transactional, newsletter]
  - name: sendgrid-news
    provider: sendgrid
    verification_key: "{verification_key}"
    domain: news.example
    streams: [transactional, newsletter]
  - {{name: postmark-club, provider: postmark, username: "{username}", password: "{password}", domain: club.example}}
domains:
  - {{name: shop.example, phase: growth, dkim_selectors: [s1], sending_ips: [192.0.2.1]}}
  - {{name: news.example, phase: growth, dkim_selectors: [s1], sending_ips: [192.0.2.17]}}
  - {{name: club.example, phase: foundation, dkim_selectors: [20250101pm]}}
"""


def run(environ: Mapping[str, str]) -> None:
    """Serve the demo until a signal ends it; its data goes with it. ``MAILVITALS_…`` variables apply.
    Raises as ``serve`` and ``load`` do."""
    keys = {provider: SIMULATORS[provider].new_credentials() for provider in ("sendgrid", "postmark")}
    directory = tempfile.mkdtemp(prefix="mailvitals-demo-")
    dns = DnsServer(_records())

    async def alongside(daemon: Daemon) -> None:
        await dns.start()
        try:
            await _traffic(daemon, {provider: pair.signing for provider, pair in keys.items()})
        finally:
            dns.stop()

    try:
        with dns.reserved() as address:
            settings = loads(
                _SETTINGS.format(
                    public=PUBLIC, private=PRIVATE, directory=directory, dns=address,
                    **keys["sendgrid"].settings, **keys["postmark"].settings,
                ),
                environ, "demo settings",
            )  # fmt: skip
            _introduce(settings)
            serve(settings, demo=True, alongside=alongside)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _introduce(settings: Settings) -> None:
    print(  # noqa: T201
        f"mailvitals demo: simulated traffic, nothing of it is real.\n"
        f"  status page   http://{settings.listen.private}/\n"
        f"  metrics       http://{settings.listen.private}/metrics\n"
        f"  webhooks      http://{settings.listen.public}/webhooks/sendgrid-shop\n"
        f"Ctrl-C stops it.",
        flush=True,
    )


async def _traffic(daemon: Daemon, credentials: Mapping[str, Credentials]) -> None:
    base = f"http://{daemon.addresses['public']}/webhooks/"
    async with asyncio.TaskGroup() as group:
        for seed, sender in enumerate(_SENDERS):
            group.create_task(_send(base + sender.source, sender, credentials[sender.provider], seed))


async def _send(url: str, sender: _Sender, credentials: Credentials, seed: int) -> None:
    provider, now = sender.provider, time.time()
    past = msgspec.convert(
        {
            "start": now - HISTORY,
            "duration": HISTORY - 60,
            "until": now,
            "seed": seed,
            "messages": sender.messages,
            **sender.mix,
        },
        Scenario,
    )
    sent = await simulate(provider, past, url, credentials, concurrency=4)
    log.info("demo.history_sent", provider=provider, reports=sent.reports)
    chunk = 0
    while True:
        chunk += 1
        start = time.time()
        messages = max(1, round(sender.rate * LIVE_CHUNK))
        live = msgspec.structs.replace(
            past,
            start=start,
            duration=LIVE_CHUNK,
            until=start + LIVE_CHUNK,
            messages=messages,
            seed=1000 * chunk + seed,
            lateness=60.0,
        )
        await simulate(provider, live, url, credentials, rate=max(0.1, sender.rate * 1.3), batch=10, concurrency=2)
        await asyncio.sleep(max(0.0, start + LIVE_CHUNK - time.time()))

"""What is kept of the findings: what changed, once, in parts, and again after the store failed."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import msgspec
import pytest

from agent.dns.checks.base import Finding, Verdict, Watched
from agent.dns.resolver import Resolver
from agent.ledger.base import StoreUnavailable
from agent.posture import Posture
from agent.settings import Settings


class Store:
    """Keeps documents; ``fails`` as often as it is told to."""

    def __init__(self, **documents: dict[str, bytes]) -> None:
        self.documents = documents
        self.written: list[dict[str, bytes | None]] = []
        self.fails = 0

    async def load(self, kind: str) -> dict[str, bytes]:
        return dict(self.documents.get(kind, {}))

    async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int = 0) -> None:
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("disk full")
        if kind == "finding":
            self.written.append(dict(documents))
        held = self.documents.setdefault(kind, {})
        for key, body in documents.items():
            if body is None:
                held.pop(key, None)
            else:
                held[key] = body


def found(subject: str = "", verdict: str = "ok", check: str = "dkim") -> Finding:
    return Finding(check, subject, Verdict(verdict), "x", "by me@example.com")


async def posture(store: Store) -> Posture:
    domains = [{"name": "example.com", "phase": "growth"}]
    settings = Settings.model_validate({"listen": {}, "store": {"url": "sqlite:////no/x.db"}, "domains": domains})
    metrics = SimpleNamespace(dns_opinion=None, dns_health=None)
    made = Posture(settings, Resolver(), store, metrics, clock=lambda: 1000.0, share=lambda d, s: None)  # type: ignore[arg-type]
    await made.restore()
    return made


async def test_what_changed_is_written_once_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.posture._AT_ONCE", 2)
    store = Store()
    p = await posture(store)
    assert p._watch
    p._watch.published.publish("example.com", "dkim", tuple(found(f"s{n}") for n in range(5)), 1000.0)
    await p.save(1)
    assert [len(part) for part in store.written] == [2, 2, 1]
    assert not any(b"me@" in body for body in store.documents["finding"].values())
    await p.save(1)
    assert len(store.written) == 3, "nothing changed, nothing is written"
    p._watch.published.publish("example.com", "dkim", (found("s0"), found("s1", "fail")), 1010.0)
    store.fails = 1
    with pytest.raises(StoreUnavailable):
        await p.save(1)
    await p.save(1)
    assert set(store.documents["finding"]) == {"example.com dkim s0", "example.com dkim s1"}
    again = await posture(store)
    assert [w.finding.verdict for w in again.findings()] == [Verdict.OK, Verdict.FAIL]


async def test_what_is_no_longer_watched_is_forgotten() -> None:
    kept = {
        f"{domain} {check} ": msgspec.json.encode(Watched(domain, found(check=check), 1.0, 1.0))
        for domain, check in (("gone.com", "dkim"), ("example.com", "dkim"), ("example.com", "no_check"), (
            "example.com", "blocklist",
        ))
    }  # fmt: skip
    store = Store(finding=kept)
    p = await posture(store)
    assert [w.finding.check for w in p.findings()] == ["dkim"]
    await p.save(1)
    assert set(store.documents["finding"]) == {"example.com dkim "}
    await p.save(1)
    assert len(store.written) == 1

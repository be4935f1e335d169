"""What only time tells of an MTA-STS policy (RFC 8461): that it changed under the same id, that it is tested for ever.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.dns.changes import Change
from agent.dns.checks.base import Finding, Verdict
from agent.dns.inventory import POLICY, Inventory, RecordSet, policy_lines

_TESTING = 90 * 86_400.0  # seconds after which a test has shown what it can
_GRACE = 3600.0  # seconds for the id to follow the policy (section 8.1), and
_BEFORE = 86_400.0  # for an id that was changed first


def begun(known: Inventory, since: Mapping[str, float], now: Inventory, at: float) -> dict[str, float]:
    """When each policy was first seen in the mode it has ``now``, by key: as it was known, or ``at`` (Unix seconds)."""
    return {
        key: since.get(key, at) if key in known and _mode(known[key]) == _mode(record) else at
        for key, record in now.items()
        if record.role == POLICY
    }


def policy_findings(
    domain: str, known: Inventory, since: Mapping[str, float], changes: Iterable[Change], *, check: str, now: float
) -> Iterator[Finding]:
    """What is to be said of a domain's policy at ``now``, as findings of ``check``. ``changes`` are the domain's own,
    the oldest first."""
    txt, policy = known.get(f"mta_sts _mta-sts.{domain}"), known.get(f"{POLICY} mta-sts.{domain}")
    if not (txt and txt.records and policy and policy.records):
        return
    began = since.get(policy.key, now)
    if _mode(policy) == "testing" and now - began > _TESTING:
        yield Finding(
            check, policy.key, Verdict.WARN, "sts_testing_long", f"The MTA-STS policy of {domain} has been tested for "
            f"{(now - began) / 86_400:.0f} days: it keeps nobody from reading mail on its way.",
            f"When the TLS reports show no failures, serve mode: enforce and publish another id at {txt.name}.",
            "RFC 8461 section 5", policy.records,
        )  # fmt: skip
    last = {c.after.role: c for c in changes if c.after.role in (POLICY, txt.role)}
    change, renamed = last.get(POLICY), last.get(txt.role)
    if change is None or change.after.records != policy.records or not change.before.records:
        return
    followed = renamed is not None and renamed.at > change.at - _BEFORE
    kept_until = change.at + float(policy_lines(change.before).get("max_age", "0"))
    if not followed and change.at + _GRACE < now < kept_until:
        yield Finding(
            check, txt.key, Verdict.WARN, "sts_same_id", f"The MTA-STS policy of {domain} changed, the id at "
            f"{txt.name} did not: senders that know the old policy keep it.",
            f'Publish another id: {txt.name} TXT "v=STSv1; id=<the date and time>"', "RFC 8461 section 8.1",
            txt.records,
        )  # fmt: skip


def _mode(policy: RecordSet) -> str:
    return policy_lines(policy).get("mode", "")

"""Every DNS check, by name. To add one: write the module, add it here, to the tests and to docs/checks.md."""

from __future__ import annotations

from agent.dns.checks import (
    alignment,
    bimi,
    dane,
    delegation,
    dkim,
    dmarc,
    dnssec,
    expiry,
    mta_sts,
    mx,
    ns,
    ptr,
    soa,
    spf,
    tls_rpt,
)  # fmt: skip
from agent.dns.checks.base import Check

CHECKS: dict[str, Check] = {
    "spf": spf, "dkim": dkim, "dmarc": dmarc, "alignment": alignment, "mx": mx, "ptr": ptr, "ns": ns, "soa": soa,
    "delegation": delegation,
    "mta_sts": mta_sts, "tls_rpt": tls_rpt, "dane": dane, "dnssec": dnssec, "bimi": bimi, "expiry": expiry,
}  # fmt: skip

"""Every DNS check, by name. To add one: write the module, add it here, to the tests and to docs/checks.md."""

from __future__ import annotations

from agent.dns.checks import alignment, dkim, dmarc, mx, ptr, spf
from agent.dns.checks.base import Check

CHECKS: dict[str, Check] = {"spf": spf, "dkim": dkim, "dmarc": dmarc, "alignment": alignment, "mx": mx, "ptr": ptr}

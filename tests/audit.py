"""Hold the lock files against known advisories: ``make audit``.

What cannot be asked is said and fails nothing; a build without network is still a build. A package that the advisory
service does not know was not checked, and is not called safe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-test.lock", "requirements-bench.lock")


def judge(report: Mapping[str, Any] | None) -> tuple[list[str], int]:
    """What to print of pip-audit's JSON report, and the exit code. ``None``: the service could not be reached."""
    packages = report["dependencies"] if report else []
    known = [one for one in packages if "vulns" in one]
    unknown = [one["name"] for one in packages if "vulns" not in one]
    if not known:
        return [
            "audit: the advisory service could not be reached or knows none of the packages; nothing was checked"
        ], 0
    lines = []
    for one in known:
        for found in one["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            lines.append(f"audit: {one['name']} {one['version']}: {found['id']}, fixed in {fixed}")
    code = 1 if lines else 0
    lines.append(f"audit: {len(known)} packages checked, {len(lines)} advisories")
    if unknown:
        lines.append(f"audit: not checked, since the service does not know them: {', '.join(sorted(unknown))}")
    return lines, code


def ask(lock: Path, *options: str) -> Mapping[str, Any] | None:
    """pip-audit's report of one lock file; ``None`` when there is none."""
    command = [
        Path(sys.executable).parent / "pip-audit", "--disable-pip", "--require-hashes", "--requirement", lock,
        "--format", "json", "--progress-spinner", "off", "--timeout", "10", *options,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        report = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return None
    return report if isinstance(report, dict) else None


def main() -> int:
    """Ask about every package once, print, and give the exit code."""
    packages: dict[tuple[str, str], Any] = {}
    for lock in LOCKS:
        for one in (ask(ROOT / lock) or {"dependencies": ()})["dependencies"]:
            packages[one["name"], one.get("version", "")] = one
    lines, code = judge({"dependencies": list(packages.values())})
    print(*lines, sep="\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())

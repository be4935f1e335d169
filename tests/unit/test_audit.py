"""The audit of the lock files: what was not checked is not called safe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit import LOCKS, ROOT, ask, judge

SAFE = {"name": "click", "version": "8.1.0", "vulns": []}
BAD = {
    "name": "aiohttp", "version": "3.9.0",
    "vulns": [{"id": "GHSA-1", "fix_versions": ["3.9.2"], "aliases": []}, {"id": "GHSA-2", "fix_versions": []}],
}  # fmt: skip
UNKNOWN = {"name": "mine", "skip_reason": "Dependency not found"}


def test_an_advisory_fails_and_is_named_with_its_fix() -> None:
    lines, code = judge({"dependencies": [SAFE, BAD, UNKNOWN]})
    assert code == 1
    assert "audit: aiohttp 3.9.0: GHSA-1, fixed in 3.9.2" in lines
    assert "audit: aiohttp 3.9.0: GHSA-2, fixed in no version yet" in lines
    assert "audit: 2 packages checked, 2 advisories" in lines
    assert lines[-1].endswith("know them: mine")


def test_none_found_is_said_with_the_number_of_packages() -> None:
    assert judge({"dependencies": [SAFE]}) == (["audit: 1 packages checked, 0 advisories"], 0)


@pytest.mark.parametrize("report", [None, {"dependencies": []}, {"dependencies": [UNKNOWN, UNKNOWN]}])
def test_a_service_that_is_not_reached_fails_nothing_and_clears_nothing(report: dict[str, object] | None) -> None:
    (line,), code = judge(report)
    assert code == 0
    assert "nothing was checked" in line


def test_a_lock_file_without_an_answer_has_no_report(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text("click==8.1.0\n")  # Without hashes, so that nobody is asked.
    assert ask(tmp_path / "a.lock") is None
    assert all((ROOT / lock).exists() for lock in LOCKS)

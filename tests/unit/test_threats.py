"""Each threat of docs/threats.md is shown by a test that exists; and one that is shown by reading the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/threats.md").read_text(encoding="utf-8")
# What secrets, and what is worked out of them, are called where they are compared.
_SECRET = re.compile(r"(^|_)(secret|signature|password|token|expected|ticket)s?$")
_PUBLIC = {"PING_SECRET"}  # Said by the vendor to everyone.


def _tests(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_threat_names_a_test_that_exists() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| Threat", "|---"))]
    assert len(rows) >= 35
    for row in rows:
        threat, answer, test = (cell.strip() for cell in row.strip("|").split(" | "))
        assert threat
        assert answer
        named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test)
        assert named, test
        assert named[2] in _tests(named[1]), test


def compared(source: str) -> list[str]:
    """Names of secrets that are compared with ``==`` or ``in``, which takes longer the more is right."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn):
            sides = [node.left, *node.comparators]
            names = {getattr(side, "id", getattr(side, "attr", "")) for side in sides}
            if not names & _PUBLIC and not any(isinstance(side, ast.Constant) for side in sides):
                found += [name for name in names if _SECRET.search(name)]
    return found


def test_secrets_are_compared_in_constant_time_alone() -> None:
    files = [*(ROOT / "agent/providers").glob("*.py"), *(ROOT / "agent/intake").glob("*.py")]
    files.append(ROOT / "agent/views/http.py")
    assert len(files) > 20
    assert {file.name: names for file in files if (names := compared(file.read_text(encoding="utf-8")))} == {}


def test_a_careless_comparison_would_be_found() -> None:
    assert compared("if given == signature: pass") == ["signature"]
    assert compared("ok = request.password in live") == ["password"]
    assert compared("if version == '2': pass") == compared("hmac.compare_digest(given, expected)") == []

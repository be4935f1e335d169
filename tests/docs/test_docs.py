"""The documents point at things that exist, and the list of dependencies is the list of dependencies."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# Folders whose files are named in the documents by their path.
_TREES = ("agent", "bench", "deploy", "docs", "examples", "grafana", "tests", ".ci")


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def prose(text: str) -> str:
    """The text without its code blocks."""
    return re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them of its headings, and those it sets itself."""
    text = path.read_text(encoding="utf-8")
    found: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        to = (path.parent / file).resolve() if file else path
        wrong_anchor = anchor and to.suffix == ".md" and to.exists() and anchor not in anchors(to)
        if not to.exists() or not to.is_relative_to(ROOT) or wrong_anchor:
            broken.append(target)
    return broken


def missing_paths(path: Path) -> list[str]:
    """Paths of this repository named in back quotes that are not there. ``*`` and ``<name>`` match anything."""
    named = re.findall(rf"`((?:{'|'.join(map(re.escape, _TREES))})/[^`\s]*)`", path.read_text(encoding="utf-8"))
    plain = (re.sub(r"<[^>]+>|\{[^}]+\}|…", "*", name).split("#")[0].split("::")[0].rstrip("/") for name in named)
    return [name for name in plain if not list(ROOT.glob(name))]


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_resolve(path: Path) -> None:
    assert broken_links(path) == []
    assert missing_paths(path) == []


def test_a_broken_link_would_be_seen(tmp_path: Path) -> None:
    page = ROOT / "docs" / "operations.md"
    assert "mailvitalsagentdown" in anchors(page)
    trial = tmp_path / "trial.md"
    trial.write_text("# One two\n[a](#one-two) [b](#three) [c](gone.md) [d](https://example.com/x)\n`agent/gone.py`\n")
    assert broken_links(trial) == ["#one-two", "#three", "gone.md"]  # outside of the repository nothing resolves
    assert missing_paths(trial) == ["agent/gone.py"]
    assert anchors(trial) == {"one-two"}


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):", text, re.MULTILINE))


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_named_in_the_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z]+)`|^\s*make ([a-z]+)$", text, re.MULTILINE))
    assert {a or b for a, b in named} <= make_targets()


def declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = {"run": project["project"]["dependencies"], **project["dependency-groups"]}
    return {group: [re.split(r"[<>=!~\[ ;]", line, maxsplit=1)[0] for line in lines] for group, lines in lists.items()}


def listed() -> dict[str, list[str]]:
    """Names in the first column of each section's table of docs/dependencies.md."""
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    rows = {title: re.findall(r"^\| (`.*?) \|", body, re.MULTILINE) for title, body in sections.items()}
    return {title: [n for row in cells for n in re.findall(r"`([^`]+)`", row)] for title, cells in rows.items()}


@pytest.mark.parametrize(("group", "section"), [
    ("run", "Running the agent"), ("build", "Building"), ("test", "Lint and tests"), ("bench", "Benchmarks"),
])  # fmt: skip
def test_every_dependency_has_a_line_and_every_line_a_dependency(group: str, section: str) -> None:
    assert sorted(listed()[section]) == sorted(declared()[group])


def test_every_debian_package_is_installed_by_make_and_has_a_line() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    block = re.search(r"^DEBIAN := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert block
    installed = {pair.split(":")[0] for pair in block[1].replace("\\", " ").split()}
    assert installed == set(listed()["Programs that tests start"])
    asked_for = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "program" and len(node.args) == 2:
                package = node.args[1]
                if isinstance(package, ast.Constant):
                    asked_for.add(package.value)
    assert asked_for
    assert asked_for <= installed


def test_what_the_agent_imports_is_declared_and_what_is_declared_is_imported() -> None:
    # Distributions whose import name differs, and modules that are part of a declared one's interface.
    modules = {"dnspython": {"dns"}, "PyYAML": {"yaml"}, "pydantic": {"pydantic", "pydantic_core"},
               "aiodns": {"aiodns", "pycares"}, "aiohttp": {"aiohttp", "yarl"},
               "aiomqtt": {"aiomqtt", "paho"}}  # fmt: skip
    expected = {name: modules.get(name, {name.replace("-", "_")}) for name in declared()["run"]}
    imported = set()
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"agent"}
    assert third_party <= set().union(*expected.values())
    assert [name for name, names in expected.items() if not names & third_party] == []


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-build.lock", "requirements-test.lock", "requirements-bench.lock"]
)
def test_locks_pin_everything_by_hash_and_name_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    pinned = re.findall(
        r"^([A-Za-z0-9._-]+)==([^ \\]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M
    )
    assert len(pinned) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    assert "://" not in text
    group = {"requirements.lock": "run"}.get(lock, lock.removeprefix("requirements-").removesuffix(".lock"))
    assert {n.lower().replace("_", "-") for n in declared()[group]} <= {name.lower() for name, _, _ in pinned}


def test_nothing_that_is_tracked_is_also_ignored() -> None:
    done = subprocess.run(
        ["git", "ls-files", "-ci", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def rule_alerts() -> dict[str, set[str]]:
    """Runbook addresses by alert, of every rule in deploy/rules/."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "deploy/rules").glob("*.yaml"):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    found.setdefault(rule["alert"], set()).add(rule["annotations"]["runbook_url"])
    return found


def test_every_alert_of_prometheus_leads_to_its_runbook_and_every_runbook_has_an_alert() -> None:
    page = ROOT / "docs/operations.md"
    alerts = rule_alerts()
    for alert, addresses in alerts.items():
        assert {address.partition("docs/operations.md#")[2] for address in addresses} == {alert.lower()}
    assert {a.lower() for a in alerts} <= anchors(page)
    runbooks = re.findall(r"^### (Mailvitals\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(runbooks) == sorted(alerts)
    sections = re.split(r"^### ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for section in sections:
        if section.startswith("Mailvitals"):
            assert "**Means:**" in section
            assert "**Do:**" in section

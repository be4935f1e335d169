"""Wrap every rule file of deploy/rules/ into the PrometheusRule that the Prometheus operator reads.

The rule files are the source: Prometheus loads them as they are, and promtool checks them. Written next to this file,
so that kustomize, which reads nothing above its own folder, finds them; and, as they are, into the Helm chart, which
reads nothing outside of itself either.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parent / "rules"
CHART = HERE.parent / "helm/mailvitals/rules"

_HEAD = """\
# Made from deploy/rules/{name}.yaml by `make rules`; change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
spec:
"""


def render(rules: Path) -> str:
    """The PrometheusRule of one rule file, comments kept. Indenting is all it takes: ``spec`` is the file's content."""
    lines = [line for line in rules.read_text(encoding="utf-8").splitlines() if line != "---"]
    return _HEAD.format(name=rules.stem) + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def rendered() -> dict[Path, str]:
    """What each PrometheusRule file must contain."""
    return {HERE / f"{rules.stem}.yaml": render(rules) for rules in sorted(RULES.glob("*.yaml"))}


if __name__ == "__main__":
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")
    for rules in RULES.glob("*.yaml"):
        (CHART / rules.name).write_text(rules.read_text(encoding="utf-8"), encoding="utf-8")

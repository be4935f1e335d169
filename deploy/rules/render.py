"""Write mailvitals-verdicts.yaml: the alerts that the agent pushes, for sites where Prometheus is to raise them.

One rule for each of them, on the agent's own incidents: grouped by cause, with their quiet period, and
muted where they are muted. ``make rules`` runs it.
"""

from __future__ import annotations

from pathlib import Path

from agent.alerts.catalogue import ALERTS

TARGET = Path(__file__).with_name("mailvitals-verdicts.yaml")

_HEAD = """\
# Made from agent/alerts/catalogue.py by `make rules`.
#
# Alerts on the agent's verdicts, for sites where it pushes to no Alertmanager (no `alertmanagers` in its settings).
# Each ends in `unless on () (max(mailvitals_alertmanagers) > 0)`: where the agent does push, these rules are silent, so
# nobody is told twice.
#
# Series are found by the scrape job: name it mailvitals, or change job="mailvitals" throughout this file.
# runbook_url leads to docs/operations.md: put the address under which your team reads it.
groups:
  - name: mailvitals-verdicts
    rules:
"""
_RULE = """\
      - alert: {name}
        expr: |
          max without (instance, pod{less}) (
            max_over_time({series}[5m])
          ) == 1
          unless on () (max(mailvitals_alertmanagers) > 0)
{more}        annotations:
          summary: {summary}
          description: >-
            {description}
          runbook_url: https://mailvitals.example/docs/operations.md#{anchor}
"""
_ABOUT = (
    "{{ $labels.alert }}"
    + "".join(
        f"{{{{ with $labels.{name} }}}} {{{{ . }}}}{{{{ end }}}}"
        for name in ("domain", "target", "check", "subject", "source")
    )
    + ". The status page shows the evidence and what may have caused it."
)
_WARNS = (
    "{{ $labels.domain }}: the check {{ $labels.check }} {{ $labels.subject }} warns. The status page shows the record "
    "and what to publish."
)
_STALE = "{{ $labels.domain }} ({{ $labels.phase }} phase): nothing fresh to judge the target {{ $labels.target }} by."


def render() -> str:
    """What the file must contain."""
    text = _HEAD
    for alert in ALERTS.values():
        # The severity is a label of the series. Incidents were confirmed and waited for by the agent: no `for`.
        text += _rule(
            alert.name.removeprefix("Mail"),
            f'mailvitals_incident_open{{job="mailvitals",alert="{alert.name}"}}',
            alert.meaning.rstrip("."),
            _ABOUT,
        )
    text += _rule(
        "DnsCheckWarning",
        'mailvitals_dns_check_verdict{job="mailvitals",verdict="warn"}',
        "A DNS check of a sending domain warns",
        _WARNS,
        "info",
    )
    return text + _rule(
        "Stale",
        'mailvitals_target_verdict{job="mailvitals",verdict="stale"}',
        "A target cannot be judged, because no events arrive",
        _STALE,
        "warning",
    )


def _rule(name: str, series: str, summary: str, description: str, severity: str = "") -> str:
    whole = "MailvitalsVerdict" + name
    return _RULE.format(
        name=whole,
        series=series,
        summary=f'"{summary}"' if ": " in summary else summary,
        description=description,
        anchor=whole.lower(),
        less=", verdict" if severity else "",
        more=f"        for: 1h\n        labels:\n          severity: {severity}\n" if severity else "",
    )


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")

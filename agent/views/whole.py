"""The metrics that describe the whole, computed from the state at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.alerts.mutes import muted_until
from agent.dns.blocklists import Health
from agent.dns.checks.base import Verdict
from agent.views.catalogue import CATALOGUE, INCIDENT_LABELS, INCIDENT_STATES, OTHER, PREFIX, WHOLE, ratio_names
from agent.views.state import State
from agent.vitals.direction import HEADINGS, VOLUME_HEADINGS
from agent.vitals.gate import GateState
from agent.vitals.rates import Windows, proportion
from agent.vitals.types import Budget, BudgetState, DomainVitals, Rate, TargetVerdict

# One part's rates by window.
_Rates = Mapping[str, Mapping[str, Rate]]
_Part = tuple[str, str, str, _Rates]  # domain, scope, name

_LOCAL_GAUGES = ("ready", "alertmanagers", "leader")


def label_value(text: str) -> str:
    """A value Prometheus accepts: valid UTF-8, at most 200 characters."""
    return text[:200].encode("utf-8", "replace").decode("utf-8")


class WholeCollector(Collector):
    """Turns ``state()`` into metric families. Only a leader exports more than its readiness. ``budget`` bounds the
    series; domains, targets and findings come from settings and always appear, the smallest parts give way."""

    def __init__(self, state: Callable[[], State], budget: int) -> None:
        self._state = state
        self._budget = budget

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return _families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = self._state()
        families = _families()
        families["ready"].add_metric([], float(all(r.ok for r in state.readiness)))
        families["alertmanagers"].add_metric([], len(state.alertmanagers))
        families["leader"].add_metric([], float(state.leader))
        if state.leader:
            _add_findings(families, state)
            _add_blocklists(families, state)
            _add_incidents(families, state)
            _add_signs_of_life(families, state)
            _add_trends(families, state)
            _add_part_verdicts(families, state, self._budget // 4)
            _add_gates(families, state)
            if state.snapshot is not None:
                families["last_evaluation_timestamp_seconds"].add_metric([], state.snapshot.evaluated_at)
                for vitals in state.snapshot.domains.values():
                    _add_domain(families, vitals)
                used = sum(len(family.samples) for family in families.values())
                folded = _add_parts(families, state.snapshot.domains.values(), self._budget - used)
                families["parts_folded"].add_metric([], folded)
        # Those without a sample too: name and help tell what would be there.
        return iter(families.values())


def _families() -> dict[str, GaugeMetricFamily]:
    metrics = (*WHOLE, *(CATALOGUE[name] for name in _LOCAL_GAUGES))
    return {m.name: GaugeMetricFamily(PREFIX + m.name, m.help, labels=m.labels) for m in metrics}


def _add_rates(families: dict[str, GaugeMetricFamily], prefix: str, labels: list[str], windows: _Rates) -> None:
    for window, rates in windows.items():
        for rate, value in rates.items():
            points = (value.value, value.lower, value.upper)
            for name, point in zip(ratio_names(rate), points, strict=False):
                if point is not None:
                    families[prefix + name].add_metric([*labels, window], point)


def _add_domain(families: dict[str, GaugeMetricFamily], vitals: DomainVitals) -> None:
    domain = label_value(vitals.domain)
    _add_rates(families, "", [domain], vitals.rates)
    for window, rates in vitals.anytime.items():
        for target, rate in rates.items():
            for end, bound in (("lower", rate.lower), ("upper", rate.upper)):
                if bound is not None:
                    families[f"{target}_ratio_anytime_{end}"].add_metric([domain, window], bound)
    for window, count in vitals.attempted.items():
        families["attempted"].add_metric([domain, window], count)
    for judgement in vitals.judgements:
        for verdict in TargetVerdict:
            labels = [domain, label_value(vitals.phase), judgement.target, verdict.value]
            families["target_verdict"].add_metric(labels, float(verdict == judgement.verdict))
    for budget in vitals.budgets:
        _add_budget(families, [domain, budget.target], budget)
    families["monthly_volume"].add_metric([domain], vitals.monthly_volume)
    if vitals.monthly_projection is not None:
        families["monthly_volume_projected"].add_metric([domain], vitals.monthly_projection)


def _add_budget(families: dict[str, GaugeMetricFamily], labels: list[str], budget: Budget) -> None:
    if budget.projected:
        families["target_budget_allowed"].add_metric(labels, budget.allowed)
    families["target_budget_used"].add_metric(labels, budget.used)
    for window, burn in (("24h", budget.burn_24h), ("7d", budget.burn_7d)):
        if burn is not None:
            families["target_budget_burn_rate"].add_metric([*labels, window], burn)
    for state in BudgetState:
        families["target_budget_state"].add_metric([*labels, state.value], float(state == budget.state))
    for end, at in (("", budget.ends_at), ("_earliest", budget.earliest), ("_latest", budget.latest)):
        if at is not None:
            families[f"target_budget_ends{end}_timestamp_seconds"].add_metric(labels, at)


def _add_parts(families: dict[str, GaugeMetricFamily], domains: Iterable[DomainVitals], budget: int) -> int:
    """Add the busiest parts within the budget, fold the others; how many were folded."""
    bounded: dict[tuple[str, str, str], _Rates] = {}
    parts: list[_Part] = []
    for vitals in domains:
        for scope, by_part in vitals.parts.items():
            for name, windows in by_part.items():
                bounded[vitals.domain, scope, name] = windows
                plain = windows.unbounded() if isinstance(windows, Windows) else windows
                parts.append((vitals.domain, scope, name, plain))
    parts.sort(key=lambda p: (-_busyness(p[3]), p[:3]))
    if sum(_series(windows) for *_, windows in parts) > budget:
        # What is folded becomes one more part per domain and scope; that room is set aside first.
        budget -= sum(map(_series, _sums(parts).values()))
    kept: list[_Part] = []
    folded: list[_Part] = []
    for part in parts:
        size = _series(part[3])
        if not folded and size <= budget:
            budget -= size
            kept.append(part)
        else:
            folded.append(part)
    rest = _sums(folded + [p for p in kept if folded and p[2] == OTHER])
    for domain, scope, name, _ in kept:
        if not (name == OTHER and (domain, scope) in rest):
            labels = [label_value(domain), label_value(name)]
            _add_rates(families, f"{scope}_", labels, bounded[domain, scope, name])
    for (domain, scope), sums in rest.items():
        _add_rates(families, f"{scope}_", [label_value(domain), OTHER], _bounded(sums))
    return len(folded)


def _series(windows: _Rates) -> int:
    return sum(len(ratio_names(rate)) for rates in windows.values() for rate in rates)


def _busyness(windows: _Rates) -> int:
    return max((rate.denominator for rates in windows.values() for rate in rates.values()), default=0)


def _sums(parts: Iterable[_Part]) -> dict[tuple[str, str], dict[str, dict[str, Rate]]]:
    """One part per domain and scope out of several, without bounds. Parts do not overlap, so numerators and
    denominators add up."""
    sums: dict[tuple[str, str], dict[str, dict[str, Rate]]] = {}
    for domain, scope, _, windows in parts:
        total = sums.setdefault((domain, scope), {})
        for window, rates in windows.items():
            for name, rate in rates.items():
                before = total.setdefault(window, {}).get(name)
                numerator = rate.numerator + (before.numerator if before else 0)
                denominator = rate.denominator + (before.denominator if before else 0)
                total[window][name] = Rate(numerator / denominator, None, None, numerator, denominator)
    return sums


def _bounded(windows: _Rates) -> _Rates:
    return {
        window: {
            name: rate if name == "deferral" else proportion(rate.numerator, rate.denominator) or rate
            for name, rate in rates.items()
        }
        for window, rates in windows.items()
    }


def _add_findings(families: dict[str, GaugeMetricFamily], state: State) -> None:
    oldest: dict[tuple[str, str], float] = {}
    for watched in state.findings:
        finding = watched.finding
        labels = [label_value(watched.domain), finding.check, label_value(finding.subject)]
        for verdict in Verdict:
            families["dns_check_verdict"].add_metric([*labels, verdict.value], float(verdict == finding.verdict))
        key = (labels[0], finding.check)
        oldest[key] = min(oldest.get(key, watched.definitive_at), watched.definitive_at)
    for (domain, check), at in oldest.items():
        if at:
            families["dns_last_success_timestamp_seconds"].add_metric([domain, check], at)


def _add_blocklists(families: dict[str, GaugeMetricFamily], state: State) -> None:
    for blocklist in state.blocklists:
        name = label_value(blocklist.name)
        for health in Health if blocklist.health else ():
            families["blocklist_health"].add_metric([name, health.value], float(health == blocklist.health))
        for subject, listed in blocklist.listed.items():
            if listed is not None:
                families["blocklist_listed"].add_metric([label_value(subject), name], float(listed))


def _add_incidents(families: dict[str, GaugeMetricFamily], state: State) -> None:
    domains = {*state.domain_phases, *(state.snapshot.domains if state.snapshot else ())}
    counts = {(domain, name): 0 for domain in sorted(domains) for name in INCIDENT_STATES}
    for incident in state.incidents:
        if not incident.resolved_at:
            muted = muted_until(incident.labels, state.mutes, state.now)
            key = (incident.labels.get("domain", ""), "muted" if muted else incident.state)
            counts[key] = counts.get(key, 0) + 1
            if not muted:
                labels = incident.labels | {"alert": incident.labels.get("alertname", "")}
                values = [label_value(labels.get(name, "")) for name in INCIDENT_LABELS]
                families["incident_open"].add_metric(values, 1)
    for (domain, name), count in counts.items():
        families["incidents"].add_metric([label_value(domain), name], count)


def _add_trends(families: dict[str, GaugeMetricFamily], state: State) -> None:
    for name, trends in state.trends.items():
        domain = label_value(name)
        # Parts are told on the page and by the API: here they would be as many series as the rates themselves.
        for found in trends.directions:
            if not found.scope:
                for direction in VOLUME_HEADINGS if found.rate == "volume" else HEADINGS:
                    labels = [domain, found.rate, direction]
                    families["rate_direction"].add_metric(labels, float(direction == found.direction))
        newest = {shift.rate: shift.at for shift in trends.shifts if not shift.scope}
        for rate, at in newest.items():
            families["rate_shift_timestamp_seconds"].add_metric([domain, rate], at)
        for forecast in trends.forecasts:
            ends = (("", forecast.at), ("_earliest", forecast.earliest), ("_latest", forecast.latest))
            for end, reached in ends:
                if reached is not None:
                    labels = [domain, forecast.limit]
                    families[f"capacity_reached{end}_timestamp_seconds"].add_metric(labels, reached)


def _add_part_verdicts(families: dict[str, GaugeMetricFamily], state: State, budget: int) -> None:
    """As many as the budget has room for, breached ones first, then those with most mail."""
    known = state.snapshot.domains if state.snapshot else {}
    found = [
        (domain, part)
        for domain, trends in state.trends.items()
        for part in trends.verdicts
        # Trends are looked at now and then: a part may be known under another name by now.
        if domain in known and part.part in known[domain].parts.get(part.scope, {})
    ]
    found.sort(key=lambda f: (f[1].verdict != TargetVerdict.BREACHED, -f[1].trials, f[0], f[1].part))
    for domain, part in found[: budget // len(TargetVerdict)]:
        for verdict in TargetVerdict:
            labels = [label_value(domain), label_value(part.part), part.target, verdict.value]
            families[f"{part.scope}_target_verdict"].add_metric(labels, float(verdict == part.verdict))


def _add_gates(families: dict[str, GaugeMetricFamily], state: State) -> None:
    for name, gate in state.gates.items():
        labels = [label_value(name), gate.phase]
        for gate_state in GateState:
            families["phase_gate"].add_metric([*labels, gate_state.value], float(gate_state == gate.state))
        if gate.earliest is not None:
            families["phase_gate_earliest_timestamp_seconds"].add_metric(labels, gate.earliest)


def _add_signs_of_life(families: dict[str, GaugeMetricFamily], state: State) -> None:
    for source in state.sources:
        name = label_value(source.name)
        if source.last_event_at:
            families["source_last_event_timestamp_seconds"].add_metric([name], source.last_event_at)
        if source.last_received_at:
            families["source_last_received_timestamp_seconds"].add_metric([name], source.last_received_at)
            expected = source.silence.events if source.silence else 0.0
            families["source_expected_events"].add_metric([name], expected)
    for alertmanager in state.alertmanagers:
        if alertmanager.last_success_at:
            labels = [label_value(alertmanager.url)]
            families["alertmanager_last_success_timestamp_seconds"].add_metric(labels, alertmanager.last_success_at)

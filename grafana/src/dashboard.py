"""Generates the Grafana dashboard: ``python grafana/src/dashboard.py`` writes ``grafana/dashboards/mailvitals.json``.

Limits drawn in the panels come from the built-in targets, so that picture and verdict cannot disagree.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from grafana_foundation_sdk.builders import bargauge, prometheus, stat, statetimeline, table, timeseries  # noqa: E402
from grafana_foundation_sdk.builders import common as c  # noqa: E402
from grafana_foundation_sdk.builders import dashboard as d  # noqa: E402
from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from grafana_foundation_sdk.models import common as mc  # noqa: E402
from grafana_foundation_sdk.models import dashboard as md  # noqa: E402
from grafana_foundation_sdk.models.prometheus import PromQueryFormat  # noqa: E402

from agent.dns.checks.base import Verdict  # noqa: E402
from agent.views.catalogue import PREFIX  # noqa: E402
from agent.vitals.direction import HEADINGS  # noqa: E402
from agent.vitals.gate import GateState  # noqa: E402
from agent.vitals.phases import PHASES  # noqa: E402
from agent.vitals.types import WINDOWS, BudgetState, TargetVerdict  # noqa: E402

TARGET = ROOT / "grafana" / "dashboards" / "mailvitals.json"
RUNBOOKS = "https://mailvitals.example/docs/operations.md"
SOURCE = md.DataSourceRef(type_val="prometheus", uid="${datasource}")
LIMITS = PHASES["foundation"]
DOMAIN = 'domain=~"$domain"'
IN_WINDOW = f'{DOMAIN},window="$window"'
NOT_INBOX = "Accepted by the recipient's server; not inbox placement."

Panel = timeseries.Panel | stat.Panel | table.Panel | statetimeline.Panel | bargauge.Panel
GOOD, WARN, BAD, NEUTRAL = "green", "orange", "red", "#8e8e8e"
VERDICT_COLOURS = dict(zip(TargetVerdict, (GOOD, BAD, "#5794f2", NEUTRAL, WARN), strict=True))
GATE_COLOURS = dict(zip(GateState, (GOOD, WARN, NEUTRAL), strict=True))
HEADING_COLOURS = dict(zip(HEADINGS, (GOOD, BAD, "#5794f2", NEUTRAL), strict=True))
BUDGET_COLOURS = dict(zip(BudgetState, (GOOD, "#5794f2", WARN, BAD, NEUTRAL), strict=True))
CHECK_COLOURS = dict(zip(Verdict, (GOOD, WARN, BAD, NEUTRAL), strict=True))


def whole(metric: str, *matchers: str, less: str = "") -> str:
    """A metric the leader exports, whichever instance leads."""
    return f"max without (instance, pod{', ' + less if less else ''}) ({PREFIX}{metric}{{{','.join(matchers)}}})"


def verdict(*states: str) -> str:
    return one_of("verdict", *states)


def one_of(label: str, *states: str) -> str:
    return f'{label}=~"' + "|".join(states) + '"'


def per_second(metric: str, keep: str) -> str:
    """A counter of all instances together."""
    return f"sum by ({keep}) (rate({PREFIX}{metric}[$__rate_interval]))"


def quantile(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate({PREFIX}{metric}_bucket[$__rate_interval])))"


def coded(metric: str, states: Sequence[str], matchers: str, label: str) -> str:
    """A state set as one number: the place of the state that holds."""
    return " + ".join(f"{n} * {whole(metric, matchers, one_of(label, s), less=label)}" for n, s in enumerate(states))


def query(expr: str, legend: str = "", instant: bool = False) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expr).datasource(SOURCE)
    if legend:
        made = made.legend_format(legend)
    return made.instant().format(PromQueryFormat.TABLE) if instant else made.range()


def thresholds(*steps: tuple[float | None, str]) -> d.ThresholdsConfig:
    return (
        d.ThresholdsConfig()
        .mode(md.ThresholdsMode.ABSOLUTE)
        .steps([md.Threshold(value=value, color=colour) for value, colour in steps])
    )


def dressed(panel: Any, title: str, description: str, width: int, height: int = 8) -> Any:
    return panel.title(title).description(description).datasource(SOURCE).span(width).height(height)


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: tuple[str, str],
    width: int = 8,
    limit: tuple[float, str] | None = None,
) -> timeseries.Panel:
    panel = dressed(timeseries.Panel(), title, description, width).unit(unit).line_width(1).fill_opacity(8)
    panel = panel.min(0) if limit is None or limit[1] == BAD else panel
    panel = panel.legend(c.VizLegendOptions().show_legend(True).display_mode(mc.LegendDisplayMode.LIST).placement(
        mc.LegendPlacement.BOTTOM)).tooltip(c.VizTooltipOptions().mode(mc.TooltipDisplayMode.MULTI))  # fmt: skip
    if limit:
        value, beyond = limit
        steps = ((None, "transparent"), (value, BAD)) if beyond == BAD else ((None, BAD), (value, "transparent"))
        panel = panel.thresholds(thresholds(*steps)).thresholds_style(
            c.GraphThresholdsStyleConfig().mode(mc.GraphThresholdsStyleMode.LINE_AND_AREA)
        )
    for expr, legend in queries:
        panel = panel.with_target(query(expr, legend))
    return panel


def banded(title: str, description: str, rate: str, limit: tuple[float, str] | None) -> timeseries.Panel:
    """A rate between its 95 % bounds."""
    panel = graph(
        title, description, "percentunit",
        (whole(f"{rate}_ratio", IN_WINDOW), "{{domain}}"),
        (whole(f"{rate}_ratio_lower", IN_WINDOW), "{{domain}} lower"),
        (whole(f"{rate}_ratio_upper", IN_WINDOW), "{{domain}} upper"),
        limit=limit,
    )  # fmt: skip
    dashed = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [4, 6]}}
    faint = {"id": "custom.fillOpacity", "value": 0}
    properties = [md.DynamicConfigValue(id_val=p["id"], value=p["value"]) for p in (dashed, faint)]
    return panel.override_by_regexp("/ (lower|upper)$/", properties)


def number(title: str, description: str, expr: str, unit: str, *steps: tuple[float | None, str]) -> stat.Panel:
    panel = dressed(stat.Panel(), title, description, 4, 4).unit(unit).thresholds(thresholds(*steps))
    panel = panel.color_mode(mc.BigValueColorMode.BACKGROUND_SOLID).graph_mode(mc.BigValueGraphMode.NONE)
    panel = panel.reduce_options(c.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(query(expr))


def timeline(
    title: str,
    description: str,
    metric: str,
    *,
    legend: str,
    colours: Mapping[str, str],
    label: str = "verdict",
    matchers: str = DOMAIN,
) -> statetimeline.Panel:
    """One bar for every state set; its colour tells the state that holds."""
    states = list(colours)
    options = {
        str(n): md.ValueMappingResult(text=s.replace("_", " "), color=colours[s], index=n) for n, s in enumerate(states)
    }
    panel = dressed(statetimeline.Panel(), title, description, 12).mappings([md.ValueMap(options=options)])
    panel = panel.color_scheme(d.FieldColor().mode(md.FieldColorModeId.THRESHOLDS)).row_height(0.85)
    panel = panel.show_value(mc.VisibilityMode.AUTO).merge_values(True).fill_opacity(80)
    return panel.with_target(query(coded(metric, states, matchers, label), legend))


def listing(title: str, description: str, expr: str, width: int = 12, unit: str = "") -> table.Panel:
    panel = dressed(table.Panel(), title, description, width)
    hidden = dict.fromkeys(("Time", "__name__", "job", "instance", "pod", "namespace", "service"), True)
    tidy = md.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden})
    if unit:
        panel = panel.unit(unit)
    return panel.with_transformation(tidy).with_target(query(expr, instant=True))


def rows() -> list[tuple[str, list[Panel]]]:
    """The panels by row, the most important first."""
    breached = whole("target_verdict", DOMAIN, 'target!="capacity"', verdict("breached"))
    told = whole("incidents", DOMAIN, 'state!="muted"')
    state = [
        number("Targets breached", "Targets whose limit is exceeded beyond chance; capacity does not count.",
            f"sum({breached})", "short", (None, GOOD), (1, BAD)),
        number("Targets undecided", "Targets for which the evidence is not enough, or no events arrive.",
            f"sum({whole('target_verdict', DOMAIN, verdict('undecided', 'insufficient_data', 'stale'))})", "short",
            (None, GOOD), (1, "#5794f2")),
        number("DNS checks failing", "Checks that found something wrong. Unknown is not failing.",
            f"sum({whole('dns_check_verdict', DOMAIN, verdict('fail'))})", "short", (None, GOOD), (1, BAD)),
        number("Open incidents", "Incidents told to Alertmanager, the quiet period included.",
            f"sum({told})", "short", (None, GOOD), (1, BAD)),
        number("Agents ready", "Share of instances that are ready.", f"avg({PREFIX}ready)", "percentunit",
            (None, BAD), (1, GOOD)),
        number("Since the last evaluation", "How old rates and verdicts are.",
            f"time() - max({PREFIX}last_evaluation_timestamp_seconds)", "s", (None, GOOD), (60, WARN), (300, BAD)),
        timeline("Verdicts of the targets", "Verdicts rest on bounds, not on points: 1 bounce of 13 is no breach.",
            "target_verdict", legend="{{domain}} {{target}}", colours=VERDICT_COLOURS),
        timeline("DNS checks", "What each check found. Unknown says that nobody could tell.",
            "dns_check_verdict", legend="{{domain}} {{check}} {{subject}}", colours=CHECK_COLOURS),
        timeline("Ready for the next phase", "What is missing is on the status page and in `mailvitals phase`.",
            "phase_gate", legend="{{domain}} {{phase}}", colours=GATE_COLOURS, label="state"),
        timeline("Where rates are heading", "The last seven days against the seven before; what is not proven is no "
            "steadiness.", "rate_direction", legend="{{domain}} {{rate}}", colours=HEADING_COLOURS, label="direction",
            matchers=DOMAIN + ',rate!="volume"'),
        listing("Earliest day of the next phase", "If nothing more fails. No row where no date can be given.",
            f"{whole('phase_gate_earliest_timestamp_seconds', DOMAIN)} * 1000", unit="dateTimeAsIso"),
        listing("Rates that shifted", "When a rate, or the volume, last changed its level within 30 days.",
            f"{whole('rate_shift_timestamp_seconds', DOMAIN)} * 1000", unit="dateTimeAsIso"),
        *(listing(f"Limits on volume {words}", "Of the phase in 30 days, of the sending plan in a calendar month.",
            f"{whole(f'capacity_reached{end}_timestamp_seconds', DOMAIN)} * 1000", 8, "dateTimeAsIso")
          for end, words in (("", "reached"), ("_earliest", "at the earliest"), ("_latest", "at the latest"))),
        timeline("How long error budgets last", "Of the failures that a target allows in this calendar month.",
            "target_budget_state", legend="{{domain}} {{target}}", colours=BUDGET_COLOURS, label="state"),
        graph("Error budget used", "Failures of this calendar month, of those that the target allows.", "percentunit",
            (f"{whole('target_budget_used', DOMAIN)} / {whole('target_budget_allowed', DOMAIN)}",
             "{{domain}} {{target}}"), width=12),
        *(listing(f"Error budgets that end {words}", "The day on which the month's budget is used up.",
            f"{whole(f'target_budget_ends{end}_timestamp_seconds', DOMAIN)} * 1000", 8, "dateTimeAsIso")
          for end, words in (("", "within the month"), ("_earliest", "at the earliest"), ("_latest", "at the latest"))),
        graph("Burn rate", "In multiples of what the target allows; 1 uses the budget exactly up.", "short",
            (whole("target_budget_burn_rate", DOMAIN), "{{domain}} {{target}} {{window}}"), width=12),
        listing("What people are told of", "Incidents that are open and not muted, one for each cause.",
            whole("incident_open", DOMAIN)),
        listing("Blocklisted", "Addresses and domains on a blocklist that has proved itself.",
            f"{whole('blocklist_listed')} > 0"),
        listing("Blocklists that cannot be believed", "Refused, dead, or listing everything: what they say is unknown.",
            whole("blocklist_health", 'health!="usable"') + " > 0"),
    ]  # fmt: skip
    rates = [
        banded("Deliverability", NOT_INBOX + " Dashed: 95 % bounds.", "deliverability",
            (LIMITS.deliverability_min, GOOD)),
        banded("Bounce rate", "Hard and undetermined bounces of attempted mail. Dashed: 95 % bounds.", "bounce",
            (LIMITS.bounce_max, BAD)),
        banded("Complaint rate", "Complaints of delivered mail; mailbox providers act at 0.3 %. Dashed: 95 % bounds.",
            "complaint", (LIMITS.complaint_breach, BAD)),
        *(graph(f"{rate.capitalize()} of the month, however often you look",
            "95 % bounds of the calendar month so far, UTC, that hold at every look at once.", "percentunit",
            *((whole(f"{rate}_ratio_anytime_{end}", f'{DOMAIN},window="month"'), f"{{{{domain}}}} {end}")
              for end in ("lower", "upper")), limit=limit)
          for rate, limit in (("deliverability", (LIMITS.deliverability_min, GOOD)),
              ("bounce", (LIMITS.bounce_max, BAD)), ("complaint", (LIMITS.complaint_breach, BAD)))),
        graph("Block, soft bounce, deferral, suppression", "Published, not judged.", "percentunit",
            *((whole(f"{r}_ratio", IN_WINDOW), f"{{{{domain}}}} {r.replace('_', ' ')}")
              for r in ("block", "soft_bounce", "deferral", "suppression"))),
        graph("Mails attempted", "Delivered plus bounced, in the chosen window.", "short",
            (whole("attempted", IN_WINDOW), "{{domain}}")),
        graph("Volume of the month", "Calendar month, UTC, and its projection to the month's end.",
            "short", (whole("monthly_volume", DOMAIN), "{{domain}} so far"),
            (whole("monthly_volume_projected", DOMAIN), "{{domain}} projected")),
    ]  # fmt: skip
    parts = [
        graph(f"{title} by {scope.replace('_', ' ')}", description, "percentunit",
            (whole(f"{scope}_{rate}_ratio", IN_WINDOW), f"{{{{domain}}}} {{{{{scope}}}}}"))
        for scope in ("provider", "mailbox_provider", "stream")
        for title, rate, description in (
            ("Bounces", "bounce", "Which part made the bounce rate move."),
            ("Blocks", "block", "Who refuses the sender."),
            ("Complaints", "complaint", "Whose recipients complain."),
        )
    ]  # fmt: skip
    intake = [
        graph("Webhooks by outcome", "503 makes ESPs retry; 401 is a wrong secret.", "reqps",
            (per_second("webhook_requests_total", "outcome"), "{{outcome}}")),
        graph("Time to acknowledge", "From arrival to answer, commit included.", "s",
            (quantile(0.5, "webhook_request_duration_seconds"), "median"),
            (quantile(0.99, "webhook_request_duration_seconds"), "99 %")),
        graph("Events by kind", "Counted for the first time.", "cps", (per_second("events_total", "kind"), "{{kind}}")),
        graph("Not counted", "Repeats, events too old or in the future, and requests nobody could read.", "cps",
            (per_second("duplicate_events_total", "reason"), "repeat: {{reason}}"),
            (per_second("refused_events_total", "reason"), "refused: {{reason}}"),
            (per_second("quarantined_requests_total", "source"), "quarantined: {{source}}"),
            (per_second("unmatched_async_bounces_total", "source"), "unmatched bounces: {{source}}"),
            (per_second("test_events_total", "reason"), "test: {{reason}}")),
        listing("Silence of the sources", "Seconds since the newest event of each source.",
            f"time() - {whole('source_last_event_timestamp_seconds')}", 8, "s"),
        listing("Silence as received", "Seconds since each source last had events counted.",
            f"time() - {whole('source_last_received_timestamp_seconds')}", 8, "s"),
        listing("Expected of silent sources", "Events that its rhythm lets expect since it fell silent.",
            whole("source_expected_events"), 8),
        graph("Connections", "Open at the public listener, and those ended before their first request.", "short",
            (f"sum({PREFIX}connections)", "open"),
            (per_second("refused_connections_total", "reason"), "{{reason}} a second")),
        graph("Mailbox providers looked up", "Recipient domains by what their MX tells, and those that wait.", "short",
            (per_second("mailbox_lookups_total", "outcome"), "{{outcome}} a second"),
            (f"sum({PREFIX}mailbox_lookups_waiting)", "waiting")),
    ]  # fmt: skip
    agent = [
        graph("Commits", "Time until a transaction of the ledger is durable.", "s",
            (quantile(0.5, "ledger_commit_duration_seconds"), "median"),
            (quantile(0.99, "ledger_commit_duration_seconds"), "99 %")),
        graph("Events in a commit, and waiting", "Many events a commit are a sign of load, not of trouble.", "short",
            (quantile(0.99, "ledger_commit_events"), "99 % of commits"),
            (f"sum({PREFIX}intake_queue_events)", "waiting")),
        graph("Lag of the event loop", "How late timers fire.", "s",
            (quantile(0.99, "event_loop_lag_seconds"), "99 %")),
        graph("DNS questions", "By how they ended.", "reqps",
            (per_second("dns_queries_total", "outcome"), "{{outcome}}")),
        graph("Time of DNS answers", "Time-outs included.", "s",
            (quantile(0.5, "dns_query_duration_seconds"), "median"),
            (quantile(0.99, "dns_query_duration_seconds"), "99 %")),
        graph("Second opinions", "How bad news ended once the zones' own servers were asked.", "cps",
            (per_second("dns_second_opinions_total", "outcome"), "{{outcome}}")),
        listing("DNS resolvers", "1 while the resolver is right about names that are known.",
            f"min by (resolver) ({PREFIX}dns_resolver_healthy)", 8),
        graph("DNS watch", "Looks that are overdue, and resolvers begun anew because they hung.", "s",
            (f"max({PREFIX}dns_looks_late_seconds)", "late by"),
            (f"sum(increase({PREFIX}dns_resolver_restarts_total[1h]))", "restarts within an hour")),
        listing("Age of DNS answers", "Seconds since each check last came to a definitive finding.",
            f"time() - {whole('dns_last_success_timestamp_seconds', DOMAIN)}", 8, "s"),
        graph("Posts to Alertmanagers", "The agent repeats what fires every minute.", "cps",
            (per_second("alertmanager_notifications_total", "alertmanager, outcome"), "{{alertmanager}} {{outcome}}")),
        listing("Age of the last accepted post", "Seconds since each Alertmanager accepted alerts.",
            f"time() - {whole('alertmanager_last_success_timestamp_seconds')}", 8, "s"),
        graph("Messages over the broker", "What edges relayed and cores counted, by what became of it.", "cps",
            (per_second("bus_messages_total", "direction, outcome"), "{{direction}} {{outcome}}")),
        graph("Waiting for a core", "Messages on the disks of edges.", "short",
            (f"sum({PREFIX}bus_spool_messages)", "messages")),
        listing("Bytes of spools", "On the disk of each edge.", f"{PREFIX}bus_spool_bytes > 0", 8, "bytes"),
        listing("Brokers", "1 while the broker has taken an agent.", f"{PREFIX}bus_connected", 8),
        graph("Memory", "Resident memory of each instance.", "bytes",
            (f"process_resident_memory_bytes and on (instance) {PREFIX}ready", "{{instance}}")),
        listing("What runs", "Version of each instance.", f"{PREFIX}build_info", 12),
        number("Parts shown as other", "Parts folded because the series budget is spent.",
            f"max({PREFIX}parts_folded)", "short", (None, GOOD), (1, WARN)),
        number("Updates counted as other", "Updates of counters folded within the last hour.",
            f"sum(increase({PREFIX}series_folded_total[1h]))", "short", (None, GOOD), (1, WARN)),
        number("Alertmanagers", "Configured to be told by the agent; 0 leaves alerts to Prometheus rules.",
            f"max({PREFIX}alertmanagers)", "short", (None, "#5794f2")),
        number("Leaders", "Of several agents on one store one leads; none for a moment while it changes.",
            f"sum({PREFIX}leader)", "short", (None, WARN), (1, GOOD), (2, BAD)),
    ]  # fmt: skip
    return [
        ("State", state),
        ("Rates over $window", rates),
        ("Parts over $window", parts),
        ("Intake", intake),
        ("The agent", agent),
    ]


def build() -> dict[str, Any]:
    """The dashboard as plain values, in Grafana's classic form."""
    board = (
        d.Dashboard("mailvitals")
        .uid("mailvitals")
        .description("The vital signs of your mail. Deliverability means accepted by the recipient's server.")
        .tags(["mailvitals", "email"])
        .editable()
        .timezone("browser")
        .time("now-24h", "now")
        .refresh("1m")
        .tooltip(md.DashboardCursorSync.CROSSHAIR)
        .link(d.DashboardLink("Runbooks").type(md.DashboardLinkType.LINK).url(RUNBOOKS).target_blank(True).icon("doc"))
        .with_variable(d.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            d.QueryVariable("domain")
            .label("Domain")
            .query(f"label_values({PREFIX}incidents, domain)")
            .datasource(SOURCE)
            .refresh(md.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(md.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".+")
            .current(md.VariableOption(selected=True, text="All", value="$__all"))
        )
        .with_variable(
            d.CustomVariable("window")
            .label("Window")
            .values(",".join(WINDOWS))
            .current(md.VariableOption(selected=True, text="24h", value="24h"))
        )
        .annotation(
            d.AnnotationQuery()
            .name("Incidents")
            .datasource(SOURCE)
            .enable(True)
            .icon_color(BAD)
            .expr(whole("incidents", DOMAIN, 'state="open"') + " > 0")
        )
    )
    for title, panels in rows():
        board = board.with_row(d.Row(title))
        for panel in panels:
            board = board.with_panel(panel)
    made: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    made["id"] = None
    for number_, panel in enumerate(made["panels"], 1):
        panel["id"] = number_
    return made


def render() -> str:
    """The file's text: a line for every panel, so that a change shows where it is."""
    made = build()
    panels = ",\n".join(json.dumps(panel, sort_keys=True, ensure_ascii=False) for panel in made.pop("panels"))
    head = json.dumps(made, sort_keys=True, ensure_ascii=False, indent=1)
    return f'{head[:-2]},\n "panels": [\n{panels}\n ]\n}}\n'


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(TARGET.relative_to(ROOT))

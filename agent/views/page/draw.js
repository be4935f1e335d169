// Turns parts of the status document into elements. Text from the document enters the page as text nodes only.
import { arrow, drawGate, forecastLines, trendLines, whereLines } from "./phase.js";

const VERDICTS = {
  met: ["good", "✓", "within target"],
  breached: ["bad", "✕", "breached"],
  undecided: ["open", "≈", "undecided"],
  insufficient_data: ["open", "…", "too little data"],
  stale: ["warn", "!", "no fresh events"],
  ok: ["good", "✓", "ok"],
  warn: ["warn", "!", "warning"],
  fail: ["bad", "✕", "failing"],
  unknown: ["open", "?", "unknown"],
};
const SCOPES = { provider: "Provider", mailbox_provider: "Mailbox provider", stream: "Stream" };
const PART_RATES = { deliverability: "Delivered", bounce: "Bounce", block: "Block", complaint: "Complaint", deferral: "Deferral" };
export const count = new Intl.NumberFormat("en");

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

export function percent(ratio) {
  const value = ratio * 100;
  if (value === 0 || value === 100) return `${value} %`;
  return `${value.toFixed(value < 0.1 ? 3 : value < 10 || value > 90 ? 2 : 1)} %`;
}

export function words(name) {
  return String(name).replaceAll("_", " ");
}

function pill(verdict) {
  const [tone, icon, text] = VERDICTS[verdict] ?? ["open", "?", words(verdict)];
  return el("span", { class: `pill ${tone}` }, el("span", { "aria-hidden": "true" }, icon), ` ${text}`);
}

export function age(at, never = "never") {
  return at ? el("time", { "data-at": at, title: new Date(at * 1000).toISOString() }, "") : el("span", {}, never);
}

function span(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

export function tick(now) {
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = `${span(now - Number(time.dataset.at))} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

export function heading(text, note) {
  return el("header", { class: "head" }, el("h2", {}, text), note ? el("p", { class: "muted" }, note) : null);
}

function table(caption, columns, rows) {
  const head = columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name));
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell, i) =>
    el(i ? "td" : "th", { scope: i ? null : "row", class: columns[i][1], "data-label": columns[i][0] }, cell))));
  return el("table", {}, el("caption", { class: "hidden" }, caption), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
}

export function drawOverall({ overall, domains, leader, evaluated }) {
  const [tone, icon, text] = {
    ok: ["good", "✓", overall.reasons.length ? "Nothing is wrong, but not everything is decided" : "All vital signs are good"],
    attention: ["warn", "!", "Working, but something needs attention"],
    failing: ["bad", "✕", "Something is wrong with your mail"],
    unknown: ["open", "?", evaluated ? "Too little is known yet" : "Taking the first measurements"],
  }[overall.state] ?? ["open", "?", words(overall.state)];
  const shown = overall.reasons.slice(0, 8);
  const more = overall.reasons.length - shown.length;
  const well = overall.state === "ok" ? `${count.format(domains)} ${domains === 1 ? "domain" : "domains"} watched` : null;
  return [el("div", { class: `hero ${tone}` },
    el("span", { class: "sign", "aria-hidden": "true" }, icon),
    el("div", {}, el("h2", {}, text),
      well ? el("p", {}, well) : null,
      shown.length ? el("ul", {}, ...shown.map((r) => el("li", {}, r)), more > 0 ? el("li", {}, `and ${more} more`) : null) : null,
      leader ? null : el("p", {}, "This replica stands by; the leader judges and alerts.")))];
}

// An interval on a scale that shows the limit in its first third (bounce, complaint) or last third (deliverability).
function gauge({ target, limit, rate }) {
  const upward = target === "deliverability";
  const low = rate.lower ?? rate.value, high = rate.upper ?? rate.value;
  const floor = upward ? Math.max(0, Math.min(1 - 3 * (1 - limit), low - (1 - low) * 0.15)) : 0;
  const ceiling = upward ? 1 : Math.min(1, Math.max(3 * limit, high * 1.15));
  const at = (x) => `${(100 * (x - floor)) / (ceiling - floor)}%`;
  const beyond = el("i", { class: "beyond" }), interval = el("i", { class: "interval" });
  const point = el("i", { class: "point" }), line = el("i", { class: "limit" });
  beyond.style.left = upward ? "0" : at(limit);
  beyond.style.right = upward ? `calc(100% - ${at(limit)})` : "0";
  interval.style.left = at(low);
  interval.style.right = `calc(100% - ${at(high)})`;
  point.style.left = at(rate.value);
  line.style.left = at(limit);
  const mark = el("span", { class: "at" }, `limit ${upward ? "≥" : "<"} ${percent(limit)}`);
  mark.style.left = `clamp(2.9rem, ${at(limit)}, calc(100% - 2.9rem))`;
  const share = (limit - floor) / (ceiling - floor); // where the limit's label would cover an end's, the end gives way
  const label = `${target} ${percent(rate.value)}, between ${percent(low)} and ${percent(high)}; limit ${percent(limit)}`;
  return el("div", { class: "scale" },
    el("div", { class: "track", role: "img", "aria-label": label }, beyond, interval, point, line),
    el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, share < 0.25 ? "" : percent(floor)),
      mark, el("span", {}, share > 0.75 ? "" : percent(ceiling))));
}

// One line: what may still fail this month, and how long that lasts.
function budgetLine(budget) {
  if (!budget) return null;
  if (!budget.projected) return el("p", { class: "muted num" }, `Error budget: ${words(budget.state)}`);
  const day = (at) => new Date(at * 1000).toISOString().slice(0, 10);
  const ends = budget.state === "running_out" && budget.ends_at ? `, ends ${day(budget.ends_at)} (${day(budget.earliest ?? budget.ends_at)} to ${budget.latest ? day(budget.latest) : "month end"})` : "";
  return el("p", { class: "muted num" }, `Error budget: ${count.format(budget.left)} left of ${count.format(budget.allowed)} this month, ${words(budget.state)}${ends}`);
}

// What may be read off at any moment, of the window that decided and of the month that the budget is for.
function anytimeLine(judgement, anytime) {
  const told = [...new Set([judgement.window, "month"])].map((period) => [period, anytime[period]?.[judgement.target]]).filter(([, rate]) => (rate?.lower ?? null) !== null);
  if (!told.length) return null;
  return el("p", { class: "muted num anytime" }, "However often you look: ", told.map(([period, rate]) =>
    `${percent(rate.lower)} to ${percent(rate.upper)} ${period === "month" ? `this month so far (${percent(rate.value)})` : `in ${period}`}`).join(", "));
}

function target(judgement, trends, budgets, anytime) {
  const { rate } = judgement;
  const [tone] = VERDICTS[judgement.verdict] ?? ["open"];
  const isRate = judgement.target !== "capacity";
  const facts = rate
    ? `${percent(rate.lower ?? rate.value)} to ${percent(rate.upper ?? rate.value)} · ${judgement.window} · ${count.format(rate.numerator)} of ${count.format(rate.denominator)}`
    : judgement.window;
  return el("li", { class: `target ${tone}` },
    el("div", { class: "line" }, el("h4", {}, words(judgement.target)),
      rate ? el("strong", { class: "value" }, percent(rate.value)) : null, pill(judgement.verdict)),
    rate && isRate ? gauge(judgement) : null,
    el("p", { class: "muted num" }, facts), anytimeLine(judgement, anytime),
    el("p", { class: "why" }, judgement.reason), budgetLine(budgets?.find((b) => b.target === judgement.target)),
    ...whereLines(trends, judgement), ...(isRate ? trendLines(trends, judgement.target) : []));
}

function volume(vitals, phase, trends) {
  const [least, most] = phase?.capacity ?? [null, null];
  const goal = most ?? least;
  const projection = vitals.monthly_projection;
  const range = least === null && most === null ? "this phase asks for no capacity"
    : most === null ? `this phase asks for ${count.format(least)} or more a month`
      : least === null ? `this phase is for at most ${count.format(most)} a month`
        : `this phase is for ${count.format(least)} to ${count.format(most)} a month`;
  const expect = projection === null ? "no projection before 7 days of history" : `heading for ${count.format(Math.round(projection))}`;
  const ceiling = Math.max(vitals.monthly_volume, projection ?? 0, goal ?? 0, 1) * 1.15;
  const at = (x) => `${(100 * x) / ceiling}%`;
  const band = el("i", { class: "band" }), done = el("i", { class: "done" }), mark = el("i", { class: "mark" });
  band.style.left = at(least ?? 0);
  band.style.right = most === null ? "0" : `calc(100% - ${at(most)})`;
  done.style.width = at(vitals.monthly_volume);
  if (projection !== null) mark.style.left = at(projection);
  return el("div", { class: "volume" },
    el("div", { class: "line" }, el("h4", {}, "This month"), el("strong", { class: "value" }, count.format(vitals.monthly_volume)), el("span", { class: "muted" }, expect)),
    goal === null && projection === null ? null : el("div", { class: "track", role: "img", "aria-label": `${count.format(vitals.monthly_volume)} mails this month, ${expect}; ${range}` },
      goal === null ? null : band, done, projection === null ? null : mark),
    el("p", { class: "muted" }, phase ? range : "no phase, no targets", vitals.attempted["30d"] === undefined ? "" : ` · ${count.format(vitals.attempted["30d"])} in the last 30 days`),
    ...trendLines(trends, "volume"), ...forecastLines(trends));
}

function phaseFacts(name, phases) {
  const phase = phases[name];
  if (!phase) return null;
  const pair = ([a, b]) => (a === b ? count.format(a) : `${count.format(a)}–${count.format(b)}`);
  return `${pair(phase.duration_weeks)} weeks · USD ${pair(phase.budget_usd)} a month · expected ROI ${pair(phase.expected_roi_percent)} %`;
}

function check(watched) {
  const { finding } = watched;
  const fact = (name, value) => (value ? [el("dt", {}, name), el("dd", {}, value)] : []);
  const fixes = finding.problems.length > 1 ? el("ol", { class: "fixes" }, ...finding.problems.map((p) =>
    el("li", {}, pill(p.verdict), ` ${p.detail}`, p.advice ? el("p", {}, el("strong", {}, p.advice)) : null))) : null;
  const records = finding.records.length ? finding.records : watched.last_definitive?.records ?? [];
  return el("details", { "data-key": `${watched.domain} ${finding.check} ${finding.subject}` },
    el("summary", { "data-key": `summary ${watched.domain} ${finding.check} ${finding.subject}` }, pill(finding.verdict),
      el("span", { class: "name" }, words(finding.check).toUpperCase(), finding.subject ? el("code", {}, finding.subject) : null),
      el("span", { class: "muted says" }, finding.detail)),
    el("dl", {}, ...(fixes ? fact("What to do", fixes) : [...fact("Finding", finding.detail), ...fact("What to do", finding.advice)]),
      ...(records.length ? fact("Record", el("span", {}, ...records.map((r) => el("code", { class: "record" }, r)))) : []),
      ...fact("Reason", el("code", {}, finding.reason)), ...fact("Rests on", finding.rfc),
      ...fact("Last good answer", age(watched.definitive_at)), ...fact("Verdict since", age(watched.since)),
      ...fact("TTL", finding.ttl ? `${count.format(finding.ttl)} s` : "")));
}

function partsTable(domain, parts, window, trends) {
  const rows = [];
  for (const [scope, title] of Object.entries(SCOPES)) {
    const known = Object.entries(parts[scope] ?? {}).filter(([, windows]) => windows[window]?.deliverability);
    known.sort((a, b) => b[1][window].deliverability.denominator - a[1][window].deliverability.denominator);
    for (const [name, windows] of known) {
      const rates = windows[window];
      rows.push([el("span", {}, el("small", { class: "muted" }, `${title} `), name || "none"), el("span", {}, count.format(rates.deliverability.denominator), arrow(trends, scope, name, "volume")),
        ...Object.keys(PART_RATES).map((r) => el("span", {}, cell(rates[r]), arrow(trends, scope, name, r)))]);
    }
  }
  const columns = [["Part", ""], ["Mails", "num"], ...Object.values(PART_RATES).map((r) => [r, "num"])];
  const shown = rows.length ? table(`Parts of ${domain} over ${window}`, columns, rows) : el("p", { class: "muted" }, `No mail in the last ${window}.`);
  return el("div", { class: "parts", "data-of": window, tabindex: rows.length ? 0 : null, role: "group", "aria-label": `Parts over ${window}` }, shown);
}

function cell(rate) {
  if (!rate) return el("span", { class: "muted" }, "–");
  const bounds = rate.lower === null ? "no bounds" : `${percent(rate.lower)} to ${percent(rate.upper)}`;
  return el("span", { title: `${bounds}; ${count.format(rate.numerator)} of ${count.format(rate.denominator)}` }, percent(rate.value));
}

function windowChoice(domain) {
  const chosen = document.body.dataset.window ?? "24h";
  document.body.dataset.window = chosen;
  return el("fieldset", { class: "choice" }, el("legend", { class: "hidden" }, "Window of the parts"), ...["24h", "7d"].map((w) =>
    el("label", {}, el("input", { type: "radio", name: `window ${domain}`, "data-window": w, "data-key": `window ${domain} ${w}`, checked: w === chosen }), el("span", {}, w))));
}

export function drawDomains({ domains, phases, named, findings, trends, gates, now }) {
  const names = [...new Set([...Object.keys(named), ...Object.keys(domains), ...findings.map((f) => f.domain)])];
  if (!names.length) return [el("p", { class: "note" }, "No domain is configured.")];
  return names.map((name) => {
    const vitals = domains[name];
    const phase = vitals?.phase ?? named[name];
    const checks = findings.filter((f) => f.domain === name);
    const rank = { fail: 0, warn: 1, unknown: 2, ok: 3 };
    const configured = name in named || !Object.keys(named).length;
    checks.sort((a, b) => rank[a.finding.verdict] - rank[b.finding.verdict]);
    return el("article", { class: "domain", "aria-label": name },
      el("header", { class: "head" }, el("h2", {}, name), phase ? el("span", { class: "phase" }, `${phase} phase`) : null,
        configured ? null : el("p", { class: "muted" }, "Mail of domains that are not configured"),
        phase ? el("p", { class: "muted" }, phaseFacts(phase, phases)) : null,
        vitals ? el("p", { class: "muted last" }, "newest event ", age(vitals.last_event_at)) : null),
      el("div", { class: "columns" },
        el("section", { "aria-label": `Targets of ${name}` }, el("h3", {}, "Targets"),
          ...(vitals ? [el("ul", { class: "targets" }, ...vitals.judgements.map((j) => target(j, trends[name], vitals.budgets, vitals.anytime))), volume(vitals, phases[phase], trends[name])]
            : [el("p", { class: "muted" }, "Waiting for the first evaluation.")])),
        !configured ? null : el("section", { class: "checks", "aria-label": `DNS checks of ${name}` },
          el("div", { class: "line" }, el("h3", {}, "DNS"), checks.length ? el("button", { type: "button", "data-check": name, "data-key": `check ${name}` }, "Check now") : null),
          ...(checks.length ? checks.map(check) : [el("p", { class: "muted" }, "No check has come to a finding yet.")]),
          el("details", { "data-key": `rules ${name}`, "data-rules": name }, el("summary", {}, "What Gmail, Yahoo, Outlook.com and iCloud ask"), el("div", {})))),
      drawGate(gates[name], phases, now),
      vitals ? el("section", { "aria-label": `Parts of ${name}` }, el("div", { class: "line" }, el("h3", {}, "Where it comes from, where it goes"), windowChoice(name)),
        partsTable(name, vitals.parts, "24h", trends[name]), partsTable(name, vitals.parts, "7d", trends[name])) : null);
  });
}

export function drawRules(assessments) {
  return assessments.map(({ name, source, verdict, items }) => el("div", { class: "rules" },
    el("div", { class: "line" }, el("h4", {}, el("a", { href: source, rel: "noreferrer" }, name)), pill(verdict)),
    el("ul", {}, ...items.map((item) => el("li", {}, pill(item.verdict), ` ${item.asks}${item.required ? "" : " (advice)"}${item.bulk ? " (of bulk senders)" : ""}`,
      el("p", { class: "muted" }, item.proof))))));
}

function cause({ says, likely, score, supports, contradicts }) {
  const evidence = [...supports.map((text) => ["+", "speaks for it", text]), ...contradicts.map((text) => ["−", "speaks against it", text])];
  return el("li", {}, el("span", { class: `pill ${likely ? "bad" : "open"}` }, likely ? "likely" : score > 0 ? "possible" : "unlikely"), ` ${says}`,
    evidence.length ? el("ul", { class: "evidence" }, ...evidence.map(([sign, meaning, text]) =>
      el("li", { class: "muted" }, el("span", { "aria-hidden": "true" }, `${sign} `), el("span", { class: "unseen" }, `${meaning}: `), text))) : null);
}

function muting(labels, muted, mutes) {
  const mute = mutes.find((m) => Object.entries(m.matchers).every(([name, value]) => labels[name] === value));
  return muted ? [el("span", { class: "pill open" }, "muted until ", el("time", { datetime: new Date(muted * 1000).toISOString() }, new Date(muted * 1000).toLocaleString())),
    mute?.why ? el("span", {}, mute.why) : null, mute ? el("button", { type: "button", "data-unmute": mute.id, "data-key": `unmute ${mute.id}`, class: "muted" }, "Unmute") : null]
    : [el("button", { type: "button", "data-mute": JSON.stringify(labels), "data-key": `mute ${JSON.stringify(labels)}` }, "Mute for 4 h")];
}

export function drawIncidents({ incidents, mutes }) {
  const live = incidents.filter((i) => i.state !== "resolved");
  const items = live.map(({ state, labels, annotations, starts_at, causes, also, muted_until }) => {
    const about = (of) => [of.domain, words(of.target ?? of.check ?? ""), of.subject].filter(Boolean).join(" · ");
    return el("li", { class: `incident ${labels.severity === "critical" ? "bad" : "warn"}` },
      el("div", { class: "line" }, el("strong", {}, annotations.summary || labels.alertname),
        el("span", { class: `pill ${state === "open" ? (labels.severity === "critical" ? "bad" : "warn") : "open"}` }, state === "open" ? `${labels.severity}, open` : "closing, quiet period"),
        el("span", { class: "muted" }, "began ", age(starts_at))),
      el("p", { class: "muted" }, [about(labels), ...also.map((of) => `with ${about(of)}`)].join(", ")),
      annotations.description ? el("p", { class: "told" }, annotations.description) : null,
      causes.length ? el("div", {}, el("h3", {}, "What may have caused it"), el("ol", { class: "causes" }, ...causes.map(cause))) : null,
      el("div", { class: "line" }, ...muting(labels, muted_until, mutes)));
  });
  return [heading("Incidents", live.length ? "One for each cause, as told to Alertmanager" : null),
    items.length ? el("ul", { class: "incidents card" }, ...items) : el("p", { class: "card muted" }, "None. ")];
}

export function drawSources(sources) {
  const columns = [["Source", ""], ["Domain", ""], ["Newest event", ""], ["Last received", ""], ["Requests", ""], ["Left out as tests", "num"], ["Quarantined", "num"], ["Last error", ""]];
  const rows = sources.map((s) => [
    el("span", {}, s.name, " ", el("small", { class: "muted" }, s.provider)), s.domain || "–", age(s.last_event_at), age(s.last_received_at),
    Object.entries(s.requests).map(([outcome, n]) => `${count.format(n)} ${words(outcome)}`).join(", ") || "none yet",
    count.format(Object.values(s.test_events).reduce((sum, n) => sum + n, 0)), count.format(s.quarantined), s.last_error ? el("span", {}, s.last_error, " ", el("small", { class: "muted" }, age(s.last_error_at))) : "–"]);
  return [heading("Sources"), el("div", { class: "card" }, rows.length ? table("Sources and their last signs of life", columns, rows) : el("p", { class: "muted" }, "No webhook source is configured."))];
}

export function drawBounces(bounces) {
  const columns = [["When", ""], ["Class", ""], ["From", ""], ["To", ""], ["Code", ""], ["Meaning", "text"], ["Remote text", "text"]];
  const tone = { hard: "bad", block: "warn", soft: "open", undetermined: "open" };
  const rows = bounces.map((b) => [age(b.at), el("span", { class: `pill ${tone[b.bounce_class] ?? "open"}` }, b.bounce_class),
    el("span", {}, b.domain, " ", el("small", { class: "muted" }, [b.source, b.stream].filter(Boolean).join(" · "))), b.mailbox_provider || "–",
    [b.smtp_code, b.enhanced_code].filter(Boolean).join(" ") || "–",
    b.says ? el("span", {}, b.says, " ", el("small", { class: "muted" }, b.points_to.length ? `points to: ${b.points_to.join(", ")}` : "")) : "–", b.reason || "–"]);
  return [heading("Recent bounces", "Recipients are never stored"), el("div", { class: "card long", tabindex: rows.length > 8 ? 0 : null, role: "group", "aria-label": "The newest bounces", "data-key": "bounces" }, rows.length ? table("The newest bounces", columns, rows) : el("p", { class: "muted" }, "None so far."))];
}

export function drawAlertmanagers(managers) {
  const columns = [["Alertmanager", ""], ["Last accepted", ""], ["Last error", ""]];
  const rows = managers.map((a) => [a.url, age(a.last_success_at), a.last_error || "–"]);
  return [heading("Alertmanagers"), el("div", { class: "card" }, rows.length ? table("Configured Alertmanagers", columns, rows)
    : el("p", { class: "muted" }, "None is configured: alerts are left to Prometheus rules."))];
}

export function drawAbout({ version, started, evaluated }) {
  return [`mailvitals ${version}, up since `, age(started), ", evaluated ", age(evaluated, "not yet"), ". ",
    el("a", { href: "api/v1/status" }, "JSON"), " · ", el("a", { href: "metrics" }, "Metrics")];
}

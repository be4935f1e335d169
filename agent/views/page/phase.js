// A domain's gate to its next phase, and where its rates and its volume are heading.
import { count, el, percent, words } from "./draw.js";

const GATES = { ready: ["good", "✓", "ready"], not_yet: ["warn", "…", "not yet"], cannot_tell: ["open", "?", "cannot tell"] };
const ITEMS = { passed: ["good", "✓", "passed"], blocking: ["bad", "✕", "blocking"], unknown: ["open", "?", "unknown"] };
const NAMES = { dns: "DNS" };
const HEADINGS = {
  worsening: ["bad", "↗", "worsening"], improving: ["good", "↘", "improving"], rising: ["open", "↗", "rising"],
  falling: ["open", "↘", "falling"], steady: ["open", "→", "steady"],
};

function sign([tone, icon, text]) {
  return el("span", { class: `pill ${tone}` }, el("span", { "aria-hidden": "true" }, icon), ` ${text}`);
}

function day(at) {
  return new Date(at * 1000).toISOString().slice(0, 10);
}

function when(at, now) {
  return at === null ? "no date can be given" : at <= now ? "at once" : `${day(at)} at the earliest`;
}

function pair([least, most]) {
  return least === most ? count.format(least) : `${count.format(least)}–${count.format(most)}`;
}

// What the gate asks, the unpassed first; and what the phases are planned to take, to cost and to return.
export function drawGate(gate, phases, now) {
  if (!gate) return null;
  const rank = { blocking: 0, unknown: 1, passed: 2 };
  const items = [...gate.items].sort((a, b) => rank[a.state] - rank[b.state]);
  const next = gate.next_phase;
  const rows = items.map((item) => el("li", { class: "condition" }, sign(ITEMS[item.state] ?? ["open", "?", item.state]),
    el("div", {}, el("strong", {}, NAMES[item.name] ?? words(item.name)), el("p", { class: "muted" }, item.evidence,
      item.state === "passed" || (item.earliest !== null && item.earliest <= now) ? "" : ` · ${when(item.earliest, now)}`))));
  const plan = [gate.phase, next].filter((name) => phases[name]).map((name) => {
    const { duration_weeks: weeks, budget_usd: usd, expected_roi_percent: roi } = phases[name];
    return el("li", {}, `${words(name)}: ${pair(weeks)} weeks, USD ${pair(usd)} a month, expected ROI ${pair(roi)} %`);
  });
  return el("section", { class: "gate", "aria-label": `Phase gate of ${gate.domain}` },
    el("div", { class: "line" }, el("h3", {}, next ? `Ready for ${next}` : `Holding ${gate.phase}`), sign(GATES[gate.state] ?? ["open", "?", gate.state]),
      gate.state === "ready" ? null : el("span", { class: "muted" }, when(gate.earliest, now))),
    el("ul", { class: "conditions" }, ...rows),
    el("p", { class: "muted" }, "Planned, not measured:"), el("ul", { class: "muted plan" }, ...plan));
}

function heading(direction) {
  const [tone, icon, text] = HEADINGS[direction.direction];
  const by = direction.factor === null ? "from none in the week before" : `${direction.factor.toFixed(2)} times the week before`;
  const said = direction.direction === "steady" ? "as in the week before" : direction.rate === "volume" ? by : `failures ${by}`;
  return el("p", { class: `heading ${tone}` }, el("span", { "aria-hidden": "true" }, `${icon} `), el("strong", {}, text), ` · ${said}`);
}

// The arrow of a part's rate, where it is proven to be heading anywhere.
export function arrow(trends, scope, part, rate) {
  const found = trends?.directions.find((d) => d.scope === scope && d.part === part && d.rate === rate);
  if (!found || !HEADINGS[found.direction]) return null;
  const [tone, icon, text] = HEADINGS[found.direction];
  return el("span", { class: `arrow ${tone}`, title: `${text} against the week before` }, el("span", { "aria-hidden": "true" }, ` ${icon}`), el("span", { class: "hidden" }, ` ${text}`));
}

// Where one rate of the whole domain is heading and when it last shifted: nothing where nobody can tell.
export function trendLines(trends, rate) {
  if (!trends) return [];
  const own = (found) => found.rate === rate && !found.scope;
  const lines = trends.directions.filter((d) => own(d) && HEADINGS[d.direction]).map(heading);
  const shift = trends.shifts.filter(own).at(-1);
  if (shift) {
    const level = (r) => (rate === "volume" ? `${count.format(Math.round(r.value))} mails an hour` : percent(r.value));
    lines.push(el("p", { class: "muted", title: `between ${new Date(shift.earliest * 1000).toISOString()} and ${new Date(shift.latest * 1000).toISOString()}` },
      `Shifted from ${level(shift.before)} to ${level(shift.after)} on ${day(shift.at)}`));
  }
  return lines;
}

// Which part of the mail makes a breach.
export function whereLines(trends, judgement) {
  const found = judgement.verdict === "breached" ? trends?.explained.find((e) => e.target === judgement.target) : null;
  if (!found || found.where === "cannot tell") return [];
  const rest = `${count.format(found.failures)} of ${count.format(found.trials)} failed there, ${count.format(found.other_failures)} of ${count.format(found.other_trials)} elsewhere`;
  return [el("p", {}, el("strong", {}, `Where: ${found.where}`), found.other_trials ? ` (${rest})` : "")];
}

export function forecastLines(trends) {
  return (trends?.forecasts ?? []).map((f) => {
    const what = f.limit === "plan" ? `The sending plan's ${count.format(f.amount)} a month` : `The phase's upper end of ${count.format(f.amount)} in 30 days`;
    if (f.reached) return el("p", {}, `${what}: reached since ${day(f.at)}`);
    const ends = f.earliest === null ? null : f.latest === null ? `not before ${day(f.earliest)}` : `${day(f.earliest)} to ${day(f.latest)}`;
    return el("p", { class: "muted" }, f.at !== null ? `${what}: expected on ${day(f.at)} (${ends})`
      : `${what}: not expected before ${day(f.horizon)}${ends ? `, ${ends} at the earliest pace` : ""}`);
  });
}

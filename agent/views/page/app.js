// Fetches the status document, follows it, and redraws the sections that changed.
import { drawAbout, drawAlertmanagers, drawBounces, drawDomains, drawIncidents, drawOverall, drawRules, drawSources, tick } from "./draw.js";
import { drawChanges } from "./changes.js";

const POLL = 10_000;
const link = document.getElementById("link");
const drawn = new Map();
let skew = 0; // the agent's clock minus ours, in seconds
let polling = null;
let last = null;

function say(text, state) {
  if (link.textContent !== text) link.textContent = text;
  link.dataset.state = state;
}

function section(id, data, draw) {
  const text = JSON.stringify(data);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  const at = document.getElementById(id);
  // What a reader has opened stays open, and the keyboard stays where it was.
  const open = new Set([...at.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const focus = at.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  at.replaceChildren(...draw(data));
  for (const details of at.querySelectorAll("details")) if (open.has(details.dataset.key)) details.open = true;
  if (focus) at.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
}

function show(doc) {
  last = doc;
  skew = doc.now - Date.now() / 1000;
  document.getElementById("demo").hidden = !doc.demo;
  section("overall", { overall: doc.overall, domains: Object.keys(doc.domains).length, leader: doc.leader, evaluated: doc.evaluated_at > 0 }, drawOverall);
  section("domains", { domains: doc.domains, phases: doc.phases, named: doc.domain_phases, findings: doc.findings, trends: doc.trends, gates: doc.gates, now: Math.floor(doc.now / 3600) * 3600 }, drawDomains);
  section("incidents", { incidents: doc.incidents, mutes: doc.mutes }, drawIncidents);
  section("changes", doc.dns_changes, drawChanges);
  section("sources", doc.sources, drawSources);
  section("bounces", doc.recent_bounces, drawBounces);
  section("alertmanagers", doc.alertmanagers, drawAlertmanagers);
  section("about", { version: doc.version, started: doc.started_at, evaluated: doc.evaluated_at }, drawAbout);
  document.getElementById("main").removeAttribute("aria-busy");
  const word = { ok: "✓", attention: "!", failing: "✕", unknown: "?" }[doc.overall.state] ?? "?";
  document.title = `${word} mailvitals`;
  tick(Date.now() / 1000 + skew);
}

async function poll() {
  try {
    const response = await fetch("api/v1/status", { cache: "no-store" });
    if (response.status === 401) {
      say("signed out: open this page with ?token=…", "bad");
      return;
    }
    if (!response.ok) throw new Error(String(response.status));
    show(await response.json());
    say(polling ? "refreshing every 10 s" : "live", polling ? "slow" : "good");
  } catch {
    say("no connection to the agent", "bad");
  }
}

function follow() {
  const stream = new EventSource("api/v1/stream");
  stream.addEventListener("status", (event) => {
    clearInterval(polling);
    polling = null;
    show(JSON.parse(event.data));
    say("live", "good");
  });
  stream.addEventListener("error", () => {
    say("reconnecting …", "slow");
    polling ??= setInterval(poll, POLL);
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 3 * POLL);
  });
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-check]");
  if (!button) return;
  button.disabled = true;
  button.textContent = "Checking …";
  let said = "Check now";
  try {
    const response = await fetch(`api/v1/domains/${encodeURIComponent(button.dataset.check)}/check`, { method: "POST", headers: { "X-Mailvitals": "page" } });
    if (!response.ok) said = response.status === 429 ? "Another check is running" : "Not possible now";
  } catch {
    said = "No connection";
  }
  button.textContent = said;
  setTimeout(() => { button.textContent = "Check now"; button.disabled = false; }, 3000);
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-mute], button[data-unmute]");
  if (!button) return;
  button.disabled = true;
  const { mute, unmute } = button.dataset;
  const request = mute ? { method: "POST", body: JSON.stringify({ matchers: JSON.parse(mute), hours: 4 }) } : { method: "DELETE" };
  try {
    const response = await fetch(mute ? "api/v1/mutes" : `api/v1/mutes/${encodeURIComponent(unmute)}`, { ...request, headers: { "X-Mailvitals": "page" } });
    if (!response.ok) throw new Error(String(response.status));
  } catch {
    button.textContent = "Not possible now";
    button.disabled = false;
  }
});

document.addEventListener("toggle", async (event) => {
  const { rules } = event.target.dataset;
  if (!rules || !event.target.open) return;
  const place = event.target.querySelector("div");
  try {
    const response = await fetch(`api/v1/domains/${encodeURIComponent(rules)}/sender-rules`, { cache: "no-store" });
    if (!response.ok) throw new Error(String(response.status));
    place.replaceChildren(...drawRules(await response.json()));
  } catch {
    place.textContent = "Not to be had now.";
  }
}, true);

document.addEventListener("change", (event) => {
  if (event.target.dataset.window) document.body.dataset.window = event.target.dataset.window;
});

setInterval(() => { if (last) tick(Date.now() / 1000 + skew); }, 1000);
poll().then(follow);

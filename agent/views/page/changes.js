// What became of the records that mail depends on.
import { age, el, heading, percent } from "./draw.js";

const DIRECTIONS = { weaker: ["warn", "↘", "weaker"], stronger: ["good", "↗", "stronger"], other: ["open", "→", "changed"] };
const ROLES = {
  spf: "SPF", include: "SPF of a service", dkim: "DKIM key", dmarc: "DMARC", mx: "Mail hosts", ns: "Name servers",
  mta_sts: "MTA-STS", sts_policy: "MTA-STS policy", tls_rpt: "TLS reporting",
};

function reach({ domain, share, of }) {
  const who = [...new Set(of.map((s) => s.stream || s.provider))].join(", ");
  if (share === null) return who ? `concerns what ${who} sends; none of it was counted` : "no mail was counted";
  return `${percent(share)} of the mail of the day before depends on it: ${who ? `what ${domain} sends through ${who}` : `all that ${domain} sends`}`;
}

function records({ records }) {
  return records.length ? records.map((r) => el("code", { class: "record" }, r)) : [el("span", { class: "muted" }, "no record")];
}

function change(one) {
  const [tone, icon, text] = DIRECTIONS[one.direction] ?? ["open", "?", one.direction];
  const key = `change ${one.at} ${one.domain} ${one.after.role} ${one.after.name}`;
  return el("li", { class: `incident ${tone}` },
    el("div", { class: "line" }, el("span", { class: `pill ${tone}` }, el("span", { "aria-hidden": "true" }, icon), ` ${text}`),
      el("strong", {}, one.domain), el("span", {}, ROLES[one.after.role] ?? one.after.role), el("span", { class: "muted" }, "seen ", age(one.at))),
    ...one.words.map((words) => el("p", {}, `${words}.`)),
    el("p", { class: "muted" }, reach(one)),
    el("details", { "data-key": key }, el("summary", { "data-key": `summary ${key}`, class: "plain" }, el("span", {}, "Before and after")),
      el("dl", {}, el("dt", {}, "At"), el("dd", {}, el("code", {}, one.after.name)),
        el("dt", {}, "Before"), el("dd", {}, ...records(one.before)), el("dt", {}, "After"), el("dd", {}, ...records(one.after)))));
}

export function drawChanges(changes) {
  const list = { class: "incidents card long", tabindex: changes.length > 3 ? 0 : null, role: changes.length > 3 ? "group" : null, "aria-label": "Changes, newest first" };
  return [heading("DNS changes", changes.length ? "Newest first; each confirmed by a second look" : null),
    changes.length ? el("div", list, el("ul", {}, ...changes.map(change))) : el("p", { class: "card muted" }, "None since the agent began to watch.")];
}

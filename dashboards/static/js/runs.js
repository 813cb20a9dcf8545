// The laboratory: what schedules were run, what came of them, and the timeline of one.

import { api } from "./api.js";
import { h, icon, replace, setText } from "./dom.js";
import { moment, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { state } from "./state.js";

const ms = (value) => (value === null || value === undefined ? "–" : `${Math.round(value)} ms`);
const opinion = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const both = (run, name, show) => `${show(run.uplink[name])} / ${show(run.downlink[name])}`;

export function mountRuns(main, name) {
  let gone = false;
  const summary = h("p", { class: "muted", id: "summary" }, "Loading …");
  const body = h("div", {});
  replace(
    main,
    h("section", { class: "page" }, tabs("lab", "#/runs"),
      h("div", { class: "page-head" }, h("div", {}, h("h1", {}, name ? `Run ${name}` : "Results"), summary),
        name && h("div", { class: "tools" }, h("a", { class: "button ghost", href: "#/runs" }, icon("back"), "All results"))),
      body),
  );
  document.title = name ? `${name} · ePDG dashboard` : "Results · ePDG dashboard";
  const load = name ? showOne(name, summary, body) : showAll(summary, body);
  if (state.mayRead) {
    load.catch((problem) => {
      if (!gone) setText(summary, problem.message);
    });
  }
  return () => {
    gone = true;
  };
}

async function showAll(summary, body) {
  const { runs, unreadable } = await api.runs();
  const failed = runs.filter((run) => !run.passed).length;
  setText(summary, runs.length
    ? `${plural(runs.length, "run")}, ${failed ? `${failed} with an expectation that did not hold` : "every expectation held"}${unreadable ? `; ${plural(unreadable, "file")} could not be read` : ""}`
    : "No run yet.");
  if (!runs.length) {
    replace(body, h("div", { class: "card flush" }, h("div", { class: "empty" }, icon("search"),
      h("p", {}, "lab run SCHEDULE --output DIRECTORY leaves its results in the directory that results names in the dashboard's configuration."))));
    return;
  }
  replace(body, h("div", { class: "card flush" }, table("runs",
    ["Outcome", "Schedule", "Stage", "Seed", "Moves", "Longest silence, up / down", "Lost, up / down", "MOS, up / down", "Written"],
    runs.map((run) => h("tr", { dataset: { run: run.name } },
      h("td", {}, outcome(run.passed, run.passed ? "held" : "failed")),
      h("td", {}, h("a", { href: `#/runs/${encodeURIComponent(run.name)}` }, run.schedule), h("div", { class: "muted" }, run.title)),
      ...[run.stage, run.seed, run.moves.length, both(run, "outage_ms", ms), both(run, "lost", String), both(run, "mos", opinion), moment(run.written)].map((text) => h("td", {}, String(text))),
    )))));
}

async function showOne(name, summary, body) {
  const run = await api.run(name);
  setText(summary, `${run.title}. On ${run.stage}, seed ${run.seed}; ${run.passed ? "every expectation held" : "an expectation did not hold"}.`);
  replace(body, runParts(name, run));
}

/** The picture, the moves and the expectations of a run. */
export function runParts(name, run) {
  const parts = [];
  if (run.timeline) {
    parts.push(h("div", { class: "card" }, h("img", { class: "timeline", src: `/api/v1/runs/${encodeURIComponent(name)}/timeline.svg`, alt: `Timeline of ${name}: delay and loss of both directions, moves marked` })));
  }
  parts.push(h("h2", {}, "Moves"), h("div", { class: "card flush" }, table("moves",
    ["Move", "Cause", "Outcome", "Update", "Check", "Requests", "Silence, up / down", "Lost, up / down", "Inner address", "SPIs"],
    run.moves.map((move) => h("tr", {}, ...[
      `${move.origin} → ${move.target}`, move.cause, move.why ? `${move.outcome}: ${move.why}` : move.outcome, ms(move.update_ms), ms(move.check_ms),
      move.retransmissions ? `${move.requests} (+${move.retransmissions} again)` : move.requests,
      move.uplink && move.downlink ? both(move, "outage_ms", ms) : "–", move.uplink && move.downlink ? both(move, "lost", String) : "–",
      kept(move.inner_address_unchanged), kept(move.spis_unchanged),
    ].map((text) => h("td", {}, String(text))))))));
  parts.push(h("h2", {}, "Expectations"), h("div", { class: "card flush" }, table("checks", ["Outcome", "Of", "Expected", "Found"],
    run.checks.map((check) => h("tr", {}, h("td", {}, outcome(check.passed, check.passed ? "held" : "failed")), ...[check.subject, check.expected, check.found].map((text) => h("td", {}, text)))))));
  for (const leak of run.leaks) parts.push(h("p", {}, `Left behind: ${leak}`));
  return parts;
}

const kept = (value) => (value === null || value === undefined ? "–" : value ? "kept" : "changed");

function outcome(good, text) {
  return h("span", { class: `outcome ${good ? "good" : "bad"}` }, icon(good ? "check" : "cross"), text);
}

function table(id, titles, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Table of ${id}` }, h("table", { class: "runs", id }, h("thead", {}, h("tr", {}, titles.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows)));
}

// Why a session failed: the sentence, the clause, what to try, and where the ladder shows it. Remarks are said lower.

import { h, icon, replace } from "./dom.js";
import { split } from "./arrows.js";
import { clock, plural } from "./format.js";

export function mountExplanation(place, ladder) {
  let shown = "";

  function show(session, explanation) {
    const { findings = [], silent = [] } = explanation ?? {};
    const failures = findings.filter((finding) => !finding.remark).reverse(); // the last one ended it
    const remarks = findings.filter((finding) => finding.remark);
    const ended = session?.state === "closed" && session.last_error;
    const signature = JSON.stringify([findings, silent, ended, findings.flatMap((finding) => finding.evidence.map(entryOf)).map((entry) => entry?.id)]);
    if (signature === shown) return;
    shown = signature;
    const lives = session?.state === "established";
    const main = lives ? failures.length > 0 && failures.map(folded) : failures[0] ? failure(failures[0]) : ended && explanation && unexplained(session.last_error);
    place.hidden = !main && remarks.length === 0;
    place.className = `why ${main ? (lives ? "was" : "failed") : "calm"}`;
    replace(
      place,
      h("h2", { id: "why-title" }, icon(main ? "alert" : "search"), main ? (lives ? "What failed, and the session went on" : "Why it failed") : "Out of the ordinary"),
      main,
      !lives && failures.length > 1 && h("div", { class: "before" }, h("h3", {}, "Before that"), failures.slice(1).map(folded)),
      remarks.length > 0 && remarksView(remarks, Boolean(main)),
      silent.length > 0 && (main || remarks.length > 0) && h("p", { class: "hint" }, `Without what ${silent.join(", ")} recorded: not reachable.`),
    );
  }

  function remarksView(remarks, below) {
    const list = h("ul", { class: "remarks" }, remarks.map((finding) =>
      h("li", {}, h("p", {}, finding.sentence), h("p", { class: "hint" }, finding.clause, " · ", finding.advice, " "), evidence(finding))));
    return h("details", { class: "remarks-place", open: !below && remarks.length <= 2 }, h("summary", {}, plural(remarks.length, "remark")), list);
  }

  function failure(finding) {
    return h("article", { class: "finding main", dataset: { cause: finding.cause } }, h("p", { class: "sentence" }, finding.sentence), about(finding));
  }

  function folded(finding) {
    return h("details", { class: "finding folded", dataset: { cause: finding.cause } }, h("summary", {}, finding.sentence), about(finding));
  }

  function about(finding) {
    return [
      h("dl", { class: "facts" },
        h("dt", {}, "What to try"), h("dd", {}, finding.advice),
        h("dt", {}, "Clause"), h("dd", {}, finding.clause),
        h("dt", {}, "Cause"), h("dd", {}, finding.title, h("span", { class: "muted" }, ` · at ${clock(finding.wall)}`))),
      evidence(finding),
    ];
  }

  function evidence(finding) {
    const seen = new Set();
    const entries = finding.evidence.map(entryOf).filter((entry) => entry && !seen.has(entry.id) && seen.add(entry.id));
    if (!entries.length) return null;
    const ids = finding.evidence.map(({ node, sequence }) => `${node}:${sequence}`);
    return h("p", { class: "evidence-links" },
      h("span", { class: "muted" }, "On the ladder:"),
      entries.map((entry) => h("button", { type: "button", class: "to-ladder", onclick: () => ladder.reveal(ids, entry.id) }, split(entry).name)));
  }

  const entryOf = ({ node, sequence }) => ladder.entry(`${node}:${sequence}`);
  return { show };
}

function unexplained(error) {
  return h("article", { class: "finding main" },
    h("p", { class: "sentence" }, `${error.cause}: ${error.text}`),
    h("p", { class: "hint" }, "The trace of this session explains no more; the ladder below has what there is."));
}

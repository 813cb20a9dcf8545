// The laboratory: schedules to be played, and what is being played now.

import { h, replace } from "./dom.js";
import { clock, duration, plural } from "./format.js";
import { fieldset, formDialog } from "./forms.js";
import { progressOf, runPill } from "./lab_run.js";
import { tabs } from "./navigation.js";
import { action, listen, note, page, perform, renew, row, table, unableNote } from "./pieces.js";
import { rest, word } from "./rest.js";
import { state } from "./state.js";

const TITLES = ["Run", "State", "Progress", "Stage", "Seed", "Asked for", ""];
const STAGES = {
  virtual: "in one process, on virtual time: as fast as the machine can",
  loopback: "nodes as processes, real sockets on loopback, real time",
  namespaces: "network namespaces with real routes and TUN devices; needs root",
};

export function mountLab(main) {
  const playing = h("div", {});
  const body = h("div", {});
  const shown = page("Laboratory", { nav: tabs("lab", "#/lab") }, unableNote(), playing, body);
  replace(main, shown.element);
  document.title = "Laboratory · ePDG dashboard";
  if (!state.mayRead) {
    replace(body, h("div", { class: "card" }, note("key", "Sign in to see the schedules.")));
    return () => {};
  }
  let stages = ["virtual"];

  async function load() {
    if (!state.nodes.some((node) => node.kind === "lab")) {
      renew(body, h("div", { class: "card" }, absent()));
      return;
    }
    let schedules;
    let runs;
    try {
      [{ schedules, stages = stages }, { runs }] = await Promise.all([rest.get("/lab/schedules"), rest.get("/lab/runs")]);
    } catch (problem) {
      shown.say("");
      replace(playing);
      renew(body, h("div", { class: "card" }, note("plug", problem.message)));
      return;
    }
    shown.say(plural(schedules.length, "schedule"));
    renew(body, h("h2", { class: "lead" }, "Schedules"), h("ul", { class: "schedules" }, schedules.map(schedule)));
    showRuns(runs);
  }

  function showRuns(runs) {
    renew(playing, runs.length ? h("section", { class: "card flush", "aria-label": "Runs" }, h("h2", {}, "Runs"), table("lab-runs", TITLES, runs.map(runRow))) : null);
  }

  const runRow = (run) => row(TITLES, [
    h("a", { class: "row-link", href: word`#/lab/runs/${run.id}`, "data-key": `run-${run.id}` }, run.schedule), runPill(run), progressOf(run), run.stage, run.seed, clock(run.asked ?? run.started ?? run.created),
    h("span", { class: "row-actions" }, run.result && h("a", { class: "button", href: word`#/runs/${run.result}`, "data-key": `result-${run.id}` }, "Result"),
      ["queued", "running"].includes(run.state) && action("Stop", () => stop(run.id), { danger: true, mark: "stop", key: `stop-${run.id}` })),
  ], { dataset: { "labRun": run.id } });

  const schedule = (each) => h("li", { class: "schedule", dataset: { schedule: each.name } },
    h("h3", {}, each.title || each.name), h("p", { class: "mono muted" }, each.name), each.about && h("p", { class: "about" }, each.about),
    h("p", { class: "row-actions" }, action("Run", () => start(each), { mark: "play", primary: true, key: `start-${each.name}` }), h("span", { class: "muted" }, [each.duration && `${duration(each.duration)} long`, each.moves && plural(each.moves, "move")].filter(Boolean).join(", "))));

  async function start(each) {
    const form = fieldset([{ title: "Where and how", fields: [
      { name: "stage", label: "Stage", kind: "choice", options: stages.map((name) => [name, name]), initial: stages[0], about: stages.map((name) => `${name}: ${STAGES[name] ?? ""}`).join("; ") },
      { name: "seed", label: "Seed", kind: "number", min: 0, about: `of losses and delays; ${each.seed ?? "the schedule's"} without it` },
    ] }]);
    const send = () => rest.post("/lab/runs", { schedule: each.name, ...form.read() });
    const run = await perform(() => formDialog({ id: "run-dialog", title: `Run ${each.name}`, about: each.title, label: "Run", form, send, wide: false }), shown.complain, { why: "Running a schedule starts nodes on this machine." });
    if (run) location.hash = word`#/lab/runs/${run.id}`;
  }

  async function stop(id) {
    await perform(() => rest.remove(word`/lab/runs/${id}`), shown.complain);
    await load();
  }

  const silent = listen([state, "refreshed", load], [state.feed, "lab-run", load], [state.feed, "node", (event) => event.detail.kind === "lab" && load()]);
  load();
  return silent;
}

export function absent() {
  return note("flask", "No laboratory is configured.", h("p", {}, "Start one with ", h("code", {}, "lab serve"), " and list its control socket under ", h("code", {}, "nodes"), " in the dashboard's configuration, kind ", h("code", {}, "lab"), "."),
    h("p", {}, "Results of ", h("code", {}, "lab run"), " are under ", h("a", { href: "#/runs" }, "Results"), " all the same."));
}

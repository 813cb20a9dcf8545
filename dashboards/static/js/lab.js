// The laboratory: schedules to be played, and what is being played or was.

import { h, replace } from "./dom.js";
import { clock, duration, plural } from "./format.js";
import { fieldset, formDialog } from "./forms.js";
import { OVER, progressOf, runPill } from "./lab_run.js";
import { tabs } from "./navigation.js";
import { action, listen, note, page, perform, renew, row, table, unableNote } from "./pieces.js";
import { oneAtATime } from "./polling.js";
import { rest, word } from "./rest.js";
import { laboratories, whenBack } from "./servers.js";
import { state } from "./state.js";

const TITLES = ["Schedule", "State", "Progress", "Stage", "Seed", "Asked for", ""];
const STAGES = {
  virtual: "in one process on virtual time, as fast as the machine can",
  loopback: "nodes as processes, real sockets on loopback, real time",
  namespaces: "network namespaces with real routes and TUN devices, real time",
};

export const configured = () => state.nodes.some((node) => node.kind === "lab");

export function mountLab(main, _, query) {
  const laboratory = laboratories(query, "#/lab");
  const { name, parameters } = laboratory;
  const playing = h("div", {});
  const body = h("div", {});
  const shown = page("Laboratory", { nav: tabs("lab", "#/lab"), tools: laboratory.element }, unableNote(), playing, body);
  replace(main, shown.element);
  document.title = "Laboratory · ePDG dashboard";
  if (!state.mayRead || !configured()) {
    replace(body, h("div", { class: "card" }, state.mayRead ? absent() : note("key", "Sign in to see the schedules.")));
    return () => {};
  }
  let stages = [];

  async function loadSchedules() {
    try {
      const answer = await rest.get(`/lab/schedules${parameters}`);
      stages = answer.stages;
      shown.say(plural(answer.schedules.length, "schedule"));
      renew(body, h("h2", { class: "lead" }, "Schedules"), h("ul", { class: "schedules" }, answer.schedules.map(schedule)),
        answer.unreadable.map((each) => h("p", { class: "bad-text lead" }, `${each.name} is no schedule: ${each.why}`)));
    } catch (problem) {
      shown.say("");
      renew(body, h("div", { class: "card" }, note("plug", problem.message, "This page goes on by itself when it is back.")));
    }
  }

  const loadRuns = oneAtATime(async () => {
    try {
      const { runs } = await rest.get(`/lab/runs${parameters}`);
      renew(playing, runs.length ? h("section", { class: "card flush", "aria-label": "Runs" }, h("h2", {}, "Runs"), table("lab-runs", TITLES, runs.map(runRow))) : null);
    } catch {
      renew(playing); // the schedules' place says why
    }
  });

  const load = () => Promise.all([loadSchedules(), loadRuns()]);

  const runRow = (run) => row(TITLES, [
    h("a", { class: "row-link", href: word`#/lab/runs/${run.id}` + parameters, "data-key": `run-${run.id}` }, run.schedule), runPill(run), progressOf(run), run.stage, run.seed, clock(run.created),
    h("span", { class: "row-actions" }, run.result && h("a", { class: "button", href: word`#/runs/${run.result}`, "data-key": `result-${run.id}` }, "Result"),
      !OVER.has(run.state) && action("Stop", () => stop(run.id), { danger: true, mark: "stop", key: `stop-${run.id}`, unable: run.stopping ? "It is being stopped" : "" })),
  ], { dataset: { labRun: run.id } });

  const schedule = (each) => h("li", { class: "schedule", dataset: { schedule: each.name } },
    h("h3", {}, each.title), h("p", { class: "mono muted" }, each.name), each.about && h("p", { class: "about" }, each.about),
    h("details", {}, h("summary", {}, "What happens"), h("ol", { class: "plan" }, each.events.map((event) => h("li", {}, h("span", { class: "mono muted" }, `${event.at} s`), " ", event.text)))),
    h("p", { class: "row-actions" }, action("Run", () => start(each), { mark: "play", key: `start-${each.name}` }),
      h("span", { class: "muted" }, [duration(each.duration), each.accesses.map((access) => access.name).join(", ")].join(" · "))));

  async function start(each) {
    const choices = each.stages.map((name) => ({ name, why: stages.find((stage) => stage.name === name)?.why_not }));
    const form = fieldset([{ title: "Where and how", fields: [
      { name: "stage", label: "Stage", kind: "choice", options: choices.map(({ name, why }) => [name, why ? `${name} (not here)` : name, Boolean(why)]), about: choices.map(({ name, why }) => `${name}: ${why ?? STAGES[name] ?? ""}`).join(". ") },
      { name: "seed", label: "Seed", kind: "number", min: 0, placeholder: each.seed, about: "of everything random: losses, delays, keys; the schedule's own without it" },
    ] }]);
    const send = () => rest.post(`/lab/runs${parameters}`, { schedule: each.name, ...form.read() });
    const run = await perform(() => formDialog({ id: "run-dialog", title: `Run ${each.name}`, about: each.title, label: "Run", form, send, wide: false }), shown.complain, { why: "Running a schedule starts nodes on this machine." });
    if (run) location.hash = word`#/lab/runs/${run.id}` + parameters;
  }

  async function stop(id) {
    await perform(() => rest.remove(word`/lab/runs/${id}` + parameters), shown.complain);
    await loadRuns();
  }

  const silent = listen([state, "refreshed", load], [state.feed, "lab-run", loadRuns], whenBack(name, load));
  load();
  return silent;
}

export function absent() {
  return note("flask", "No laboratory is configured.",
    h("p", {}, "Start one with ", h("code", {}, "lab serve"), " and list its control socket under ", h("code", {}, "nodes"), " in the dashboard's configuration, kind ", h("code", {}, "lab"), "."),
    h("p", {}, "Results of ", h("code", {}, "lab run"), " are under ", h("a", { href: "#/runs" }, "Results"), " all the same."));
}

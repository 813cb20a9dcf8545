// One run of a schedule, as it happens: progress, steps, and what came of it.

import { h, icon, replace } from "./dom.js";
import { clock, duration } from "./format.js";
import { action, fill, listen, page, perform, pill, renew } from "./pieces.js";
import { whileVisible } from "./polling.js";
import { rest, word } from "./rest.js";
import { runParts } from "./runs.js";
import { state } from "./state.js";

const INTERVAL = 1000; // beside the events
const TONES = { done: "good", running: "warn", failed: "bad", stopped: "bad" };
const OVER = new Set(["done", "failed", "stopped"]);

export const runPill = (run) => pill(TONES[run.state] ?? "", run.state, run.why);

export function progressOf(run) {
  const part = OVER.has(run.state) && run.state === "done" ? 1 : Math.min(1, run.progress ?? 0);
  return h("progress", { class: "progress", max: 1, value: part, "aria-label": `${Math.round(100 * part)} % of ${run.schedule}` });
}

export function mountLabRun(main, id) {
  const buttons = h("div", { class: "tools" });
  const live = h("div", {});
  const result = h("div", {});
  const shown = page("Run", { tools: buttons }, live, result);
  const title = shown.element.querySelector("h1");
  replace(main, shown.element);
  document.title = "Run · ePDG dashboard";
  let resultShown = null;

  const load = () => fill(live, () => rest.get(word`/lab/runs/${id}`), async (run) => {
    title.textContent = `Run of ${run.schedule}`;
    document.title = `${run.schedule} · ePDG dashboard`;
    shown.say([`on ${run.stage}, seed ${run.seed}`, run.started && `since ${clock(run.started)}`, run.ended && `until ${clock(run.ended)}`].filter(Boolean).join(", "));
    shown.complain(run.state === "failed" ? run.why ?? "The run failed." : "");
    renew(buttons, h("a", { class: "button ghost", href: "#/lab", "data-key": "back" }, icon("back"), "Laboratory"), !OVER.has(run.state) && action("Stop", stop, { danger: true, mark: "stop", key: "stop", id: "stop-run" }));
    renew(live, h("section", { class: "card", "aria-label": "Progress" }, h("h2", {}, "Progress ", runPill(run)), h("div", { class: "card-body" }, progressOf(run), steps(run.steps ?? []))));
    if (run.result && resultShown !== run.result) {
      resultShown = run.result;
      await fill(result, () => rest.get(word`/runs/${run.result}`), (found) => replace(result, runParts(run.result, found)));
    }
    if (OVER.has(run.state)) end();
  });

  async function stop() {
    await perform(() => rest.remove(word`/lab/runs/${id}`), shown.complain);
    await load();
  }

  const end = whileVisible(INTERVAL, load);
  const silent = listen([state.feed, "lab-run", (event) => String(event.detail.id) === id && load()], [state, "refreshed", load]);
  return () => {
    end();
    silent();
  };
}

function steps(list) {
  if (!list.length) return h("p", { class: "muted lead" }, "Nothing has happened yet.");
  return h("ol", { class: "run-steps", "aria-label": "Steps", id: "run-steps" }, list.map((step) => {
    const name = step.do ?? step.name ?? step.step ?? "";
    return h("li", { class: `run-step ${name} ${step.outcome === "failed" ? "bad" : ""}` }, h("span", { class: "at" }, `+${Number(step.at).toFixed(1)} s`), h("strong", {}, name), h("span", {}, step.text ?? ""));
  }));
}

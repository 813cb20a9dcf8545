// One run of a schedule, as it happens: progress, steps, and what came of it.

import { h, icon, replace } from "./dom.js";
import { clock } from "./format.js";
import { tabs } from "./navigation.js";
import { action, fill, listen, note, page, perform, pill, renew } from "./pieces.js";
import { oneAtATime, whileVisible } from "./polling.js";
import { rest, word } from "./rest.js";
import { runParts } from "./runs.js";
import { laboratories } from "./servers.js";
import { state } from "./state.js";

const INTERVAL = 1000; // beside the events
export const OVER = new Set(["done", "failed", "stopped"]);

/** Where a run is; one that is done says whether every expectation held. */
export function runPill(run) {
  if (run.state === "done") return run.passed ? pill("good", "held") : pill("bad", "expectation failed", run.failed_checks.join("; "));
  if (run.stopping && !OVER.has(run.state)) return pill("warn", "stopping");
  return pill({ running: "warn", failed: "bad" }[run.state] ?? "", run.state, run.error);
}

export const progressOf = (run) => h("progress", { class: "progress", max: 1, value: run.progress, "aria-label": `${Math.round(100 * run.progress)} % of ${run.schedule}` });

export function mountLabRun(main, id, query) {
  const { parameters } = laboratories(query, "#/lab");
  const buttons = h("div", { class: "tools" });
  const headline = h("div", { class: "run-head" });
  const list = h("ol", { class: "run-steps", id: "run-steps", "aria-label": "Steps", tabindex: "0" });
  const live = h("div", {}, h("section", { class: "card", "aria-label": "Progress" }, h("div", { class: "card-body" }, headline, list)));
  const result = h("div", { class: "run-result" });
  const shown = page("Run", { nav: tabs("lab", "#/lab"), tools: buttons }, live, result);
  const title = shown.element.querySelector("h1");
  replace(main, shown.element);
  document.title = "Run · ePDG dashboard";
  if (!state.mayRead) {
    replace(live, h("div", { class: "card" }, note("key", "Sign in to see the run.")));
    return () => {};
  }
  let resultShown = null;

  const load = oneAtATime(() => fill(live, () => rest.get(word`/lab/runs/${id}` + parameters), async (run) => {
    title.textContent = run.title;
    document.title = `${run.schedule} · ePDG dashboard`;
    shown.say([`${run.schedule} on ${run.stage}, seed ${run.seed}`, run.started && `began ${clock(run.started)}`, run.ended && `ended ${clock(run.ended)}`].filter(Boolean).join(", "));
    shown.complain(run.error ?? "");
    renew(buttons, h("a", { class: "button ghost", href: `#/lab${parameters}`, "data-key": "back" }, icon("back"), "Laboratory"),
      !OVER.has(run.state) && action("Stop", stop, { danger: true, mark: "stop", key: "stop", id: "stop-run", unable: run.stopping ? "It is being stopped" : "" }));
    renew(headline, h("p", {}, runPill(run), " ", h("span", { class: "muted number" }, run.at > run.duration && !OVER.has(run.state) ? "played; what came of it is being written" : `${Math.min(run.at, run.duration).toFixed(1)} s of ${run.duration} s`)), progressOf(run));
    steps(list, run);
    if (run.result && resultShown !== run.result) {
      resultShown = run.result;
      await fill(result, () => rest.get(word`/runs/${run.result}`), (found) => replace(result, runParts(run.result, found)),
        (problem) => (problem.status === 404 ? `The result ${run.result} is not in the directory that results names in the dashboard's configuration.` : problem.message));
    }
    if (OVER.has(run.state)) end();
  }));

  async function stop() {
    await perform(() => rest.remove(word`/lab/runs/${id}` + parameters), shown.complain);
    await load();
  }

  const end = whileVisible(INTERVAL, load);
  const silent = listen([state.feed, "lab-run", (event) => event.detail.id === id && load()], [state, "refreshed", load]);
  return () => {
    end();
    silent();
  };
}

const BAD = /fail|refus|lost|unreach|timed-out/;
const GOOD = /^(moved|attached)$/;

const tone = ({ node, name }) => (node === "schedule" ? "script" : BAD.test(name) ? "bad" : GOOD.test(name) ? "good" : "");

/** New steps come below the others; who reads at the end stays there, and of a run that is over one begins above. */
function steps(list, run) {
  const first = run.steps_left_out;
  if (Number(list.dataset.first ?? 0) !== first || list.childElementCount > run.steps.length) {
    list.dataset.first = first;
    replace(list, first && h("li", { class: "run-step muted" }, h("span", {}), h("span", {}, `${first} earlier steps are left out.`)));
  }
  const shown = list.querySelectorAll("[data-step]").length;
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  list.append(...run.steps.slice(shown).map((step, index) => h(
    "li", { class: `run-step ${tone(step)}`, dataset: { step: shown + index, name: step.name } },
    h("span", { class: "at" }, `${step.at < 0 ? "−" : "+"}${Math.abs(step.at).toFixed(2)}`), h("strong", {}, step.node), h("span", {}, step.text))));
  if (!run.steps.length && !list.childElementCount) list.append(h("li", { class: "run-step muted waiting" }, h("span", {}), h("span", {}, run.state === "queued" ? "It waits for its turn." : "Nothing has happened yet.")));
  if (run.steps.length) list.querySelector(".waiting")?.remove();
  if (atEnd && (shown || !OVER.has(run.state))) list.scrollTop = list.scrollHeight;
}

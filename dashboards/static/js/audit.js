// The audit log: who did what, and what came of it; for operators.

import { rest } from "./rest.js";
import { h, replace } from "./dom.js";
import { moment, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { fill, listen, note, page, pill, row, table } from "./pieces.js";
import { askToSignIn } from "./signin.js";
import { state } from "./state.js";

const TITLES = ["When", "Who", "From", "Action", "Node", "Answer"];
const PAGE = 50;

export function mountAudit(main) {
  const body = h("div", {});
  const shown = page("Audit log", { nav: tabs("nodes", "#/audit") }, body);
  replace(main, shown.element);
  document.title = "Audit log · ePDG dashboard";
  let entries = [];
  let next = null;

  async function load(cursor) {
    const words = barred();
    if (words) {
      shown.say("");
      replace(body, h("div", { class: "card" }, words));
      return;
    }
    await fill(body, () => rest.get("/audit", { limit: PAGE, cursor }), (answer) => {
      entries = cursor ? [...entries, ...answer.entries] : answer.entries;
      ({ next } = answer);
      shown.say(`${plural(entries.length, "action")}, the last one first`);
      if (!entries.length) replace(body, h("div", { class: "card" }, note("check", "Nobody has changed anything yet.")));
      else replace(body, h("div", { class: "card flush" }, table("audit", TITLES, entries.map(line))), next !== null && h("div", { class: "more" }, h("button", { type: "button", class: "button", onclick: () => load(next) }, "Older actions")));
    }, (problem) => (problem.status === 404 ? "No audit log is kept: audit_log of the dashboard's configuration names its file." : problem.message));
  }

  const silent = listen([state, "refreshed", () => load()]);
  load();
  return silent;
}

function barred() {
  if (!state.signedIn) return note("key", "The audit log is for operators.", h("button", { type: "button", class: "button", onclick: () => askToSignIn("The audit log is for operators.") }, "Sign in"));
  if (state.role !== "operator") return note("key", `The audit log needs the role operator; ${state.name} is a ${state.role}.`);
  return null;
}

const line = (each) => row(TITLES, [
  moment(each.wall), `${each.who}${each.role ? ` (${each.role})` : ""}`, h("span", { class: "mono" }, each.remote),
  h("span", { class: "break" }, h("strong", {}, each.method), " ", h("span", { class: "mono" }, each.path.replace("/api/v1", ""))),
  each.node ?? "–", pill(each.status < 400 ? "good" : "bad", String(each.status)),
]);

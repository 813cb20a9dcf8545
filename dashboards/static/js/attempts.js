// Attaches that failed: by cause, and each with its sentence, the last one first.

import { rest, word } from "./rest.js";
import { breakable, h, replace } from "./dom.js";
import { count, moment, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { card, fill, listen, note, page, renew, row, table } from "./pieces.js";
import { bars } from "./plot.js";
import { whileVisible } from "./polling.js";
import { state } from "./state.js";

const INTERVAL = 3000;
const LIMIT = 100;
const TITLES = ["When", "Why", "Cause", "Answer"];
const address = (parameters) => `#/attempts?${new URLSearchParams(parameters)}`;

export function mountAttempts(main, _, query) {
  const cause = query.get("cause") ?? "";
  const outcome = query.get("outcome") ?? "";
  const body = h("div", { class: "stack" });
  const every = (cause || outcome) && h("a", { class: "button ghost", href: "#/attempts", id: "every-attempt" }, "All failed attaches");
  const shown = page("Failed attaches", { nav: tabs("sessions", "#/attempts"), tools: every }, body);
  replace(main, shown.element);
  document.title = "Failed attaches · ePDG dashboard";
  if (!state.mayRead) {
    replace(body, h("div", { class: "card" }, note("key", "Sign in to see them.")));
    return () => {};
  }

  const load = () => fill(body, () => rest.get("/attempts", { cause, outcome, limit: LIMIT }), ({ attempts, total, looked_through: looked, causes }) => {
    const title = causes.find((each) => each.cause === cause)?.title ?? cause;
    const which = [title, outcome && `answered with ${outcome}`].filter(Boolean).join(", ");
    const many = total > attempts.length ? `, the last ${attempts.length} shown` : "";
    const last = `${looked > 1 ? "the last " : ""}${plural(looked, "failed attach", "failed attaches")}`;
    const told = `${which ? `${which}: ` : ""}${cause ? `${count(total)} of ${last}` : last}${many}`;
    shown.say(told.charAt(0).toUpperCase() + told.slice(1));
    renew(body,
      causes.length > 0 && card("By cause", bars(causes.map((each) => ({
        label: each.title, value: each.count, text: count(each.count), tone: each.cause === cause || !cause ? "bad" : "plain",
        href: address({ cause: each.cause, ...(outcome && { outcome }) }), hint: "Those that failed by this",
      }))), { name: "causes" }),
      attempts.length
        ? h("div", { class: "card flush" }, table("attempts", TITLES, attempts.map(line)))
        : h("div", { class: "card" }, note("search", which ? "The traces hold no such attach any more." : "No attach has failed, as far as the traces reach back.")));
  });

  const line = (each) => row(TITLES, [
    h("span", { class: "number" }, moment(each.wall)),
    h("div", {}, h("a", { href: word`#/sessions/${each.id}`, "data-key": `attempt-${each.id}` }, each.sentence ?? each.text), each.sentence && h("div", { class: "hint" }, each.text)),
    each.cause ? h("a", { href: address({ cause: each.cause }), "data-key": `cause-${each.id}` }, each.title) : "–",
    each.outcome ? breakable(each.outcome) : "none of a gateway",
  ], { dataset: { attempt: each.id } });

  const stop = whileVisible(INTERVAL, load);
  const silent = listen([state, "refreshed", load]);
  return () => {
    stop();
    silent();
  };
}

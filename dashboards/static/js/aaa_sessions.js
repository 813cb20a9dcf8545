// SWm sessions as an AAA server has them: found, aborted, re-authorised.

import { rest, word } from "./rest.js";
import { h, icon, replace } from "./dom.js";
import { clock, imsi, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { action, fill, listen, note, page, perform, pill, renew, row, table, unableNote } from "./pieces.js";
import { whileVisible } from "./polling.js";
import { servers } from "./servers.js";
import { state } from "./state.js";

const INTERVAL = 3000;
const LIMIT = 100;
const TITLES = ["State", "IMSI", "APN", "Gateway", "Since", "Session-Id", ""];
const TONES = { authenticated: "good", refused: "bad" };

export function mountAaaSessions(main, _, query) {
  const chosen = servers(query, "#/aaa-sessions");
  const body = h("div", {});
  const search = h("input", { type: "search", id: "search", placeholder: "IMSI", "aria-label": "IMSI", inputmode: "numeric", maxlength: "15", autocomplete: "off" });
  search.value = query?.get("imsi") ?? "";
  const shown = page("AAA sessions", { nav: tabs("subscribers", "#/aaa-sessions"), tools: [chosen.element, h("label", { class: "search" }, icon("search"), search)] }, unableNote(), body);
  replace(main, shown.element);
  document.title = "AAA sessions · ePDG dashboard";
  const absent = chosen.missing();
  if (absent) {
    replace(body, h("div", { class: "card" }, absent));
    return () => {};
  }

  function load() {
    const text = search.value.replace(/\s/g, "");
    if (text && !/^\d{1,15}$/.test(text)) {
      shown.complain("An IMSI has digits only.");
      return Promise.resolve();
    }
    return fill(body, () => rest.get("/aaa-sessions", { imsi: text, limit: LIMIT, node: chosen.name }), ({ sessions, total }) => {
      shown.say(`${plural(total, "session")} at ${chosen.name}${total > sessions.length ? `, the first ${sessions.length} shown` : ""}`);
      renew(body, sessions.length ? h("div", { class: "card flush" }, table("aaa-sessions", TITLES, sessions.map(line))) : h("div", { class: "card" }, note("plug", text ? "No session of this IMSI." : "No session: nobody is attached.")));
    });
  }

  const line = (each) => row(TITLES, [
    pill(TONES[each.state] ?? "warn", each.last_error ? `${each.state}: ${each.last_error.cause}` : each.state ?? "unknown", each.last_error?.text),
    each.imsi ? h("a", { class: "row-link mono", href: word`#/subscribers/${each.imsi}`, "data-key": `imsi-${each.id}` }, imsi(each.imsi)) : "not known yet",
    each.apn, h("span", { class: "break" }, each.gateway), clock(each.authenticated ?? each.created), h("span", { class: "mono break" }, each.id),
    h("span", { class: "row-actions" },
      action("Re-authorise", () => carry(each, "reauthorise"), { key: `reauthorise-${each.id}`, unable: each.state === "authenticated" ? "" : "The user is not authenticated" }),
      action("Abort", () => carry(each, "abort", { title: "Abort the session?", text: "ASR to the gateway, which detaches the UE (TS 29.273 §7.1.2.4).", action: "Abort" }), { danger: true, key: `abort-${each.id}` })),
  ], { dataset: { session: each.id } });

  async function carry(each, what, confirm) {
    const answer = await perform(() => rest.post(word`/aaa-sessions/${each.id}/${what}` + chosen.parameters, {}), shown.complain, { confirm });
    if (!answer) return;
    await load();
    if (answer.succeeded) shown.say(answer.text);
    else shown.complain(answer.text);
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(load, 200);
  });
  const stop = whileVisible(INTERVAL, load);
  const silent = listen([state, "refreshed", load]);
  return () => {
    clearTimeout(typing);
    stop();
    silent();
  };
}

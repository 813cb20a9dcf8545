// The list of sessions: live, searched as one types.

import { api } from "./api.js";
import { h, icon, replace, setText } from "./dom.js";
import { clock, duration, imsi, plural } from "./format.js";
import { state } from "./state.js";

const LOADED = 200; // sessions kept on the page; beyond them the server searches
const RANK = { attaching: 0, established: 1, closing: 2, closed: 3 };
const FILTERS = [["", "All"], ["established", "Established"], ["attaching", "Attaching"], ["closed", "Closed"]];

let kept = { text: "", filter: "" }; // what was searched for, when one comes back from a session

export function mountSessions(main) {
  const sessions = new Map();
  let total = 0;
  let next = null;
  let loaded = false;
  let trouble = "";
  let round = 0;

  const search = h("input", {
    type: "search", id: "search", placeholder: "IMSI, APN or address", "aria-label": "Search sessions", autocomplete: "off", spellcheck: "false",
  });
  search.value = kept.text;
  const filters = FILTERS.map(([value, label]) =>
    h("button", { type: "button", "aria-pressed": String(kept.filter === value), dataset: { filter: value }, onclick: () => choose(value) }, label),
  );
  const summary = h("p", { class: "muted", id: "summary" });
  const body = h("tbody", { id: "sessions" });
  const table = h(
    "table",
    { class: "sessions" },
    h("thead", {}, h("tr", {}, ["State", "IMSI", "APN", "Inner address", "UE's outer address", "Moves", "For"].map((text) => h("th", { scope: "col" }, text)))),
    body,
  );
  const empty = h("div", { class: "empty" });
  const more = h("button", { type: "button", class: "button", onclick: () => load(next) }, "More sessions");
  replace(
    main,
    h(
      "section",
      { class: "page" },
      h(
        "div",
        { class: "page-head" },
        h("div", {}, h("h1", {}, "Sessions"), summary),
        h("div", { class: "tools" }, h("div", { class: "segmented", role: "group", "aria-label": "State" }, filters), h("label", { class: "search" }, icon("search"), search)),
      ),
      h("div", { class: "card flush" }, table, empty),
      h("div", { class: "more" }, more),
    ),
  );

  const rows = new Map();

  function choose(value) {
    kept.filter = value;
    for (const button of filters) button.setAttribute("aria-pressed", String(button.dataset.filter === value));
    if (total > sessions.size) load();
    else show();
  }

  /** Server-side only when not everything is here: the kinds of text that the interface can look for. */
  function serverFilter() {
    const text = kept.text.trim();
    const parameters = { state: kept.filter };
    if (/^\d{6,15}$/.test(text)) parameters.imsi = text;
    else if (/^[0-9a-f:.]+[.:][0-9a-f:.]*$/i.test(text)) parameters.address = text;
    else if (text) parameters.apn = text;
    return parameters;
  }

  async function load(cursor) {
    if (!state.mayRead) return;
    if (!state.gatewayReachable) {
      trouble = loaded ? "" : "The gateway cannot be reached; its sessions appear when it is back.";
      show();
      return;
    }
    const mine = ++round;
    const partial = next !== null || cursor;
    try {
      const page = await api.sessions({ limit: LOADED, cursor, ...(partial ? serverFilter() : {}) });
      if (mine !== round) return;
      if (!cursor) sessions.clear();
      for (const session of page.sessions) sessions.set(session.id, session);
      ({ total, next } = page);
      trouble = "";
      loaded = true;
    } catch (problem) {
      if (mine !== round) return;
      trouble = problem.message;
    }
    show();
  }

  function matches(session) {
    if (kept.filter && session.state !== kept.filter) return false;
    const text = kept.text.trim().toLowerCase().replace(/\s+/g, "");
    if (!text) return true;
    const path = session.ike?.path;
    return [session.imsi, session.apn, ...session.inner_addresses, path?.remote, session.id].some((value) => value?.toLowerCase().includes(text));
  }

  function show() {
    const wanted = [...sessions.values()].filter(matches).sort((a, b) => RANK[a.state] - RANK[b.state] || b.created - a.created);
    const ids = new Set(wanted.map((session) => session.id));
    for (const [id, row] of rows) {
      if (!ids.has(id)) {
        row.element.remove();
        rows.delete(id);
      }
    }
    wanted.forEach((session, index) => {
      let row = rows.get(session.id);
      if (!row) {
        row = sessionRow(session);
        rows.set(session.id, row);
      }
      row.show(session);
      if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] ?? null);
    });
    table.hidden = wanted.length === 0;
    more.hidden = next === null;
    empty.hidden = wanted.length !== 0;
    if (trouble && wanted.length === 0) replace(empty, icon("plug"), h("p", {}, trouble));
    else if (!state.mayRead) replace(empty, icon("key"), h("p", {}, "Sign in to see the sessions."));
    else if (!loaded) replace(empty, h("p", {}, "Loading…"));
    else if (sessions.size === 0) replace(empty, icon("plug"), h("p", {}, "No sessions. They appear here as soon as a UE attaches."));
    else replace(empty, icon("search"), h("p", {}, "No session matches."));
    const established = [...sessions.values()].filter((session) => session.state === "established").length;
    const text = next === null ? `${plural(sessions.size, "session")}, ${established} established` : `${sessions.size} of ${plural(total, "session")}`;
    setText(summary, loaded ? (wanted.length === sessions.size ? text : `${wanted.length} shown of ${text}`) : "");
  }

  let typing = 0;
  search.addEventListener("input", () => {
    kept.text = search.value;
    show();
    clearTimeout(typing);
    if (next !== null) typing = setTimeout(() => load(), 250);
  });

  const listeners = [
    [state.feed, "session", (event) => {
      if (!sessions.has(event.detail.id)) total += 1;
      sessions.set(event.detail.id, event.detail);
      loaded = true;
      show();
      rows.get(event.detail.id)?.flash();
    }],
    [state.feed, "session-gone", (event) => {
      if (sessions.delete(event.detail.id)) total -= 1;
      show();
    }],
    [state.feed, "restarted", () => load()],
    [state.feed, "reset", () => load()],
    [state, "refreshed", () => load()],
    [state, "changed", () => show()],
  ];
  for (const [target, name, listener] of listeners) target.addEventListener(name, listener);
  const ticking = setInterval(() => rows.forEach((row) => row.tick()), 1000);
  show();
  load();
  return () => {
    clearInterval(ticking);
    clearTimeout(typing);
    for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
  };
}

export function statePill(value) {
  return h("span", { class: `pill ${value}` }, h("span", { class: "dot", "aria-hidden": "true" }), value);
}

function sessionRow(first) {
  let session = first;
  const href = `#/sessions/${encodeURIComponent(first.id)}`;
  const link = h("a", { class: "row-link mono", href });
  const cells = {
    state: h("td", { class: "cell-state" }),
    imsi: h("td", { class: "cell-imsi" }, link),
    apn: h("td", { class: "cell-apn", "data-label": "APN" }),
    inner: h("td", { class: "cell-inner mono", "data-label": "Inner" }),
    outer: h("td", { class: "cell-outer", "data-label": "Outer" }),
    moves: h("td", { class: "cell-moves number", "data-label": "Moves" }),
    time: h("td", { class: "cell-time number", "data-label": "For" }),
  };
  const element = h("tr", { dataset: { session: first.id }, onclick: (event) => {
    if (event.target.closest("a") || getSelection()?.toString()) return;
    location.hash = href;
  } }, Object.values(cells));

  const tick = () => {
    const since = session.established ?? session.created;
    setText(cells.time, session.state === "closed" ? clock(session.created) : duration(Date.now() / 1000 - since).replace(/^(\d+)\.\d s$/, "$1 s").replace(/^\d+ ms$/, "0 s"));
  };
  return {
    element,
    tick,
    show(value) {
      if (JSON.stringify(value) === JSON.stringify(session) && link.textContent) return;
      session = value;
      replace(cells.state, statePill(value.state));
      setText(link, imsi(value.imsi));
      setText(cells.apn, value.apn ?? "–");
      setText(cells.inner, value.inner_addresses.join(", ") || "–");
      const remote = value.ike?.path?.remote ?? value.paths.at(-1)?.remote;
      replace(cells.outer, h("span", { class: "mono" }, remote ?? "–"), value.ike?.nat?.remote && h("span", { class: "badge" }, "NAT"), value.last_error && h("span", { class: "badge bad", title: value.last_error.text }, value.last_error.cause));
      setText(cells.moves, String(Math.max(0, value.paths.length - 1)));
      tick();
    },
    flash() {
      element.classList.remove("flash");
      void element.offsetWidth;
      element.classList.add("flash");
    },
  };
}

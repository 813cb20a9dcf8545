// The list of sessions: one page of it, live; the server searches, filters and sorts all of them.

import { api } from "./api.js";
import { h, icon, replace, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { sessionRow } from "./session_row.js";
import { state } from "./state.js";

const PAGE = 50;
const SHARE = 10; // of the time, at most one tenth is spent on asking anew what only might have changed
const LEAST_PAUSE = 100;
const ELSEWHERE_PAUSE = 2000; // for moves of sessions that are not on this page
const FOLLOW_PAUSE = 200; // while somebody types, every answer has other rows
const ANYWHERE = "node,restarted,changes";
const HERE = `${ANYWHERE},session,session-gone`;
const STATES = [["", "All"], ["established", "Established"], ["attaching", "Attaching"], ["closed", "Closed"]];
const NEWEST = "-created";
const COLUMNS = [["State", "state"], ["IMSI", "imsi"], ["APN", "apn"], ["Inner address"], ["UE's outer address"], ["Moves"], ["For", NEWEST, "created"]];
const ORDERS = [[NEWEST, "newest first"], ["created", "oldest first"], ["imsi", "by IMSI"], ["apn", "by APN"], ["state", "by state"]];

// What was looked for, when one comes back from a session; `before` has the cursors of the pages before this one.
const kept = { text: "", state: "", apn: "", gateway: "", sort: NEWEST, cursor: null, before: [] };
const apns = new Set();

/** `asked` is the query of the address: `q`, `state`, `apn`, `gateway`, `sort`. */
export function mountSessions(main, asked) {
  if (asked?.size) {
    const given = (name) => asked.get(name) ?? "";
    Object.assign(kept, { text: given("q"), state: given("state"), apn: given("apn"), gateway: given("gateway"), sort: ORDERS.some(([name]) => name === given("sort")) ? given("sort") : NEWEST, cursor: null, before: [] });
  }
  let page = null;
  let trouble = "";
  let left = false;
  const rows = new Map();
  const pending = new Map(); // id -> what the feed told last of it, until the next frame
  const meanwhile = new Map(); // the same, while a question is under way: its answer may be older

  const search = h("input", { type: "search", id: "search", placeholder: "IMSI, APN or address", "aria-label": "Search sessions", autocomplete: "off", spellcheck: "false" });
  search.value = kept.text;
  const states = STATES.map(([value, label]) =>
    h("button", { type: "button", "aria-pressed": String(kept.state === value), dataset: { filter: value }, onclick: () => look({ state: value }) }, label));
  const apnList = h("datalist", { id: "apns" });
  const apn = h("input", { class: "entry-field", type: "text", id: "filter-apn", placeholder: "Any APN", "aria-label": "APN", list: "apns", autocomplete: "off", spellcheck: "false", onchange: () => look({ apn: apn.value.trim() }) });
  apn.value = kept.apn;
  const gateway = h("select", { class: "entry-field", id: "filter-gateway", "aria-label": "Gateway", onchange: () => look({ gateway: gateway.value }) });
  const order = h("select", { class: "entry-field order", id: "order", "aria-label": "Order", onchange: () => look({ sort: order.value }) }, ORDERS.map(([value, label]) => h("option", { value }, label)));
  const summary = h("p", { class: "muted", id: "summary", role: "status" });
  const body = h("tbody", { id: "sessions" });
  const heads = COLUMNS.map(([label, ...orders]) => h("th", { scope: "col" }, orders.length
    ? h("button", { type: "button", class: "sort", onclick: () => look({ sort: orders[(orders.indexOf(kept.sort) + 1) % orders.length] }) }, label, h("span", { class: "sort-mark", "aria-hidden": "true" }))
    : label));
  const table = h("table", { class: "sessions" }, h("thead", {}, h("tr", {}, heads)), body);
  const empty = h("div", { class: "empty" });
  const previous = h("button", { type: "button", class: "button", id: "previous-page", onclick: () => turn(-1) }, "Previous");
  const following = h("button", { type: "button", class: "button", id: "next-page", onclick: () => turn(1) }, "Next");
  const place = h("span", { class: "muted number", id: "page-place" });
  const pages = h("nav", { class: "more", "aria-label": "Pages of sessions" }, previous, place, following);
  const view = h("section", { class: "page sessions-page" }, tabs("sessions", "#/sessions"),
    h("div", { class: "page-head" },
      h("div", {}, h("h1", {}, "Sessions"), summary),
      h("div", { class: "tools" }, h("div", { class: "segmented", role: "group", "aria-label": "State" }, states), gateway, apn, apnList, order, h("label", { class: "search" }, icon("search"), search))),
    h("div", { class: "card flush" }, table, empty),
    pages,
    h("p", { class: "hint key-hint" }, h("kbd", {}, "/"), " searches, ", h("kbd", {}, "↑"), " ", h("kbd", {}, "↓"), " go from row to row, ", h("kbd", {}, "←"), " ", h("kbd", {}, "→"), " turn pages, ", h("kbd", {}, "Enter"), " opens."));
  replace(main, view);

  // --- asking

  let asking = null; // what gives the question under way up
  let again = false;
  let landing = false; // whether the keyboard goes to the first row of a page that was turned to
  let took = 0;
  let timer = 0;
  let due = Infinity;

  /** What somebody looks for is asked at once; what only might have changed waits for the answer to that. */
  async function load(unasked = false) {
    clearTimeout(timer);
    due = Infinity;
    if (!state.mayRead || left) return;
    if (asking && unasked) {
      again = true;
      return;
    }
    if (!state.gatewayReachable) {
      trouble = "The gateway cannot be reached; its sessions appear when it is back.";
      show();
      return;
    }
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    again = false;
    meanwhile.clear();
    const began = performance.now();
    const since = state.feed.last;
    let found = null;
    let refusal = "";
    try {
      found = await api.sessions({ limit: PAGE, cursor: kept.cursor, sort: kept.sort, q: kept.text.trim().replace(/(?<=\d)\s+(?=\d)/g, ""), state: kept.state, apn: kept.apn, gateway: kept.gateway }, mine.signal);
    } catch (problem) {
      refusal = problem.message;
    }
    if (asking !== mine || left) return; // something else is looked for by now
    asking = null;
    took = performance.now() - began;
    trouble = refusal;
    if (found) {
      page = found;
      page.sessions = page.sessions.map((session) => meanwhile.get(session.id) ?? session);
      followSoon(since);
    }
    show();
    if (found && !page.sessions.length && kept.before.length) {
      Object.assign(kept, { cursor: null, before: [] }); // the sessions of this page are gone
      load();
      return;
    }
    if (again) loadSoon();
    if (landing) focusRow(0);
    landing = false;
  }

  function loadSoon(pause = 0) {
    const wanted = performance.now() + Math.max(pause, LEAST_PAUSE, took * SHARE);
    if (wanted >= due) return;
    due = wanted;
    clearTimeout(timer);
    timer = setTimeout(() => load(true), wanted - performance.now());
  }

  let followTimer = 0;
  let blind = false; // whether something may have happened between the question and the first event

  /** The rows that are shown, from when they were asked for on; of all others only that something has changed. */
  function followSoon(since) {
    clearTimeout(followTimer);
    followTimer = setTimeout(() => {
      const ids = page.sessions.map((session) => session.id);
      blind ||= !since;
      state.feed.follow(ids.length ? HERE : ANYWHERE, ids, since);
    }, since ? FOLLOW_PAUSE : 0);
  }

  function look(change) {
    Object.assign(kept, change, { cursor: null, before: [] });
    load();
    showChoices();
  }

  function turn(direction) {
    if (direction > 0 && page?.next) kept.before.push(kept.cursor);
    else if (direction < 0 && kept.before.length === 0) return;
    else if (direction > 0) return;
    kept.cursor = direction > 0 ? page.next : kept.before.pop();
    landing = true;
    load();
  }

  // --- showing

  function show() {
    const sessions = page?.sessions ?? [];
    const ids = new Set(sessions.map((session) => session.id));
    for (const [id, row] of rows) {
      if (ids.has(id)) continue;
      row.element.remove();
      rows.delete(id);
    }
    sessions.forEach((session, index) => {
      let row = rows.get(session.id);
      if (!row) {
        row = sessionRow(session);
        rows.set(session.id, row);
      }
      row.show(session);
      if (session.apn && !apns.has(session.apn)) apns.add(session.apn);
      if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] ?? null);
    });
    table.hidden = sessions.length === 0;
    empty.hidden = sessions.length !== 0;
    if (!sessions.length) replace(empty, nothing());
    showChoices();
    showPlace(sessions);
  }

  function nothing() {
    const looked = kept.text || kept.state || kept.apn || kept.gateway;
    if (!state.mayRead) return [icon("key"), h("p", {}, "Sign in to see the sessions.")];
    if (trouble) return [icon("plug"), h("p", {}, trouble)];
    if (!page) return h("p", {}, "Loading…");
    if (!looked) return [icon("plug"), h("p", {}, "No sessions. They appear here as soon as a UE attaches.")];
    return [icon("search"), h("p", {}, "No session matches."), h("button", { type: "button", class: "button", onclick: () => {
      search.value = apn.value = "";
      look({ text: "", state: "", apn: "", gateway: "" });
    } }, "Show all")];
  }

  function showPlace(sessions) {
    const first = kept.before.length * PAGE + 1;
    const away = page?.unreachable?.length ? `; without ${page.unreachable.join(", ")}, not reachable` : "";
    const looked = kept.text || kept.state || kept.apn || kept.gateway;
    setText(summary, page ? `${plural(page.total, "session")}${looked ? (page.total === 1 ? " matches" : " match") : ""}${away}` : "");
    pages.hidden = !page || (page.next === null && kept.before.length === 0);
    setText(place, sessions.length ? `${count(first)} – ${count(first + sessions.length - 1)} of ${count(page.total)}` : "");
    previous.disabled = kept.before.length === 0;
    following.disabled = !page?.next;
  }

  function showChoices() {
    for (const button of states) button.setAttribute("aria-pressed", String(button.dataset.filter === kept.state));
    const names = state.nodes.filter((node) => node.kind === "epdg").map((node) => node.name);
    if (gateway.options.length !== names.length + 1) replace(gateway, h("option", { value: "" }, "Any gateway"), names.map((name) => h("option", { value: name }, name)));
    gateway.value = kept.gateway;
    gateway.hidden = names.length < 2;
    order.value = kept.sort;
    if (apnList.children.length !== apns.size) replace(apnList, [...apns].sort().map((name) => h("option", { value: name })));
    COLUMNS.forEach(([, ...orders], index) => {
      if (!orders.length) return;
      const sorted = orders.includes(kept.sort);
      const rising = kept.sort !== "created";
      if (sorted) heads[index].setAttribute("aria-sort", rising ? "ascending" : "descending");
      else heads[index].removeAttribute("aria-sort");
      setText(heads[index].querySelector(".sort-mark"), sorted ? (rising ? "▲" : "▼") : "");
    });
  }

  // --- what happens meanwhile, drawn once a frame

  let frame = 0;
  function changed(id, session) {
    if (!rows.has(id)) return;
    if (session === null) {
      loadSoon();
      return;
    }
    pending.set(id, session);
    if (asking) meanwhile.set(id, session);
    if (!frame) frame = requestAnimationFrame(takePending);
  }

  function takePending() {
    frame = 0;
    for (const [id, session] of pending) {
      const row = rows.get(id);
      if (!row) continue;
      if (kept.state && session.state !== row.session.state) loadSoon();
      row.show(session);
      row.flash();
      page.sessions[page.sessions.findIndex((each) => each.id === id)] = session;
    }
    pending.clear();
  }

  /** Changes anywhere. Where sessions are concerns only who may be looking for an address. */
  function elsewhere({ events }) {
    if (Object.keys(events).some((name) => name !== "moved")) loadSoon();
    else if (kept.text && /^[\d.:a-f\s]*$/i.test(kept.text)) loadSoon(ELSEWHERE_PAUSE);
  }

  // --- keys

  function focusRow(index) {
    const links = [...body.querySelectorAll(".row-link")];
    links[Math.max(0, Math.min(links.length - 1, index))]?.focus();
  }

  const onKey = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (event.target === search && event.key === "ArrowDown") {
      event.preventDefault();
      focusRow(0);
      return;
    }
    const row = event.target.closest?.("#sessions tr");
    if (typing || (!row && event.target !== document.body)) return;
    const at = row ? [...body.children].indexOf(row) : -1;
    const moves = {
      ArrowDown: () => focusRow(at + 1),
      ArrowUp: () => (at > 0 ? focusRow(at - 1) : search.focus()),
      Home: () => focusRow(0),
      End: () => focusRow(Infinity),
      ArrowRight: () => turn(1),
      ArrowLeft: () => turn(-1),
    };
    if (!moves[event.key] || (!row && event.key !== "ArrowDown")) return;
    event.preventDefault();
    moves[event.key]();
  };
  document.addEventListener("keydown", onKey);
  search.addEventListener("input", () => look({ text: search.value }));

  const listeners = [
    [state.feed, "session", (event) => changed(event.detail.id, event.detail)],
    [state.feed, "session-gone", (event) => changed(event.detail.id, null)],
    [state.feed, "changes", (event) => elsewhere(event.detail)],
    [state.feed, "hello", () => {
      if (blind) load(true);
      blind = false;
    }],
    [state.feed, "restarted", () => load()],
    [state.feed, "reset", () => load()],
    [state, "refreshed", () => load()],
    [state, "changed", () => show()],
  ];
  for (const [target, name, listener] of listeners) target.addEventListener(name, listener);
  const ticking = setInterval(() => rows.forEach((row) => row.tick()), 1000);
  show();
  if (state.mayRead) state.feed.follow(ANYWHERE);
  load();
  return () => {
    left = true;
    asking?.abort();
    clearTimeout(followTimer);
    clearInterval(ticking);
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    document.removeEventListener("keydown", onKey);
    for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
  };
}

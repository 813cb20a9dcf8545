// One session: why it failed, where it has been, what it carries, what it is, what can be done with it, and its ladder.

import { detach as askToDetach, mountActions, obstacle } from "./actions.js";
import { api } from "./api.js";
import { card, showAuthorisation, showIdentity, showSas } from "./cards.js";
import { mountCounters } from "./counters.js";
import { h, icon, replace, setText } from "./dom.js";
import { mountEvidence } from "./evidence.js";
import { mountExplanation } from "./explanation.js";
import { clock, duration, imsi, moment } from "./format.js";
import { mountLadder } from "./ladder.js";
import { mountPaths, movesOf } from "./paths.js";
import { statePill } from "./session_row.js";
import { state } from "./state.js";

const REFRESH = 2000; // counters change without a trace record
const LADDER_PAUSE = 50; // records of one procedure come together
const LADDER_SHARE = 2; // a ladder that takes long to fetch is fetched less often
const EVENTS = "node,restarted,session,session-gone,record";
const TRACED = ["ue", "epdg", "aaa", "hss"]; // kinds of node that a session goes through
const ARRIVAL = 2; // seconds after which it is known whether a message arrived

export function mountSession(main, id) {
  let session = null;
  let gone = false;
  let left = false;
  let moves = [];
  let explanation = null;

  const title = h("h1", { class: "mono" }, "…");
  const pills = h("div", { class: "pills" });
  const subtitle = h("p", { class: "muted" });
  const detach = h("button", { type: "button", class: "button danger", id: "detach", onclick: runDetach }, "Detach");
  const evidencePlace = h("div", { class: "evidence-place" });
  const trouble = h("div", { class: "inline-trouble", role: "alert", id: "session-trouble", hidden: true });
  const why = h("section", { class: "why", id: "why", "aria-labelledby": "why-title", hidden: true });
  const cards = {
    paths: card("Addresses"),
    traffic: card("Traffic"),
    identity: card("Identity"),
    profile: card("Authorisation"),
    sas: card("Security associations"),
    actions: card("Actions"),
  };
  const ladderPlace = h("section", { class: "card ladder-card", "aria-label": "Message ladder" });
  const drawer = h("div", { class: "drawer-place", id: "drawer-place" });
  replace(
    main,
    h("section", { class: "page session-page" },
      h("a", { class: "back", href: "#/sessions" }, icon("back"), "Sessions"),
      h("div", { class: "page-head" }, h("div", {}, h("div", { class: "title-line" }, title, pills), subtitle), h("div", { class: "tools" }, evidencePlace, detach)),
      trouble,
      why,
      h("div", { class: "session-overview" }, cards.paths.element, cards.traffic.element),
      h("div", { class: "columns" }, h("div", { class: "side" }, drawer, ...["identity", "actions", "sas", "profile"].map((name) => cards[name].element)), ladderPlace)),
  );
  const ladder = mountLadder(ladderPlace, drawer, id);
  const explained = mountExplanation(why, ladder);
  const paths = mountPaths(cards.paths.body, (ids) => ladder.reveal(ids));
  const counters = mountCounters(cards.traffic.body);
  const actions = mountActions(cards.actions.body, id, { done: loadSession });
  const evidence = mountEvidence(evidencePlace, id, setRefused);

  async function loadSession() {
    if (!state.gatewayReachable || !state.mayRead || left) return;
    const since = state.feed.last;
    try {
      const value = await api.session(id);
      if (left) return;
      take(value);
      follow(since);
      setTrouble("");
    } catch (problem) {
      if (left) return;
      if (problem.status === 404) {
        gone = true;
        setTrouble(session ? "The gateway has forgotten this session; what it was is still shown." : "The gateway does not know this session; below is what the trace tells of it.");
      } else setTrouble(problem.message);
    }
    show();
  }

  let ladderTimer = 0;
  let ladderBusy = false;
  let ladderAgain = false;
  let ladderTook = 0;
  let ladderDue = Infinity;
  async function loadLadder() {
    if (!state.mayRead || left) return;
    clearTimeout(ladderTimer);
    if (ladderBusy) {
      ladderDue = Infinity;
      ladderAgain = true;
      return;
    }
    ladderBusy = true;
    ladderDue = Infinity;
    const began = performance.now();
    const since = state.feed.last;
    try {
      const explaining = api.explanation(id).catch(() => null);
      const value = await api.ladder(id);
      if (!left) {
        moves = movesOf(value.entries);
        ladder.show(value);
        follow(since);
        show();
        explanation = (await explaining) ?? explanation;
        if (left) return;
        show();
        if (value.entries.some((entry) => entry.kind === "message" && entry.arrived === null && Date.now() / 1000 - entry.wall < ARRIVAL)) ladderSoon(1200);
      }
    } catch (problem) {
      if (!left) ladder.trouble(problem.status === 404 ? "No node has recorded anything of this session." : problem.message);
    }
    ladderTook = performance.now() - began;
    ladderBusy = false;
    if (ladderAgain) {
      ladderAgain = false;
      ladderSoon();
    }
  }
  /** Soon after the first record, not after the last: a session that is never quiet is shown, too. */
  function ladderSoon(pause = Math.max(LADDER_PAUSE, ladderTook * LADDER_SHARE)) {
    const wanted = performance.now() + pause;
    if (wanted >= ladderDue) return;
    ladderDue = wanted;
    clearTimeout(ladderTimer);
    ladderTimer = setTimeout(loadLadder, pause);
  }

  /** What is told under any of the session's names; a UE or an AAA server may have told nothing yet. */
  function follow(since) {
    if (state.mayRead) state.feed.follow(EVENTS, [id, session?.id, session?.imsi, ...ladder.names].filter(Boolean), since);
  }

  function take(value) {
    session = value;
    gone = false;
  }

  let loading = ""; // what hinders reading
  let refused = ""; // what came of an action; it stays until the next one
  function setTrouble(text) {
    loading = text;
    showTrouble();
  }
  function setRefused(text) {
    refused = text;
    showTrouble();
  }
  function showTrouble() {
    const text = [refused, loading].filter(Boolean).join(" ");
    trouble.hidden = !text;
    setText(trouble, text);
  }

  async function runDetach() {
    setRefused("");
    detach.disabled = true;
    await askToDetach(session, id, (good, text) => (good ? actions.tell(good, text) : setRefused(text)));
    loadSession();
  }

  function show() {
    const blocked = obstacle(session, gone);
    detach.hidden = !session || gone || session.state === "closed";
    detach.disabled = Boolean(blocked);
    detach.title = state.mayAct ? "" : "Needs the role operator";
    main.classList.toggle("stale", !state.gatewayReachable || gone);
    explained.show(session, explanation);
    evidence.show();
    if (!session) {
      if (gone) setText(title, id);
      for (const each of Object.values(cards)) each.element.hidden = true;
      return;
    }
    document.title = `${session.imsi ?? session.id} · ePDG dashboard`;
    setText(title, imsi(session.imsi));
    replace(pills, statePill(session.state), session.apn && h("span", { class: "badge" }, session.apn), session.ike?.nat?.remote && h("span", { class: "badge" }, "behind NAT"));
    replace(subtitle, session.last_error && h("span", { class: "bad-text" }, `${session.last_error.cause}: ${session.last_error.text} · `), lived(session),
      session.imsi && [" · ", h("a", { href: `#/sessions?${new URLSearchParams({ q: session.imsi })}` }, "all of this subscriber")]);
    showIdentity(cards.identity.body, session);
    showSas(cards.sas.body, session);
    cards.identity.element.hidden = cards.sas.element.hidden = cards.paths.element.hidden = false;
    cards.profile.element.hidden = !showAuthorisation(cards.profile.body, session);
    cards.traffic.element.hidden = session.child_sas.length === 0;
    paths.show(session, moves);
    if (session.child_sas.length) counters.show(session);
    actions.show(session, gone);
    cards.actions.element.hidden = !actions.any;
  }

  const listeners = [
    [state.feed, "session", (event) => {
      if (event.detail.id !== id) return;
      take({ ...session, ...event.detail });
      show();
    }],
    [state.feed, "session-gone", (event) => {
      if (event.detail.id === id) loadSession();
    }],
    [state.feed, "record", (event) => {
      if (ladder.concerns(event.detail.node, event.detail.session)) ladderSoon();
    }],
    [state.feed, "hello", () => {
      if (blind) reload();
      blind = false;
    }],
    [state.feed, "restarted", reload],
    [state.feed, "reset", reload],
    [state, "refreshed", reload],
    [state, "changed", show],
  ];
  function reload() {
    loadSession();
    loadLadder();
  }
  for (const [target, name, listener] of listeners) target.addEventListener(name, listener);
  show(); // nothing that could be pressed is in sight before the session is known, and goes out of sight again
  const polling = setInterval(() => {
    if (document.hidden || !state.feed.connected || session?.state === "closed" || gone) return;
    loadSession();
    if (state.nodes.some((node) => node.reachable && TRACED.includes(node.kind) && !ladder.has(node.name))) ladderSoon();
  }, REFRESH);
  let blind = !state.feed.last; // something may happen between the first questions and the first event
  follow();
  reload();
  return () => {
    left = true;
    clearInterval(polling);
    clearTimeout(ladderTimer);
    for (const part of [ladder, paths, counters]) part.close();
    main.classList.remove("stale");
    for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
  };
}

function lived(session) {
  if (session.state === "closed") return `began ${moment(session.created)}`;
  if (!session.established) return `attaching since ${clock(session.created)}`;
  return `established ${moment(session.established)}, after ${duration(session.established - session.created)}`;
}

// One session: who it is, where it has been, its security associations, its traffic, and its ladder.

import { api } from "./api.js";
import { h, icon, replace, setText } from "./dom.js";
import { clock, count, duration, imsi, moment, octets, reason, selector } from "./format.js";
import { mountLadder } from "./ladder.js";
import { statePill } from "./sessions.js";
import { askToSignIn, confirmAction } from "./signin.js";
import { state } from "./state.js";

const REFRESH = 3000; // counters change without a trace record
const LADDER_PAUSE = 300; // records of one procedure come together
const REFUSED = [["replayed", "Replayed"], ["bad_icv", "Bad ICV"], ["bad_selector", "Outside selectors"], ["malformed", "Malformed"],
  ["too_big", "Too big"], ["fragment", "Fragments"], ["congestion", "Congestion"]];

export function mountSession(main, id) {
  let session = null;
  let rates = null;
  let gone = false;
  let left = false;

  const title = h("h1", { class: "mono" }, "…");
  const pills = h("div", { class: "pills" });
  const subtitle = h("p", { class: "muted" });
  const detach = h("button", { type: "button", class: "button danger", id: "detach", onclick: askDetach }, "Detach");
  const trouble = h("div", { class: "inline-trouble", role: "alert", id: "session-trouble", hidden: true });
  const cards = { identity: card("Identity"), paths: card("Addresses"), sas: card("Security associations"), traffic: card("Traffic") };
  const ladderPlace = h("section", { class: "card ladder-card", "aria-label": "Message ladder" });
  replace(
    main,
    h(
      "section",
      { class: "page session-page" },
      h("a", { class: "back", href: "#/" }, icon("back"), "Sessions"),
      h("div", { class: "page-head" }, h("div", {}, h("div", { class: "title-line" }, title, pills), subtitle), h("div", { class: "tools" }, detach)),
      trouble,
      h("div", { class: "columns" }, h("div", { class: "side" }, h("div", { class: "drawer-place", id: "drawer-place" }), Object.values(cards).map((each) => each.element)), ladderPlace),
    ),
  );
  const ladder = mountLadder(ladderPlace, document.getElementById("drawer-place"));

  async function loadSession() {
    if (!state.gatewayReachable || !state.mayRead) return;
    try {
      take(await api.session(id));
      setTrouble("");
    } catch (problem) {
      if (problem.status === 404) {
        gone = true;
        setTrouble(session ? "The gateway has forgotten this session; what it was is still shown." : "The gateway does not know this session.");
      } else setTrouble(problem.message);
    }
    show();
  }

  let ladderTimer = 0;
  let ladderBusy = false;
  let ladderAgain = false;
  async function loadLadder() {
    if (!state.mayRead || left) return;
    if (ladderBusy) {
      ladderAgain = true;
      return;
    }
    ladderBusy = true;
    try {
      const value = await api.ladder(id);
      if (!left) ladder.show(value);
      if (value.entries.some((entry) => entry.kind === "message" && entry.arrived === null && Date.now() / 1000 - entry.wall < 2)) {
        ladderSoon(1200); // by then it is known whether it arrived
      }
    } catch (problem) {
      if (!left) ladder.trouble(problem.status === 404 ? "No node has recorded anything of this session." : problem.message);
    }
    ladderBusy = false;
    if (ladderAgain) {
      ladderAgain = false;
      ladderSoon();
    }
  }
  function ladderSoon(pause = LADDER_PAUSE) {
    clearTimeout(ladderTimer);
    ladderTimer = setTimeout(loadLadder, pause);
  }

  function take(value) {
    rates = rate(session, value) ?? rates;
    value.taken = performance.now();
    session = value;
    gone = false;
  }

  function setTrouble(text) {
    trouble.hidden = !text;
    setText(trouble, text);
  }

  async function askDetach() {
    if (!state.signedIn && !(await askToSignIn("Detaching a session changes the gateway's state."))) {
      setTrouble("Not detached: only somebody who has signed in may detach a session.");
      return;
    }
    if (!state.mayAct) {
      setTrouble(`Not detached: this needs the role operator; ${state.name} is a ${state.role}.`);
      return;
    }
    setTrouble("");
    const sure = await confirmAction({
      title: `Detach ${imsi(session?.imsi)}?`,
      text: "The gateway deletes the IKE SA and its child SAs towards the UE and ends the Diameter session. The UE may attach again.",
      action: "Detach",
    });
    if (!sure) return;
    detach.disabled = true;
    try {
      await api.detach(id);
    } catch (problem) {
      setTrouble(problem.message);
      if (problem.status === 401) state.refresh();
    }
    detach.disabled = false;
    loadSession();
  }

  function show() {
    detach.hidden = !session || gone || session.state === "closed";
    detach.disabled = !state.gatewayReachable || !state.mayAct;
    detach.title = state.mayAct ? "" : "Needs the role operator";
    main.classList.toggle("stale", !state.gatewayReachable || gone);
    if (!session) return;
    document.title = `${session.imsi ?? session.id} · ePDG dashboard`;
    setText(title, imsi(session.imsi));
    replace(pills, statePill(session.state), session.apn && h("span", { class: "badge" }, session.apn), session.ike?.nat?.remote && h("span", { class: "badge" }, "behind NAT"));
    replace(subtitle, session.last_error && h("span", { class: "bad-text" }, `${session.last_error.cause}: ${session.last_error.text} · `), lived(session));
    showIdentity(cards.identity.body, session);
    showPaths(cards.paths.body, session);
    showSas(cards.sas.body, session);
    showTraffic(cards.traffic.body, session, rates);
    cards.traffic.element.hidden = session.child_sas.length === 0;
  }

  const listeners = [
    [state.feed, "session", (event) => {
      if (event.detail.id !== id) return;
      take(event.detail);
      show();
    }],
    [state.feed, "session-gone", (event) => {
      if (event.detail.id === id) loadSession();
    }],
    [state.feed, "record", (event) => {
      if (ladder.concerns(event.detail.node, event.detail.session)) ladderSoon();
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
  const polling = setInterval(() => {
    if (!document.hidden && state.feed.connected && session?.state !== "closed" && !gone) loadSession();
  }, REFRESH);
  reload();
  return () => {
    left = true;
    clearInterval(polling);
    clearTimeout(ladderTimer);
    ladder.close();
    main.classList.remove("stale");
    for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
  };
}

function card(name) {
  const body = h("div", { class: "card-body" });
  return { element: h("section", { class: "card", dataset: { card: name.toLowerCase() } }, h("h2", {}, name), body), body };
}

function facts(...pairs) {
  return h("dl", { class: "facts" }, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== "").map(([name, value, style]) => [h("dt", {}, name), h("dd", { class: style ?? "" }, value)]));
}

/** Put new content only when it differs: a selection, and the eye, stay where they are. */
function update(place, ...content) {
  const text = content.map((item) => item?.outerHTML ?? "").join("");
  if (place.dataset.content === String(hash(text))) return;
  place.dataset.content = String(hash(text));
  replace(place, content);
}

function hash(text) {
  let value = 0;
  for (let index = 0; index < text.length; index += 1) value = (value * 31 + text.charCodeAt(index)) | 0;
  return value;
}

function lived(session) {
  if (session.state === "closed") return `began ${moment(session.created)}`;
  if (!session.established) return `attaching since ${clock(session.created)}`;
  return `established ${moment(session.established)}, after ${duration(session.established - session.created)}`;
}

function showIdentity(place, session) {
  update(
    place,
    facts(
      ["IMSI", session.imsi, "mono"],
      ["NAI", session.nai, "mono break"],
      ["APN", session.apn],
      ["Inner address", session.inner_addresses.join(", "), "mono strong"],
      ["Gateway", session.gateway],
      ["Session", session.id, "mono"],
      ["Diameter session", session.diameter_session_id, "mono break"],
    ),
  );
}

function showPaths(place, session) {
  const first = session.paths[0]?.since ?? session.created;
  const last = session.paths.at(-1)?.until ?? Date.now() / 1000;
  const span = Math.max(last - first, 0.001);
  const remotes = [...new Set(session.paths.map((path) => path.remote))];
  const bar = h("div", { class: "span-bar", "aria-hidden": "true" });
  for (const path of session.paths) {
    const part = h("span", { class: `part tone-${remotes.indexOf(path.remote) % 5} ${path.validated ? "" : "unproved"}`, title: path.remote });
    part.style.flexGrow = String(Math.max(((path.until ?? last) - path.since) / span, 0.02));
    bar.append(part);
  }
  const steps = session.paths.map((path) => {
    const current = path.until === null && session.state !== "closed";
    return h(
      "li",
      { class: `step tone-${remotes.indexOf(path.remote) % 5} ${current ? "current" : ""} ${path.validated ? "" : "unproved"}` },
      h("div", { class: "step-head" }, h("span", { class: "mono address" }, path.remote), current && h("span", { class: "badge good" }, "now"),
        validity(path, current)),
      h("p", { class: "step-why" }, reason(path)),
      h("p", { class: "step-when" }, current ? `since ${clock(path.since)}` : path.until === null ? `from ${clock(path.since)} to the end` : `${clock(path.since)} – ${clock(path.until)}`, path.until !== null && h("span", { class: "muted" }, ` · ${duration(path.until - path.since)}`)),
    );
  });
  const local = session.ike?.path?.local ?? session.paths.at(-1)?.local;
  const asked = session.paths.length === 0 && session.ike?.path?.remote; // refused, or not that far yet
  update(place, h("div", {}, session.paths.length > 1 && bar, asked && h("p", { class: "asked-from" }, "asked from ", h("span", { class: "mono" }, asked)), h("ol", { class: "path-steps" }, steps.reverse()), local && h("p", { class: "hint" }, "The gateway's end: ", h("span", { class: "mono" }, local))));
}

/** Return routability (RFC 4555 §3.7): shown, not yet, or never. */
function validity(path, current) {
  if (path.validated) return h("span", { class: "check good" }, icon("check"), "validated");
  if (current) return h("span", { class: "check warn" }, icon("alert"), "not validated yet");
  return h("span", { class: "check bad" }, icon("cross"), "not validated");
}

function showSas(place, session) {
  const ike = session.ike;
  const nat = ike ? [ike.nat.local && "gateway", ike.nat.remote && "UE"].filter(Boolean).join(" and ") : "";
  update(
    place,
    ike &&
      h("div", { class: "sa" }, h("h3", {}, "IKE SA", ike.suite && h("span", { class: "badge mono" }, ike.suite)), facts(
        ["SPIs", `${ike.spi_i} / ${ike.spi_r}`, "mono break"],
        ["NAT", nat ? `in front of the ${nat}` : "none detected"],
        ["MOBIKE", ike.mobike ? "supported" : "not supported"],
        ["Rekeyed", ike.rekeys === null ? null : ike.rekeys ? `${count(ike.rekeys)} times` : "not yet"],
        ["Requests sent", ike.requests_sent === null ? null : `${count(ike.requests_sent)}, ${count(ike.retransmissions_sent ?? 0)} retransmitted`],
      )),
    ...session.child_sas.map((child) =>
      h("div", { class: "sa" }, h("h3", {}, "Child SA", child.suite && h("span", { class: "badge mono" }, child.suite)), facts(
        ["SPIs in / out", `${child.inbound_spi} / ${child.outbound_spi}`, "mono"],
        ["Path", child.path ? child.path.remote : "", "mono"],
        ["Encapsulation", typeof child.encapsulation === "string" ? child.encapsulation : child.encapsulation ? "ESP in UDP" : "plain ESP"],
        ["Mode", child.mode === "beet" ? `BEET, ${count(child.counters?.overhead_saved_octets ?? 0)} octets of headers saved` : child.mode],
        ["Gateway side", child.local_selectors.map(selector).join(", "), "mono break"],
        ["UE side", child.remote_selectors.map(selector).join(", "), "mono break"],
      )),
    ),
    !ike && session.child_sas.length === 0 && h("p", { class: "muted" }, "None yet."),
  );
}

function total(session, name) {
  return session.child_sas.reduce((sum, child) => sum + (child.counters?.[name] ?? 0), 0);
}

function rate(before, after) {
  if (!before?.taken) return null;
  const seconds = (performance.now() - before.taken) / 1000;
  if (seconds < 0.5) return null;
  const spis = (value) => value.child_sas.map((child) => child.inbound_spi).join();
  if (spis(before) !== spis(after)) return null;
  const change = (name) => Math.max(0, (total(after, name) - total(before, name)) / seconds);
  return { inbound: change("inbound_octets"), outbound: change("outbound_octets") };
}

function showTraffic(place, session, rates) {
  const way = (label, name, tone) =>
    h(
      "div",
      { class: `way ${tone}` },
      h("p", { class: "way-label" }, label),
      h("p", { class: "way-value" }, octets(total(session, `${name}_octets`))),
      h("p", { class: "muted" }, `${count(total(session, `${name}_packets`))} packets`, rates ? ` · ${octets(Math.round(rates[name]))}/s` : ""),
    );
  const refused = REFUSED.map(([name, label]) => [label, total(session, name)]);
  update(
    place,
    h("div", { class: "ways" }, way("From the UE", "inbound", "in"), way("To the UE", "outbound", "out")),
    h("ul", { class: "refused" }, refused.map(([label, number]) => h("li", { class: number ? "bad-text" : "muted" }, `${label} `, h("strong", {}, count(number))))),
  );
}

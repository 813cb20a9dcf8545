// How it goes now: sessions, attaches, moves, what failed, how long things take, what is carried and dropped.

import { rest } from "./rest.js";
import { h, icon, replace, setText } from "./dom.js";
import { bitRate, count, duration, plural } from "./format.js";
import { card, listen, note, page, pill, renew, row, table } from "./pieces.js";
import { bars, timePlot } from "./plot.js";
import { whileVisible } from "./polling.js";
import { state } from "./state.js";

const INTERVAL = 1000;
const perSecond = (value) => (value >= 100 ? count(Math.round(value)) : String(Number(value.toFixed(value < 10 ? 2 : 1))));

export function mountOverview(main) {
  const tiles = {
    established: tile("sessions", "Sessions"),
    half: tile("half-open", "Half open"),
    attaches: tile("attaches", "Attaches per second"),
    moves: tile("moves", "Moves per second"),
    failures: tile("failures", "Failures per second"),
    uplink: tile("uplink", "Uplink"),
    downlink: tile("downlink", "Downlink"),
  };
  const rates = timePlot("Attaches, moves and failures per second", [{ name: "attaches", tone: 1 }, { name: "moves", tone: 0 }, { name: "failures", tone: "bad" }], perSecond, { left: 40, least: 1 });
  const carried = timePlot("Throughput of the data plane", [{ name: "uplink", tone: 3 }, { name: "downlink", tone: 2 }], bitRate, { left: 70, least: 1000 });
  const places = Object.fromEntries(["gateways", "outcomes", "times", "peers", "drops"].map((name) => [name, h("div", {})]));
  const whole = h("div", { class: "overview" },
    h("dl", { class: "tiles" }, Object.values(tiles).map((each) => each.element)),
    h("div", { class: "panels" },
      card("Attaches, moves and failures per second", rates.element, { name: "rates" }),
      card("Carried by the data plane", carried.element, { name: "carried" }),
      card("Attach results by cause", places.outcomes, { name: "outcomes" }),
      card("How long it takes", places.times, { name: "times" }),
      card("Sessions by gateway", places.gateways, { name: "gateways" }),
      card("Dropped by the data plane, by reason", places.drops, { name: "drops" }),
    ),
    card("Diameter peers", places.peers, { name: "peers", flush: true }));
  const shown = page("Overview", {}, whole);
  replace(main, shown.element);
  document.title = "Overview · ePDG dashboard";
  if (!state.mayRead) {
    replace(whole, note("key", "Sign in to see how it goes."));
    return () => {};
  }

  let known = false;
  async function load() {
    let overview;
    try {
      overview = await rest.get("/overview");
    } catch (problem) {
      whole.classList.add("stale");
      shown.say(problem.message);
      if (!known) whole.hidden = true;
      return;
    }
    known = true;
    whole.hidden = false;
    whole.classList.toggle("stale", !state.gatewayReachable);
    show(overview);
  }

  function show({ interval, sessions, series, outcomes, outage, attach, aaa, drops, peers }) {
    const rate = (list) => list.map((value) => value / interval);
    const bits = (list) => list.map((value) => (8 * value) / interval);
    const span = Math.round(interval * series.attaches.length);
    const away = !sessions.by_gateway.length;
    tiles.established.set(away ? "–" : count(sessions.established), away ? "no gateway answers" : plural(sessions.by_gateway.length, "gateway"));
    tiles.half.set(away ? "–" : count(sessions.half_open), "not proved yet");
    for (const name of ["attaches", "moves", "failures"]) tiles[name].set(perSecond(rate(series[name]).at(-1) ?? 0), `${count(Math.round(sum(series[name])))} in ${minutes(span)}`);
    tiles.failures.element.classList.toggle("bad", sum(series.failures) > 0);
    for (const name of ["uplink", "downlink"]) tiles[name].set(bitRate(bits(series[`${name}_octets`]).at(-1) ?? 0), `${bitRate(Math.max(0, ...bits(series[`${name}_octets`])))} at most`);
    rates.update([series.attaches, series.moves, series.failures].map(rate), interval);
    carried.update([series.uplink_octets, series.downlink_octets].map(bits), interval);
    renew(places.gateways, gateways(sessions.by_gateway));
    renew(places.outcomes, results(outcomes));
    renew(places.times, times([["Attach", attach], ["AAA round trip", aaa], ["Outage of a move", outage]]));
    renew(places.drops, droppedBy(drops));
    renew(places.peers, peerTable(peers));
    shown.say(`As it is now, and over the last ${minutes(span)}.`);
  }

  const stop = whileVisible(INTERVAL, load);
  const silent = listen([state, "refreshed", load]);
  return () => {
    stop();
    silent();
  };
}

const minutes = (seconds) => (seconds % 60 ? `${seconds} s` : plural(seconds / 60, "minute"));
const sum = (list) => list.reduce((total, value) => total + value, 0);

function tile(name, label) {
  const value = h("dd", { class: "tile-value" }, "–");
  const remark = h("dd", { class: "tile-remark" });
  return {
    element: h("div", { class: "tile", dataset: { tile: name } }, h("dt", {}, label), value, remark),
    set(number, text) {
      setText(value, number);
      setText(remark, text);
    },
  };
}

function gateways(list) {
  if (!list.length) return note("plug", state.nodes.some((node) => node.kind === "epdg") ? "No gateway answers." : "No gateway is configured: a node of kind epdg.");
  return bars(list.map(({ gateway, established, half_open: half }) => ({
    label: gateway, value: established, text: half ? `${count(established)} (+${count(half)} half open)` : count(established), tone: "plain",
    href: `#/sessions?${new URLSearchParams({ state: "established", gateway })}`, hint: "Its established sessions",
  })));
}

const GOOD = new Set(["success"]);

function results(outcomes) {
  const all = sum(outcomes.map((each) => each.count));
  if (!all) return note("plug", "No attach yet.");
  const good = sum(outcomes.filter((each) => GOOD.has(each.reason)).map((each) => each.count));
  return [
    h("p", { class: "lead" }, h("strong", {}, `${((100 * good) / all).toFixed(good === all ? 0 : 1)} %`), ` of ${plural(all, "attach", "attaches")} succeeded`),
    bars(outcomes.map(({ reason, count: number }) => ({
      label: reason, value: number, text: count(number), tone: GOOD.has(reason) ? "good" : "bad",
      href: GOOD.has(reason) ? "#/sessions?state=established" : `#/attempts?${new URLSearchParams({ outcome: reason })}`,
      hint: GOOD.has(reason) ? "The established sessions" : "These attaches, each with its sentence",
    }))),
    good < all && h("p", { class: "more-of-it" }, h("a", { href: "#/attempts", "data-key": "attempts" }, "Why they failed, in sentences")),
  ];
}

function times(rows) {
  const titles = ["", "p50", "p95", "p99", "Count"];
  return table("times", titles, rows.map(([label, found]) => row(titles, [
    h("strong", {}, label), ...["p50", "p95", "p99"].map((name) => (typeof found?.[name] === "number" ? duration(found[name]) : "–")), count(found?.count ?? 0),
  ])), { compact: true });
}

function droppedBy(drops) {
  if (!drops.length) return h("p", { class: "good-line" }, icon("check"), "Nothing was dropped.");
  const titles = ["Node", "Layer", "Reason", "Packets"];
  return table("drops", titles, drops.map((each) => row(titles, [each.node, each.layer, each.reason, count(each.count)])), { compact: true });
}

const total = (value) => (typeof value === "number" ? value : sum(Object.values(value ?? {})));

export function peerTable(peers) {
  if (!peers.length) return note("plug", "No Diameter peer: the gateway has no AAA server, or cannot be reached.");
  const titles = ["Node", "Peer", "State", "Watchdog", "Transport", "Sent", "Received", "Waiting", "Last trouble"];
  return table("peers", titles, peers.map((peer) => row(titles, [
    peer.node, h("span", { class: "break" }, peer.host),
    pill(/open/i.test(peer.state) ? "good" : "bad", peer.state), peer.watchdog, [peer.transport, peer.tls && "TLS"].filter(Boolean).join(", ") || "–",
    count(total(peer.sent)), count(total(peer.received)), count(peer.pending_requests ?? 0), peer.last_error ?? "–",
  ], { dataset: { peer: peer.host } })));
}

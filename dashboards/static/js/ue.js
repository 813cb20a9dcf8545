// One UE: its accesses, its connections, its traffic.

import { h, icon, replace, setText } from "./dom.js";
import { clock, count, duration, imsi, octets } from "./format.js";
import { action, note, perform, pill, renew, row, table } from "./pieces.js";
import { rest, word } from "./rest.js";
import { state } from "./state.js";

const TONES = { established: "good", attaching: "warn", closing: "warn" };
const HINTS = { weak: "weak", captive: "captive portal", down: "no connection" };
const MOVES_SHOWN = 8;

/** ``changed`` is called after every action; ``show`` takes an entry of GET /ues. */
export function ueCard(node, changed) {
  const path = word`/ues/${node}`;
  const title = h("h2", {});
  const doing = h("p", { class: "doing", role: "status" });
  const trouble = h("p", { class: "inline-trouble", role: "alert", hidden: true });
  const places = { accesses: h("div", {}), connections: h("div", { class: "stack" }), flows: h("div", {}) };
  const starter = trafficForm((flow) => carry("Starting traffic …", "/traffic", flow));
  const away = h("p", { class: "inline-trouble", hidden: true });
  const whole = h("div", { class: "card-body ue-body" },
    trouble, doing,
    h("section", { "aria-label": "Accesses" }, h("h3", {}, "Accesses"), places.accesses),
    h("section", { "aria-label": "Connections" }, h("h3", {}, "Connections"), places.connections),
    h("section", { "aria-label": "Traffic" }, h("h3", {}, "Traffic through the tunnel"), places.flows, starter.element));
  const element = h("section", { class: "card ue", "aria-label": `UE ${node}`, dataset: { ue: node } }, title, away, whole);

  const complain = (text) => {
    trouble.hidden = !text;
    setText(trouble, text ?? "");
  };

  async function carry(words, tail, body, confirm) {
    setText(doing, words);
    const answer = await perform(() => rest.post(path + tail, body), complain, { confirm, why: "This tells the UE to do something." });
    setText(doing, "");
    await changed();
    return answer;
  }

  async function stopFlow(id) {
    await perform(() => rest.remove(`${path}/traffic/${id}`), complain);
    await changed();
  }

  function access(name, own, ue) {
    const here = ue.sessions.some((session) => session.access === name && session.state === "established");
    const standing = ue.management?.accesses[name];
    const attached = ue.sessions.some((session) => session.state === "established");
    const lost = standing && !standing.available;
    return h("li", { class: `access ${here ? "here" : ""} ${lost ? "lost" : ""}`, dataset: { access: name } },
      h("p", { class: "access-head" }, icon("wifi"), h("strong", {}, name), here ? pill("good", "here") : own.open ? pill("warn", "open") : null, lost && pill("bad", "gone"), standing && HINTS[standing.hint] && pill("warn", HINTS[standing.hint]), !own.hears && h("span", { class: "badge", title: "Packets to this address are lost: for showing an unanswered check" }, "deaf")),
      h("p", { class: "mono muted" }, standing?.address ?? own.address, own.next_hop && ` by ${own.next_hop}`),
      h("p", { class: "row-actions" },
        attached
          ? action("Move here", () => carry(`Moving to ${name} …`, "/move", { to: name }), { key: `move-${name}`, unable: here ? "The UE is here" : "" })
          : action("Attach here", () => carry(`Attaching on ${name} …`, "/attach", { access: name }), { key: `attach-${name}`, primary: true }),
        standing && (lost
          ? action("Is back", () => carry(`${name} is back …`, word`/accesses/${name}/gained`, {}), { key: `gained-${name}` })
          : action("Is lost", () => carry(`${name} is lost …`, word`/accesses/${name}/lost`), { key: `lost-${name}` }))));
  }

  function connection(session) {
    const pdn = { pdn: session.apn };
    const up = session.state === "established" ? "" : "It is not attached";
    const ends = { title: `Detach ${session.apn}?`, text: "Its IKE SA is deleted; the traffic in it ends.", action: "Detach" };
    const button = (label, words, tail, more) => action(label, () => carry(words, tail, pdn, more?.confirm), { key: `${tail}-${session.apn}`, unable: up, danger: more?.danger });
    return h("article", { class: "connection", dataset: { pdn: session.apn } },
      h("p", { class: "connection-head" }, h("strong", {}, session.apn), pill(TONES[session.state] ?? "", session.state), session.inner_addresses.length ? h("span", { class: "mono" }, session.inner_addresses.join(", ")) : null,
        session.access && session.state === "established" && h("span", { class: "muted" }, `on ${session.access}`), session.ike?.nat?.local && h("span", { class: "badge" }, "behind a NAT"),
        session.state === "established" && h("a", { href: `#/sessions?${new URLSearchParams({ q: session.imsi })}`, "data-key": `sessions-${session.apn}` }, "At the gateway")),
      h("p", { class: "muted" }, figures(session)),
      session.last_error && h("p", { class: "bad-text" }, `${session.last_error.cause}: ${session.last_error.text}`),
      session.back_off && h("p", { class: "bad-text" }, `The network asked to be left alone${session.back_off.until === null ? "" : ` until ${clock(session.back_off.until)}`}.`),
      h("p", { class: "row-actions left" },
        session.state === "established"
          ? [button("Rekey IKE", "Rekeying the IKE SA …", "/rekey-ike"), button("Rekey child", "Rekeying the child SA …", "/rekey-child"), button("Liveness", "Asking the gateway whether it lives …", "/liveness"), button("Suspend", "Closing every access …", "/suspend"), button("Detach", "Detaching …", "/detach", { confirm: ends, danger: true })]
          : action("Attach", () => carry(`Attaching to ${session.apn} …`, "/attach", pdn), { key: `attach-${session.apn}`, unable: session.state === "attaching" ? "It is attaching" : "" })),
      session.moves.length > 0 && moves(session.moves));
  }

  return {
    element,
    show({ reachable, why, ue }) {
      away.hidden = reachable;
      setText(away, reachable ? "" : `${node} cannot be asked: ${why} This page goes on by itself when it is back.`);
      whole.classList.toggle("stale", !reachable);
      if (!ue) {
        setText(title, node);
        whole.hidden = !places.connections.childElementCount;
        return;
      }
      whole.hidden = false;
      renew(title, node, " ", h("span", { class: "mono muted" }, imsi(ue.imsi)), ue.persona && h("span", { class: "badge" }, ue.persona.name), ue.management?.automatic && h("span", { class: "badge", title: "It moves by itself where an access is better" }, "moves by itself"));
      renew(places.accesses, h("ul", { class: "accesses" }, Object.entries(ue.accesses).map(([name, own]) => access(name, own, ue))));
      renew(places.connections, ue.sessions.length ? ue.sessions.map(connection) : note("plug", "It has never been attached."));
      renew(places.flows, flows(ue.traffic, stopFlow));
      starter.suggest(ue.traffic.at(-1)?.destination);
      starter.possible(ue.sessions.filter((session) => session.state === "established").map((session) => session.apn));
    },
  };
}

function figures(session) {
  const words = [];
  if (session.state === "established" && session.established) words.push(`since ${clock(session.established)}`);
  if (session.attach?.seconds != null) words.push(`attached in ${duration(session.attach.seconds)} with ${session.attach.requests} requests`);
  if (session.ike?.suite) words.push(`IKE ${session.ike.suite}`);
  for (const child of session.child_sas) {
    if (child.suite) words.push(`ESP ${child.suite}`);
    if (child.counters) words.push(`${octets(child.counters.outbound_octets)} up, ${octets(child.counters.inbound_octets)} down`);
  }
  return words.join(" · ");
}

const kept = (value) => (value == null ? "–" : value ? "kept" : "changed");
const OUTCOMES = { completed: "good", pending: "warn" };

function moves(list) {
  const titles = ["Move", "Outcome", "Took", "Requests", "Inner address", "SPIs", "Began"];
  return table("ue-moves", titles, list.slice(-MOVES_SHOWN).reverse().map((move) => row(titles, [
    h("strong", {}, `${move.from} → ${move.to}`), pill(OUTCOMES[move.outcome] ?? "bad", move.outcome, move.why),
    move.update_seconds == null ? move.why ?? "–" : duration(move.update_seconds), move.retransmissions ? `${move.requests} (+${move.retransmissions} again)` : move.requests,
    kept(move.inner_address_unchanged), kept(move.spis_unchanged), clock(move.started),
  ], { dataset: { outcome: move.outcome } })));
}

const ms = (value) => (value == null ? "–" : value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`);
const both = (flow, name) => (flow.uplink && flow.downlink ? `${flow.uplink[name]} / ${flow.downlink[name]}` : null);

function flows(list, stop) {
  if (!list.length) return h("p", { class: "muted" }, "No flow yet.");
  const titles = ["Flow", "To", "Rate", "Sent", "Lost", "Longest silence", "Round trip", "MOS", ""];
  return table("flows", titles, [...list].sort((a, b) => b.running - a.running || b.id - a.id).map((flow) => row(titles, [
    h("span", {}, h("strong", {}, `${flow.id} `), flow.kind, " ", pill(flow.running ? "good" : "", flow.running ? "running" : "stopped")), h("span", { class: "mono" }, flow.destination), `${count(flow.rate)} / s`,
    flow.sent == null ? (flow.octets_sent == null ? both(flow, "sent") : octets(flow.octets_sent)) : count(flow.sent), flow.lost == null ? both(flow, "lost") : count(flow.lost),
    ms(flow.longest_gap_ms ?? flow.longest_stall_ms ?? (flow.uplink && Math.max(flow.uplink.longest_gap_ms, flow.downlink?.longest_gap_ms ?? 0))), ms(flow.rtt_average_ms ?? flow.rtt_ms),
    flow.mos ? [flow.mos.uplink, flow.mos.downlink].map((value) => value?.toFixed(2) ?? "–").join(" / ") : null,
    flow.running && action("Stop", () => stop(flow.id), { key: `stop-${flow.id}`, mark: "stop" }),
  ], { dataset: { flow: flow.id } })));
}

const FLOW_KINDS = [["icmp", "echo requests"], ["udp", "UDP"], ["voice", "a voice call"], ["tcp", "TCP"]];

/** The line that starts a flow; it is not drawn anew while one types in it. */
function trafficForm(start) {
  const kind = h("select", { "aria-label": "Kind of traffic" }, FLOW_KINDS.map(([value, label]) => h("option", { value }, label)));
  const destination = h("input", { type: "text", "aria-label": "Destination address", placeholder: "address behind the gateway", autocomplete: "off", spellcheck: "false" });
  const rate = h("input", { type: "number", "aria-label": "Packets per second", value: "20", min: "1", max: "2000" });
  const pdn = h("select", { "aria-label": "Connection", hidden: true });
  const submit = h("button", { type: "submit", class: "button" }, icon("play"), "Start");
  const element = h("form", { class: "traffic-form" }, kind, h("span", {}, "to"), destination, h("span", {}, "at"), rate, h("span", {}, "per second"), pdn, submit);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    start({ kind: kind.value, destination: destination.value.trim(), rate: Number(rate.value), ...(pdn.value ? { pdn: pdn.value } : {}) });
  });
  let shown = "";
  return {
    element,
    suggest(address) {
      if (address && !destination.value && document.activeElement !== destination) destination.value = address;
    },
    possible(apns) {
      const why = state.mayAct ? (apns.length ? "" : "The UE is not attached") : "Needs the role operator";
      submit.disabled = Boolean(why);
      submit.title = why;
      if (apns.join() === shown) return;
      shown = apns.join();
      pdn.hidden = apns.length < 2;
      replace(pdn, apns.map((apn) => h("option", { value: apn }, apn)));
    },
  };
}

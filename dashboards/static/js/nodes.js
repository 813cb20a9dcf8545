// Every node: what it is, since when it answers, what it carries and counts, and the Diameter peers of all.

import { rest } from "./rest.js";
import { h, icon, replace } from "./dom.js";
import { clock, count, duration, moment, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { card, listen, note, page, pill, renew } from "./pieces.js";
import { peerTable } from "./overview.js";
import { state } from "./state.js";

export const KINDS = { epdg: "Gateway", aaa: "AAA server", hss: "HSS", ue: "UE emulator", lab: "Laboratory" };

export function mountNodes(main) {
  const body = h("div", { class: "panels" });
  const peers = h("div", {});
  const probes = h("p", { class: "muted lead" }, "For probes: ", h("a", { href: "/healthz" }, "/healthz"), ", ", h("a", { href: "/readyz" }, "/readyz"), "; for Prometheus: ", h("a", { href: "/metrics" }, "/metrics"), "; for scripts: ", h("a", { href: "/docs" }, "the REST interface"), ".");
  const shown = page("Nodes", { nav: tabs("nodes", "#/nodes") }, body, card("Diameter peers", peers, { name: "peers", flush: true }), probes);
  replace(main, shown.element);
  document.title = "Nodes · ePDG dashboard";

  const show = () => {
    if (!state.mayRead) {
      renew(body, note("key", "Sign in to see the nodes."));
      return;
    }
    const away = state.nodes.filter((node) => !node.reachable);
    shown.say(`${plural(state.nodes.length, "node")}, ${away.length ? `${away.map((node) => node.name).join(", ")} away` : "all of them answer"}`);
    renew(body, state.nodes.map(nodeCard));
    renew(peers, peerTable(state.nodes.flatMap((node) => node.peers.map((peer) => ({ node: node.name, ...peer })))));
  };
  const silent = listen([state, "changed", show], [state, "refreshed", show]);
  show();
  return silent;
}

function nodeCard(node) {
  const { status } = node;
  const lines = [
    ["State", node.reachable ? pill("good", "answers") : pill("bad", "away")],
    [node.reachable ? "Answers since" : "Away since", clock(node.since)],
    !node.reachable && ["Why", node.why],
    ["Version", node.version ?? "not told"],
    node.started !== null && ["Started", `${moment(node.started)}${node.reachable ? `, ${duration(Date.now() / 1000 - node.started).replace(/ \d+ s$/, "")} ago` : ""}`],
    node.sessions && ["Sessions", `${count(node.sessions.established ?? 0)} established, ${count(node.sessions.attaching ?? 0)} attaching`],
    listening(status.listen) && ["Listens at", h("span", { class: "mono" }, listening(status.listen))],
    status.data_plane?.remark && ["Data plane", status.data_plane.remark],
    status.subscribers !== undefined && ["Subscribers", h("a", { href: `#/subscribers?node=${encodeURIComponent(node.name)}` }, count(status.subscribers))],
    typeof status.faults === "number" && ["Fault rules", h("a", { href: `#/faults?node=${encodeURIComponent(node.name)}` }, count(status.faults))],
    ["Seen in its trace", Object.entries(node.tally).filter(([, number]) => number).map(([name, number]) => plural(number, name.replace(/s$/, ""))).join(", ") || "nothing yet"],
    dropped(status.dropped) && ["Dropped", dropped(status.dropped)],
  ].filter(Boolean);
  return h("section", { class: "card", "aria-label": node.name, dataset: { card: `node-${node.name}` } }, h("h2", {}, node.name, " ", h("span", { class: "muted" }, KINDS[node.kind] ?? node.kind)),
    h("div", { class: "card-body" }, h("dl", { class: "facts" }, lines.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]))));
}

const listening = (value) => (Array.isArray(value) ? value.join(", ") : value);
const dropped = (layers) => Object.entries(layers ?? {}).flatMap(([layer, reasons]) => Object.entries(reasons ?? {}).map(([reason, number]) => (typeof number === "number" && number ? `${layer} ${reason}: ${count(number)}` : ""))).filter(Boolean).join(", ");

// Which node of a kind a page is about, where there are several.

import { h } from "./dom.js";
import { note } from "./pieces.js";
import { state } from "./state.js";

/** What ``node`` of the query names, the first one of these kinds without it; ``here`` is the page's address. */
function chosen(query, here, kinds, label) {
  const all = state.nodes.filter((node) => kinds.includes(node.kind));
  const named = query?.get("node") || undefined;
  const name = named ?? all[0]?.name;
  const choose = (event) => {
    location.hash = `${here}?node=${encodeURIComponent(event.currentTarget.value)}`;
  };
  return {
    name,
    parameters: named ? `?node=${encodeURIComponent(named)}` : "",
    element: all.length > 1 && h("select", { "aria-label": label, id: "server", onchange: choose }, all.map((node) => h("option", { value: node.name, selected: node.name === name }, node.name))),
  };
}

export const laboratories = (query, here) => chosen(query, here, ["lab"], "Laboratory");

export function servers(query, here) {
  const server = chosen(query, here, ["aaa", "hss"], "AAA server or HSS");
  return {
    ...server,
    /** Plain words where there is none, or where one may not look. */
    missing() {
      if (!state.mayRead) return note("key", "Sign in to see this.");
      if (!server.name) return note("plug", "No AAA server or HSS is configured.", "List one under nodes in the dashboard's configuration: kind aaa or hss, and its control socket.");
      return null;
    },
  };
}

/** For ``listen``: call ``load`` when a node that was away is back. */
export function whenBack(name, load) {
  let away = state.nodes.some((node) => node.name === name && !node.reachable);
  return [state.feed, "node", ({ detail: node }) => {
    if (node.name !== name) return;
    if (away && node.reachable) load();
    away = !node.reachable;
  }];
}

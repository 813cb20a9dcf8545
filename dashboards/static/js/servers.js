// Which AAA server or HSS a page is about, where there are several.

import { h } from "./dom.js";
import { note } from "./pieces.js";
import { state } from "./state.js";

/** What ``node`` of the query names, the first server without it; ``here`` is the page's address. */
export function servers(query, here) {
  const all = state.nodes.filter((node) => node.kind === "aaa" || node.kind === "hss");
  const named = query?.get("node") || undefined;
  const name = named ?? all[0]?.name;
  const choose = (event) => {
    location.hash = `${here}?node=${encodeURIComponent(event.currentTarget.value)}`;
  };
  return {
    name,
    parameters: named ? `?node=${encodeURIComponent(named)}` : "",
    element: all.length > 1 && h("select", { "aria-label": "AAA server or HSS", id: "server", onchange: choose }, all.map((node) => h("option", { value: node.name, selected: node.name === name }, node.name))),
    /** Plain words where there is none, or where one may not look. */
    missing() {
      if (!state.mayRead) return note("key", "Sign in to see this.");
      if (!all.length) return note("plug", "No AAA server or HSS is configured.", "List one under nodes in the dashboard's configuration: kind aaa or hss, and its control socket.");
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

// The emulator's UEs: where they are, what they carry; attach, move, detach, rekey, traffic.

import { h, replace } from "./dom.js";
import { rest } from "./rest.js";
import { tabs } from "./navigation.js";
import { fill, listen, note, page, unableNote } from "./pieces.js";
import { whileVisible } from "./polling.js";
import { state } from "./state.js";
import { plural } from "./format.js";
import { ueCard } from "./ue.js";

const INTERVAL = 1000;

export function mountUes(main) {
  const body = h("div", { class: "stack" });
  const shown = page("UEs", { nav: tabs("lab", "#/ues") }, unableNote(), body);
  const cards = new Map();
  replace(main, shown.element);
  document.title = "UEs · ePDG dashboard";
  if (!state.mayRead) {
    replace(body, note("key", "Sign in to see the UEs."));
    return () => {};
  }

  const load = () => fill(body, () => rest.get("/ues"), ({ ues }) => {
    const attached = ues.filter((each) => each.ue?.sessions.some((session) => session.state === "established")).length;
    shown.say(ues.length ? `${plural(ues.length, "UE")}, ${attached} attached` : "");
    if (!ues.length) {
      cards.clear();
      replace(body, h("div", { class: "card" }, note("wifi", "No UE is configured.", "List the emulator's control socket under nodes in the dashboard's configuration: kind ue. lab demo does so.")));
      return;
    }
    for (const each of ues) {
      if (!cards.has(each.node)) cards.set(each.node, ueCard(each.node, load));
      cards.get(each.node).show(each);
    }
    const wanted = ues.map((each) => cards.get(each.node).element);
    if (wanted.some((element, index) => body.children[index] !== element)) replace(body, wanted);
  });

  const stop = whileVisible(INTERVAL, load);
  const silent = listen([state, "refreshed", load]);
  return () => {
    stop();
    silent();
  };
}

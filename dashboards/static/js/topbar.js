// The bar on top with the sections; below it the nodes' health and what happens in numbers; and the notices.

import { h, icon, replace, setText } from "./dom.js";
import { clock, count, duration, plural } from "./format.js";
import { navigation } from "./navigation.js";
import { shortcut, showShortcuts } from "./shortcuts.js";
import { askToSignIn } from "./signin.js";
import { state } from "./state.js";

const KINDS = { epdg: "gateway", aaa: "AAA", hss: "HSS", ue: "UE emulator", lab: "laboratory" };
const AWAY = {
  epdg: (since) => `Sessions are shown as they were at ${since}; this page goes on by itself when it is back.`,
  aaa: () => "Subscribers and fault rules cannot be reached, and its part of the ladders is missing, until it is back.",
  hss: () => "Subscribers cannot be reached, and its part of the ladders is missing, until it is back.",
  ue: () => "Its part of the ladders is missing, and it cannot be told anything, until it is back.",
  lab: () => "Schedules cannot be started until it is back.",
};

export function mountTopbar(bar, strip, notices) {
  const nodes = h("ul", { class: "nodes", "aria-label": "Nodes" });
  const figures = {
    established: figure("sessions"),
    attaching: figure("attaching"),
    messages: figure("messages"),
    moves: figure("moves"),
    refusals: figure("refused"),
  };
  const account = h("button", { class: "button ghost account", id: "account", type: "button" });
  account.addEventListener("click", () =>
    state.signedIn ? state.signOut().catch(() => state.refresh()) : askToSignIn("The token lets you change things: detach sessions, run schedules, edit subscribers."),
  );
  const who = h("span", { class: "muted", id: "who", hidden: true });
  const whoIs = () => (state.name === state.role ? state.role : `${state.name} (${state.role})`) ?? "";
  const theme = h("button", { class: "button ghost square", type: "button", id: "theme", onclick: switchTheme });
  const keys = h("button", { class: "button ghost square keys-button", type: "button", id: "keys", title: "Keys (?)", "aria-label": "Show the keys", onclick: showShortcuts }, icon("keyboard"));
  replace(
    bar,
    h("a", { class: "brand", href: "#/", "aria-label": "ePDG dashboard" }, h("img", { src: "/static/icon.svg", alt: "", width: "28", height: "28" }), h("span", {}, "ePDG")),
    navigation(),
    h("div", { class: "bar-actions" }, h("a", { class: "button ghost api", href: "/docs" }, "API"), keys, theme, who, account),
  );
  replace(strip, nodes, h("dl", { class: "figures", "aria-label": "Live counters" }, Object.values(figures).map((item) => item.element)));
  showTheme(theme);
  shortcut("t", "Light or dark colours", () => theme.click());

  const show = () => {
    replace(nodes, state.nodes.map(nodeChip));
    const totals = sum(state.nodes);
    for (const [name, item] of Object.entries(figures)) item.set(totals[name]);
    figures.refusals.element.classList.toggle("bad", totals.refusals > 0);
    replace(account, icon(state.signedIn ? "out" : "key"), h("span", {}, state.signedIn ? "Sign out" : "Sign in"));
    account.setAttribute("aria-label", state.signedIn ? "Sign out" : "Sign in"); // a narrow bar shows the icon alone
    account.title = state.signedIn ? `Signed in as ${whoIs()}` : "";
    who.hidden = !state.signedIn;
    setText(who, whoIs());
    showNotices(notices);
  };
  state.addEventListener("changed", show);
  show();
}

function figure(label) {
  const value = h("dd", {}, "–");
  return {
    element: h("div", { class: "figure", dataset: { figure: label } }, h("dt", {}, label), value),
    set: (number) => setText(value, number === undefined ? "–" : count(number)),
  };
}

/** Messages are counted where every one of them passes: at the gateways. */
function sum(nodes) {
  const totals = {};
  const add = (name, number) => {
    totals[name] = (totals[name] ?? 0) + (number ?? 0);
  };
  for (const node of nodes.filter((each) => each.kind === "epdg")) {
    if (node.reachable) {
      add("established", node.sessions?.established);
      add("attaching", node.sessions?.attaching);
    }
    for (const name of ["messages", "moves", "refusals"]) add(name, node.tally[name]);
  }
  return totals;
}

function nodeChip(node) {
  const since = `${node.reachable ? "up" : "away"} since ${clock(node.since)}`;
  const version = node.version ? `, version ${node.version}` : "";
  const peers = node.peers.length ? `, ${plural(node.peers.length, "Diameter peer")}` : "";
  const title = `${KINDS[node.kind] ?? node.kind} ${node.name}: ${since}${version}${peers}${node.reachable ? "" : `. ${node.why}`}`;
  return h(
    "li",
    { class: `node ${node.reachable ? "up" : "down"}`, title, dataset: { node: node.name } },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h("span", { class: "node-name" }, node.name),
    h("span", { class: "node-state" }, node.reachable ? upFor(node) : "away"),
  );
}

function upFor(node) {
  return node.started ? duration(Date.now() / 1000 - node.started).replace(/ \d+ s$/, "") : "up";
}

function showNotices(place) {
  const shown = [];
  if (state.feed.started && !state.feed.connected) {
    shown.push(notice("bad", "plug", "server-away", "No connection to the dashboard's server.", "Trying again by itself; what you see may be old."));
  }
  if (!state.mayRead) {
    shown.push(
      notice(
        "info", "key", "sign-in-needed", "Reading needs a token here.", "Sign in to see the sessions.",
        h("button", { class: "button", type: "button", onclick: () => askToSignIn("Reading needs the token here.") }, "Sign in"),
      ),
    );
  }
  if (location.pathname === "/sign-in") {
    shown.push(
      notice("bad", "key", "link-wrong", "This sign-in link is not valid.", "Use the one that the server printed when it was last started.",
        h("a", { class: "button", href: "/" }, "Continue without")),
    );
  }
  for (const node of state.nodes.filter((each) => !each.reachable)) {
    shown.push(
      notice(node.kind === "epdg" ? "bad" : "warn", "plug", `away-${node.name}`, `The ${KINDS[node.kind] ?? node.kind} ${node.name} cannot be reached.`, AWAY[node.kind]?.(clock(node.since)) ?? ""),
    );
  }
  const signature = shown.map((element) => element.textContent).join("\n");
  if (place.dataset.signature !== signature) {
    place.dataset.signature = signature;
    replace(place, shown);
  }
}

function notice(tone, mark, name, title, text, action) {
  return h("div", { class: `notice ${tone}`, dataset: { notice: name } }, icon(mark), h("p", {}, h("strong", {}, title), " ", text), action);
}

function currentTheme() {
  return document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function switchTheme(event) {
  const theme = currentTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  showTheme(event.currentTarget);
}

function showTheme(button) {
  const other = currentTheme() === "dark" ? "light" : "dark";
  button.setAttribute("aria-label", `Switch to ${other} colours`);
  button.setAttribute("title", `Switch to ${other} colours`);
  replace(button, icon(other === "dark" ? "moon" : "sun"));
}

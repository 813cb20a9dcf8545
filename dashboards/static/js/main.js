// Start: theme, frame, feed, and the view that the fragment of the address names.

import { mountAaaSessions } from "./aaa_sessions.js";
import { mountAttempts } from "./attempts.js";
import { mountAudit } from "./audit.js";
import { replace } from "./dom.js";
import { mountFaults } from "./faults.js";
import { mountLab } from "./lab.js";
import { mountLabRun } from "./lab_run.js";
import { showPlace } from "./navigation.js";
import { mountNodes } from "./nodes.js";
import { mountOverview } from "./overview.js";
import { mountRuns } from "./runs.js";
import { mountSession } from "./session.js";
import { mountSessions } from "./sessions.js";
import { mountSubscriber, mountSubscribers } from "./subscribers.js";
import { state } from "./state.js";
import { mountTopbar } from "./topbar.js";
import { mountUes } from "./ues.js";

const NODE_EVENTS = "node,restarted";
const LAB_EVENTS = () => (state.nodes.some((node) => node.kind === "lab") ? `${NODE_EVENTS},lab-run` : NODE_EVENTS);

// path, mount(main, name, query), the section of the navigation, what the feed follows (null: the view tells it itself)
const PLACES = [
  [/^$/, mountOverview, "overview", NODE_EVENTS],
  [/^sessions$/, (main, _, query) => mountSessions(main, query), "sessions", null],
  [/^sessions\/([^/]+)$/, mountSession, "sessions", null],
  [/^attempts$/, mountAttempts, "sessions", NODE_EVENTS],
  [/^lab$/, mountLab, "lab", LAB_EVENTS],
  [/^lab\/runs\/([^/]+)$/, mountLabRun, "lab", LAB_EVENTS],
  [/^runs(?:\/([^/]+))?$/, mountRuns, "lab", NODE_EVENTS],
  [/^ues$/, mountUes, "lab", NODE_EVENTS],
  [/^subscribers$/, (main, _, query) => mountSubscribers(main, query), "subscribers", NODE_EVENTS],
  [/^subscribers\/([^/]+)$/, mountSubscriber, "subscribers", NODE_EVENTS],
  [/^faults$/, mountFaults, "subscribers", NODE_EVENTS],
  [/^aaa-sessions$/, mountAaaSessions, "subscribers", NODE_EVENTS],
  [/^nodes$/, mountNodes, "nodes", NODE_EVENTS],
  [/^audit$/, mountAudit, "nodes", NODE_EVENTS],
];

const saved = localStorage.getItem("theme");
if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;

const main = document.getElementById("main");
let leave = () => {};

function route() {
  leave();
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const found = PLACES.find(([pattern]) => pattern.test(path)) ?? PLACES[0];
  const [pattern, mount, section, events] = found;
  replace(main);
  window.scrollTo(0, 0);
  showPlace(section);
  document.title = "ePDG dashboard";
  leave = mount(main, named(pattern.exec(path)?.[1]), new URLSearchParams(query)) ?? (() => {});
  main.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (state.mayRead && events) state.feed.follow(typeof events === "function" ? events() : events);
}

function named(part) {
  try {
    return part === undefined ? undefined : decodeURIComponent(part);
  } catch {
    return part; // no percent-encoding: as it stands
  }
}

mountTopbar(document.getElementById("topbar"), document.getElementById("status"), document.getElementById("notices"));
await state.start();
route();
window.addEventListener("hashchange", (event) => {
  if (location.hash.startsWith("#/") || location.hash === "") {
    route();
    main.focus({ preventScroll: true }); // who reads by ear hears the new page
  } else event.preventDefault();
});
let couldRead = state.mayRead;
state.addEventListener("changed", () => {
  if (state.mayRead === couldRead) return;
  couldRead = state.mayRead;
  if (couldRead) route();
  else state.feed.stop();
});
setInterval(() => state.changed(), 10000);

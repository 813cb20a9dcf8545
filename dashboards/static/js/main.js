// Start: theme, top bar, feed, and the view that the fragment of the address names.

import { replace } from "./dom.js";
import { mountRuns } from "./runs.js";
import { mountSession } from "./session.js";
import { mountSessions } from "./sessions.js";
import { state } from "./state.js";
import { mountTopbar } from "./topbar.js";

const LIST_EVENTS = "node,restarted,session,session-gone";

const saved = localStorage.getItem("theme");
if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;

const main = document.getElementById("main");
let leave = () => {};

function route() {
  leave();
  const match = /^#\/sessions\/([^/]+)$/.exec(location.hash);
  const run = /^#\/runs(?:\/([^/]+))?$/.exec(location.hash);
  replace(main);
  window.scrollTo(0, 0);
  if (match) {
    leave = mountSession(main, decodeURIComponent(match[1]));
    if (state.mayRead) state.feed.follow(`${LIST_EVENTS},record`);
  } else if (run) {
    leave = mountRuns(main, run[1] && decodeURIComponent(run[1]));
    if (state.mayRead) state.feed.follow("node,restarted");
  } else {
    document.title = "ePDG dashboard";
    leave = mountSessions(main);
    if (state.mayRead) state.feed.follow(LIST_EVENTS);
  }
}

mountTopbar(document.getElementById("topbar"), document.getElementById("notices"));
await state.start();
route();
window.addEventListener("hashchange", (event) => {
  if (location.hash.startsWith("#/") || location.hash === "") route();
  else event.preventDefault();
});
let couldRead = state.mayRead;
state.addEventListener("changed", () => {
  if (state.mayRead === couldRead) return;
  couldRead = state.mayRead;
  if (couldRead) route();
  else state.feed.stop();
});
setInterval(() => state.changed(), 10000);

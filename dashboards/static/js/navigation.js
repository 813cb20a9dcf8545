// Where one can go: the sections, the tabs inside a section, and keys for both.

import { h, icon } from "./dom.js";
import { shortcut } from "./shortcuts.js";

const SECTIONS = [
  { name: "overview", label: "Overview", href: "#/", mark: "gauge", key: "o" },
  { name: "sessions", label: "Sessions", href: "#/sessions", mark: "list", key: "s" },
  { name: "lab", label: "Lab", href: "#/lab", mark: "flask", key: "l" },
  { name: "subscribers", label: "Subscribers", href: "#/subscribers", mark: "card", key: "u" },
  { name: "nodes", label: "Nodes", href: "#/nodes", mark: "nodes", key: "n" },
];

const TABS = {
  sessions: [["Sessions", "#/sessions"], ["Failed attaches", "#/attempts"]],
  lab: [["Schedules", "#/lab"], ["UEs", "#/ues"], ["Results", "#/runs"]],
  subscribers: [["Subscribers", "#/subscribers"], ["Fault rules", "#/faults"], ["AAA sessions", "#/aaa-sessions"]],
  nodes: [["Nodes", "#/nodes"], ["Audit log", "#/audit"]],
};

const links = new Map();

/** The list of sections. */
export function navigation() {
  for (const { name, label, href, mark, key } of SECTIONS) {
    links.set(name, h("a", { href, dataset: { section: name } }, icon(mark), h("span", {}, label)));
    shortcut(`g ${key}`, label, () => {
      location.hash = href;
    });
  }
  return h("nav", { class: "sections", "aria-label": "Sections of the dashboard" }, [...links.values()]);
}

/** Mark the section that is shown. */
export function showPlace(section) {
  for (const [name, link] of links) {
    if (name === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** The tabs of a section; ``here`` is the address of the one that is shown. */
export function tabs(section, here) {
  return h(
    "nav", { class: "tabs", "aria-label": `Parts of ${section}` },
    TABS[section].map(([label, href]) => h("a", { href, "aria-current": href === here ? "page" : null }, label)),
  );
}

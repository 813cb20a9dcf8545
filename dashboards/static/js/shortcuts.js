// Keys: one or two after each other; ? shows them, and there they can be switched off (WCAG 2.1, 2.1.4).

import { h } from "./dom.js";

const PATIENCE = 1200; // ms between two keys that belong together
const known = new Map();
let pending = "";
let timer = 0;

const enabled = () => localStorage.getItem("shortcuts") !== "off";

/** Make keys such as ``g o`` or ``/`` do something; the answer takes them away again. */
export function shortcut(keys, what, action) {
  known.set(keys, { what, action });
  return () => {
    if (known.get(keys)?.action === action) known.delete(keys);
  };
}

function take(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || !enabled()) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable]") || document.querySelector("dialog[open]")) return;
  if (event.key.length !== 1) return;
  clearTimeout(timer);
  const keys = pending ? `${pending} ${event.key}` : event.key;
  pending = "";
  const found = known.get(keys) ?? known.get(event.key);
  if (found) {
    event.preventDefault();
    found.action();
  } else if ([...known.keys()].some((each) => each.startsWith(`${event.key} `))) {
    pending = event.key;
    timer = setTimeout(() => {
      pending = "";
    }, PATIENCE);
  }
}

/** The dialog that ? opens. */
export function showShortcuts() {
  const before = document.activeElement;
  const box = h("input", { type: "checkbox", id: "shortcuts-on", checked: enabled(), onchange: () => localStorage.setItem("shortcuts", box.checked ? "on" : "off") });
  const dialog = h(
    "dialog", { class: "dialog", id: "shortcuts-dialog", "aria-labelledby": "shortcuts-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "shortcuts-title" }, "Keys"),
      h("dl", { class: "keys" }, [...known].map(([keys, { what }]) => [
        h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, what),
      ])),
      h("label", { class: "switch" }, box, h("span", {}, "Keys are on")),
      h("div", { class: "dialog-actions" }, h("button", { class: "button primary", value: "close" }, "Close"))),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    before?.focus?.();
  });
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("keydown", take);
shortcut("?", "Show these keys", showShortcuts);
shortcut("/", "Search", () => document.querySelector("main input[type=search]")?.focus());

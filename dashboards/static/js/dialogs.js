// Ask for what an action needs, in a dialog: texts, choices, or only whether one is sure.

import { h } from "./dom.js";

/**
 * The values by name, or null when it was called off. A field is `{ name, label, hint, placeholder, pattern, required }`,
 * or a choice with `options: [[value, label], …]`, the first one chosen.
 */
export function ask({ title, text, fields = [], action, danger = false }) {
  return new Promise((resolve) => {
    const form = h("form", { method: "dialog" },
      h("h2", { id: "confirm-title" }, title),
      h("p", { class: "muted" }, text),
      fields.map((field) => (field.options ? choice(field) : entry(field))),
      h("div", { class: "dialog-actions" },
        h("button", { class: "button", value: "cancel", formnovalidate: true }, "Cancel"),
        h("button", { class: `button ${danger ? "danger" : "primary"}`, value: "confirm", id: "confirm" }, action)));
    const dialog = h("dialog", { class: "dialog", id: "confirm-dialog", "aria-labelledby": "confirm-title" }, form);
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "confirm" ? Object.fromEntries(new FormData(form)) : null;
      dialog.remove();
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("input:not([type=radio])") ?? form.querySelector("#confirm")).focus();
  });
}

function entry({ name, label, hint, placeholder, pattern, required = false }) {
  const id = `ask-${name}`;
  return [
    h("label", { for: id }, label),
    h("input", { class: "entry-field", type: "text", id, name, placeholder, pattern, required, autocomplete: "off", spellcheck: "false", "aria-describedby": hint && `${id}-hint` }),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
  ];
}

function choice({ name, label, options }) {
  return h("fieldset", { class: "causes" }, h("legend", {}, label), options.map(([value, text], index) =>
    h("label", {}, h("input", { type: "radio", name, value, checked: index === 0 }), h("span", {}, text))));
}

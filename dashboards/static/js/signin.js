// Signing in: a dialog that takes the token, wherever something needs it.

import { h, icon } from "./dom.js";
import { state } from "./state.js";

export function askToSignIn(why) {
  return new Promise((resolve) => {
    const field = h("input", { type: "password", id: "token", name: "token", autocomplete: "off", spellcheck: "false", required: true, maxlength: "512" });
    const trouble = h("p", { class: "trouble", role: "alert" });
    const dialog = h(
      "dialog",
      { class: "dialog", id: "sign-in-dialog", "aria-labelledby": "sign-in-title" },
      h(
        "form",
        { method: "dialog" },
        h("div", { class: "dialog-mark" }, icon("key")),
        h("h2", { id: "sign-in-title" }, "Sign in"),
        h("p", { class: "muted" }, why),
        h("label", { for: "token" }, "Token"),
        field,
        h("p", { class: "hint" }, "Or open the link that ", h("code", {}, "dashboards serve"), " printed when it started."),
        trouble,
        h(
          "div",
          { class: "dialog-actions" },
          h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel"),
          h("button", { type: "submit", class: "button primary" }, "Sign in"),
        ),
      ),
    );
    let done = false;
    dialog.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await state.signIn(field.value.trim());
        done = true;
        dialog.close();
      } catch (problem) {
        trouble.textContent = problem.message;
        field.select();
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(done);
    });
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}

export function confirmAction({ title, text, action }) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { class: "dialog", id: "confirm-dialog", "aria-labelledby": "confirm-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "confirm-title" }, title),
        h("p", { class: "muted" }, text),
        h(
          "div",
          { class: "dialog-actions" },
          h("button", { class: "button", value: "cancel" }, "Cancel"),
          h("button", { class: "button danger", value: "confirm", id: "confirm" }, action),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "confirm");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

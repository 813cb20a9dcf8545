// The evidence bundle of a session: one click, one file; with its keys only for who may have them.

import { api } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { state } from "./state.js";

export function mountEvidence(place, id, tell) {
  const button = h("button", { type: "button", class: "button", id: "evidence", title: "Capture, Wireshark profile, ladder, trace and result, in one file", onclick: () => fetchBundle(button, keys.checked) }, icon("download"), "Evidence");
  const keys = h("input", { type: "checkbox", id: "evidence-keys" });
  const offer = h("label", { class: "switch", hidden: true, title: "SK_* and the ESP keys, so that Wireshark decrypts the capture" }, keys, h("span", {}, "with keys"));
  replace(place, offer, button);

  async function fetchBundle(pressed, withKeys) {
    pressed.disabled = true;
    pressed.setAttribute("aria-busy", "true");
    tell("");
    try {
      const { content, name } = await api.evidence(id, withKeys);
      const address = URL.createObjectURL(content);
      h("a", { href: address, download: name ?? `${id}.zip` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60000);
    } catch (problem) {
      tell(`No evidence: ${problem.message}`);
      if (problem.status === 401) state.refresh();
    }
    pressed.removeAttribute("aria-busy");
    pressed.disabled = false;
  }

  return {
    show() {
      offer.hidden = !(state.signedIn && state.role === "operator");
      if (offer.hidden) keys.checked = false;
    },
  };
}

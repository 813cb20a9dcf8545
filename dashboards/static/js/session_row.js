// One row of the list of sessions.

import { breakable, h, replace, setText } from "./dom.js";
import { clock, duration, imsi } from "./format.js";

const FLASH = 1200; // milliseconds

export function statePill(value) {
  return h("span", { class: `pill ${value}` }, h("span", { class: "dot", "aria-hidden": "true" }), value);
}

export function sessionRow(first) {
  let session = null;
  let said = "";
  let fading = 0;
  const href = `#/sessions/${encodeURIComponent(first.id)}`;
  const link = h("a", { class: "row-link mono", href });
  const cells = {
    state: h("td", { class: "cell-state" }),
    imsi: h("td", { class: "cell-imsi" }, link),
    apn: h("td", { class: "cell-apn", "data-label": "APN" }),
    inner: h("td", { class: "cell-inner mono", "data-label": "Inner" }),
    outer: h("td", { class: "cell-outer", "data-label": "Outer" }),
    moves: h("td", { class: "cell-moves number", "data-label": "Moves" }),
    time: h("td", { class: "cell-time number", "data-label": "For" }),
  };
  const element = h("tr", { dataset: { session: first.id }, onclick: (event) => {
    if (event.target.closest("a") || getSelection()?.toString()) return;
    location.hash = href;
  } }, Object.values(cells));

  function tick() {
    const since = session.established ?? session.created;
    setText(cells.time, session.state === "closed" ? clock(session.created) : duration(Math.floor(Date.now() / 1000 - since)).replace(/^(\d+)\.\d s$/, "$1 s").replace(/^0\.0 ms$/, "0 s"));
  }

  function show(value) {
    session = value;
    tick();
    const remote = value.ike?.path?.remote ?? value.paths.at(-1)?.remote ?? "–";
    const moves = String(Math.max(0, value.paths.length - 1));
    const now = [value.state, value.imsi, value.apn, value.inner_addresses, remote, value.ike?.nat?.remote, value.last_error?.cause, value.last_error?.text, moves].join("\n");
    if (now === said) return;
    said = now;
    replace(cells.state, statePill(value.state));
    setText(link, imsi(value.imsi));
    setText(cells.apn, value.apn ?? "–");
    setText(cells.inner, value.inner_addresses.join(", ") || "–");
    replace(cells.outer, h("span", { class: "mono" }, remote), value.ike?.nat?.remote && h("span", { class: "badge" }, "NAT"), value.last_error && h("span", { class: "badge bad", title: value.last_error.text }, h("span", {}, breakable(value.last_error.cause))));
    setText(cells.moves, moves);
  }

  return {
    element,
    link,
    tick,
    show,
    get session() {
      return session;
    },
    /** Stand out for a moment: without an animation, which would have the browser paint all the time while rows change. */
    flash() {
      clearTimeout(fading);
      element.classList.add("flash");
      fading = setTimeout(() => element.classList.remove("flash"), FLASH);
    },
  };
}

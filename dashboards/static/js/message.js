// What one row of the ladder holds: its facts, its payloads decoded as a tree, and their octets.

import { split } from "./arrows.js";
import { api } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { duration, moment, offset } from "./format.js";
import { dump, light } from "./octets.js";

const WIDE = 560; // pixels from which sixteen octets stand in a row
const BESIDE = new Set(["name", "type", "octets"]); // shown as the payload's heading and as its dump

export function mountDetail(drawer, session, close) {
  let shown = null; // id and what it was made of, so that a live ladder does not disturb a reader
  let body = null; // the record behind the message, once it is here

  function show(entry, start) {
    const signature = JSON.stringify(entry);
    if (shown?.id === entry.id && shown.signature === signature) return;
    const same = shown?.id === entry.id;
    shown = { id: entry.id, signature };
    if (!same) body = null;
    light([]);
    const content = h("div", { class: "content" });
    replace(drawer, panel(entry, start, content, close));
    if (entry.kind !== "message") {
      fill(content, { detail: entry.detail });
    } else if (body) {
      fill(content, body);
    } else {
      replace(content, h("p", { class: "muted" }, "Fetching the payloads …"));
      fetchBody(entry, content);
    }
    if (!same) drawer.querySelector(".drawer-head button")?.focus({ preventScroll: true });
  }

  async function fetchBody(entry, content) {
    try {
      const message = await api.message(session, entry.id);
      if (shown?.id !== entry.id) return;
      body = message.body;
      fill(drawer.querySelector(".content"), body);
    } catch (problem) {
      if (shown?.id !== entry.id) return;
      fill(content, { detail: entry.detail });
      content.prepend(h("p", { class: "muted", role: "status" }, problem.status === 404 ? "The trace has forgotten its octets." : problem.message));
    }
  }

  return {
    show,
    hide() {
      shown = body = null;
      light([]);
      replace(drawer);
    },
  };
}

function panel(entry, start, content, close) {
  const { name, rest } = split(entry);
  const facts = [
    ["Time", `${moment(entry.wall)} (${offset(entry.wall - start)} s)`],
    entry.kind === "message" && ["Way", h("span", {}, `${entry.from ?? "?"} → ${entry.to ?? "?"}`, entry.interface && h("span", { class: "badge" }, entry.interface))],
    entry.peer && ["Peer", entry.peer],
    entry.transit !== null && ["In transit", duration(Math.max(0, entry.transit))],
    entry.kind === "message" && ["Arrived", entry.arrived === null ? "not known" : entry.arrived ? "yes" : "no: its receiver never recorded it"],
    entry.retransmission && ["Sent", "again (retransmission)"],
    ["Recorded by", entry.seen_by.join(", ")],
  ].filter(Boolean);
  return h(
    "aside",
    { class: "drawer", id: "detail", "aria-label": "Details" },
    h("div", { class: "drawer-head" }, h("div", {}, h("p", { class: "eyebrow" }, entry.kind === "message" ? entry.protocol ?? "message" : entry.kind), h("h2", {}, name)),
      h("button", { type: "button", class: "button ghost square", "aria-label": "Close", onclick: close }, icon("close"))),
    rest && h("p", { class: "notation mono" }, entry.kind === "message" ? notation(rest) : rest),
    h("dl", { class: "facts" }, facts.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)])),
    content,
  );
}

function fill(content, body) {
  const { payloads, ...rest } = body.detail ?? {};
  replace(
    content,
    Array.isArray(payloads) && payloads.length > 0 && payloadTree(content, payloads),
    Object.keys(rest).length > 0 && h("div", { class: "tree" }, h("h3", {}, Array.isArray(payloads) ? "Header" : "Content"), tree(rest)),
  );
}

function payloadTree(content, payloads) {
  const width = content.clientWidth >= WIDE ? 16 : 8;
  return h("div", { class: "tree" }, h("h3", {}, "Payloads"), h("p", { class: "hint" }, "Octets are those after each payload's generic header, out of the encryption."),
    h("ol", { class: "payloads" }, payloads.map((payload, index) => h("li", {}, payloadView(payload, width, index)))));
}

function payloadView(payload, width, index) {
  const members = Object.fromEntries(Object.entries(payload).filter(([name]) => !BESIDE.has(name)));
  const octets = typeof payload.octets === "string" ? payload.octets : "";
  const lines = octets ? dump(octets, width) : null;
  const view = h("details", { class: `payload-view tone-${index % 5}`, open: true, dataset: { payload: payload.name ?? payload.type } },
    h("summary", {}, h("span", { class: "payload-name mono" }, payload.name ?? payload.type), h("span", { class: "muted number" }, `${octets.length / 2} octets`)),
    Object.keys(members).length > 0 && tree(members, lines),
    lines?.element);
  return view;
}

/** Payloads one below the other; commas inside parentheses do not separate. */
function notation(rest) {
  const inner = /^[[{]\s*(.*?)\s*[\]}]$/.exec(rest)?.[1];
  if (inner === undefined) return rest;
  const parts = [];
  let depth = 0;
  let part = "";
  for (const character of inner) {
    if (character === "(") depth += 1;
    if (character === ")") depth -= 1;
    if (character === "," && depth === 0) {
      parts.push(part.trim());
      part = "";
    } else part += character;
  }
  if (part.trim()) parts.push(part.trim());
  return parts.length ? parts.map((text) => h("span", { class: "payload" }, text)) : "no payloads";
}

/** A value as nested lists; a leaf whose octets stand in the dump lights them up. */
function tree(value, lines) {
  if (Array.isArray(value)) {
    if (value.every((item) => item === null || typeof item !== "object")) return leaf(value.map(String).join(", ") || "empty", lines);
    return h("ol", { class: "branches" }, value.map((item) => h("li", {}, tree(item, lines))));
  }
  if (value !== null && typeof value === "object") {
    return h("dl", { class: "branches" }, Object.entries(value).map(([key, item]) => [h("dt", {}, key), h("dd", {}, tree(item, lines))]));
  }
  return leaf(value === null ? "–" : String(value), lines);
}

function leaf(text, lines) {
  const ranges = lines?.ranges(text) ?? [];
  if (!ranges.length) return h("span", { class: "mono leaf" }, text);
  const on = () => light(ranges);
  const off = () => light([]);
  return h("span", { class: "mono leaf placed", tabindex: "0", title: "Shows where it stands in the octets", onpointerenter: on, onpointerleave: off, onfocus: on, onblur: off }, text);
}

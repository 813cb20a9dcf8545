// One row of the ladder as SVG: a message's arrow, an event's band, a change of state, a silence.

import { s } from "./dom.js";
import { duration, offset } from "./format.js";
import { FONT, cut, fit, measure } from "./textfit.js";

export const ROW = { message: 40, event: 44, state: 26, gap: 30 };
const HEAD = 7; // length of an arrow head
const LOST_AT = 0.72; // of its way, where the arrow of a lost message ends
const NARROW = 620;
const INTERFACES = [["UE", "ePDG", "SWu"], ["ePDG", "AAA", "SWm"], ["AAA", "HSS", "SWx"]];
const SHARES = {
  wide: { 3: [0, 0.6, 1], 4: [0, 0.46, 0.78, 1] },
  narrow: { 3: [0, 0.63, 1], 4: [0, 0.46, 0.78, 1] },
};
const TONES = {
  attached: "good",
  moved: "good",
  "liveness-answered": "good",
  "path-check-answered": "good",
  refused: "bad",
  "address-update-failed": "bad",
  "aaa-unreachable": "bad",
  "str-failed": "bad",
  "attach-ended": "bad",
  "move-failed": "bad",
  "liveness-unanswered": "bad",
  "path-check-unanswered": "bad",
};

export const tone = (event) => TONES[event.name] ?? "quiet";

/** Where things are, for the width there is. */
export function layout(width, columns) {
  const narrow = width < NARROW;
  const gutter = narrow ? 48 : 84;
  const right = narrow ? 24 : 44;
  const left = gutter + (narrow ? 18 : 34);
  const span = width - left - right;
  const shares = SHARES[narrow ? "narrow" : "wide"][columns.length] ?? columns.map((_, index) => index / Math.max(1, columns.length - 1));
  const at = new Map(columns.map((name, index) => [name, Math.round(left + span * shares[index])]));
  return { width, narrow, gutter, at, columns };
}

export function drawHead(head, where) {
  const height = 52;
  head.setAttribute("width", where.width);
  head.setAttribute("height", height);
  head.setAttribute("viewBox", `0 0 ${where.width} ${height}`);
  const half = where.narrow ? 22 : 31;
  const apart = (from, to) => where.at.get(to) - where.at.get(from) > 2 * half + 30;
  head.replaceChildren(
    s("text", { class: "axis", x: 10, y: 31 }, where.narrow ? "s" : "seconds"),
    ...INTERFACES.filter(([from, to]) => where.at.has(from) && where.at.has(to) && apart(from, to)).map(([from, to, name]) =>
      s("text", { class: `interface ${name}`, x: (where.at.get(from) + where.at.get(to)) / 2, y: 31, "text-anchor": "middle" }, name)),
    ...where.columns.map((name) => {
      const x = Math.min(where.at.get(name), where.width - half - 2);
      return s("g", { class: `column column-${name}` }, s("rect", { x: x - half, y: 12, width: half * 2, height: 28, rx: 8 }), s("text", { x, y: 31, "text-anchor": "middle" }, name));
    }),
  );
}

/** The row's group; `start` is the wall time that the gutter counts from. */
export function drawRow(item, where, start) {
  const height = ROW[item.kind];
  if (item.kind === "gap") return drawGap(item, where, height);
  const group = s("g", {
    class: `item ${item.kind}`,
    role: "button",
    "aria-label": `${offset(item.wall - start)} seconds: ${describe(item)}`,
    dataset: { entry: item.id, name: item.name },
  });
  group.append(s("rect", { class: "hit", x: 0, y: 0, width: where.width, height }));
  if (item.kind === "message") drawMessage(group, item, where, height, start);
  else if (item.kind === "event") drawEvent(group, item, where, height, start);
  else drawState(group, item, where, height);
  return group;
}

function describe(item) {
  if (item.kind !== "message") return item.text;
  return `${item.from ?? "?"} to ${item.to ?? "?"}, ${item.text}${item.retransmission ? ", retransmission" : ""}${item.arrived === false ? ", lost" : ""}`;
}

function time(item, where, start, y) {
  return s("text", { class: "time", x: where.gutter - 8, y, "text-anchor": "end" }, offset(item.wall - start));
}

function drawMessage(group, item, where, height, start) {
  const y = height - 10;
  const from = where.at.get(item.from);
  const to = where.at.get(item.to);
  group.append(time(item, where, start, y - 8));
  if (from === undefined || to === undefined) {
    const x = from ?? to ?? where.at.get("ePDG");
    group.append(s("circle", { class: "note-dot", cx: x, cy: y - 4, r: 4 }), label(item, x + 10, y, where.width - x - 20, where));
    return;
  }
  const lost = item.arrived === false;
  group.classList.add(item.interface ?? "other", ...(item.retransmission ? ["retransmission"] : []), ...(lost ? ["lost"] : []));
  const direction = Math.sign(to - from);
  const end = lost ? from + (to - from) * LOST_AT : to - direction * 2;
  group.append(
    s("line", { class: "shaft", x1: from + direction * 2, x2: end - direction * (lost ? 0 : HEAD - 1), y1: y, y2: y }),
    lost
      ? s("path", { class: "lost-mark", d: `M${end - 4.5} ${y - 4.5}l9 9m0-9l-9 9` })
      : s("path", { class: "head", d: `M${end} ${y}l${-direction * HEAD * 1.3} ${-HEAD * 0.62}v${HEAD * 1.24}z` }),
    s("circle", { class: "origin", cx: from, cy: y, r: 2.6 }),
  );
  const margin = where.narrow ? 7 : 12;
  group.append(label(item, Math.min(from, to) + margin, y - 8, Math.abs(to - from) - 2 * margin, where));
}

/** A label as long as there is room for: the name first, then the mark, then the payloads. */
function label(item, x, y, room, where) {
  const { name, rest } = split(item);
  const short = where.narrow ? name.replace(" request ", " req ").replace(" response ", " resp ") : name;
  const mark = where.narrow ? "" : [item.arrived === false && "lost", item.retransmission && "retransmitted"].filter(Boolean).join(", ");
  const shown = fit(short, room, where.narrow ? FONT.small : FONT.name);
  const parts = [s("tspan", { class: "label-name" }, shown)];
  let left = room - measure(shown, FONT.name) - 6;
  if (mark && measure(mark, FONT.name) < left) {
    parts.push(s("tspan", { class: "label-mark", dx: 6 }, mark));
    left -= measure(mark, FONT.name) + 6;
  }
  const payloads = where.narrow ? "" : fit(rest, left, FONT.rest);
  if (payloads.length > 6 || payloads === rest) parts.push(s("tspan", { class: "label-rest", dx: 6 }, payloads));
  return s("text", { class: "label", x, y }, parts);
}

function drawEvent(group, item, where, height, start) {
  group.classList.add(tone(item));
  const first = where.gutter;
  const width = where.width - first - 8;
  const name = item.name.replaceAll("-", " ");
  const room = width - 28 - measure(name, FONT.name) - 8;
  group.append(
    s("rect", { class: "band", x: first, y: 7, width, height: height - 14, rx: 8 }),
    s("rect", { class: "band-edge", x: first, y: 7, width: 4, height: height - 14, rx: 2 }),
    time(item, where, start, height / 2 + 4),
    s("text", { class: "band-text", x: first + 16, y: height / 2 + 4.5 }, s("tspan", { class: "band-name" }, name), s("tspan", { class: "band-rest", dx: 8 }, fit(item.text, room, FONT.band))),
  );
}

function drawState(group, item, where, height) {
  const anchor = where.at.get(item.from) ?? where.gutter;
  const text = cut(item.text.replace(/ \(.*\)$/, ""), where.narrow ? 26 : 48);
  const width = measure(text, FONT.state) + 20;
  const x = Math.min(Math.max(anchor - width / 2, where.gutter), where.width - width - 4);
  group.append(s("rect", { class: "state-pill", x, y: 4, width, height: height - 8, rx: 9 }), s("text", { class: "state-text", x: x + width / 2, y: height / 2 + 3.5, "text-anchor": "middle" }, text));
}

function drawGap(item, where, height) {
  const middle = where.gutter + (where.width - where.gutter) / 2;
  return s(
    "g",
    { class: "gap", "aria-hidden": "true" },
    s("rect", { class: "gap-cover", x: where.gutter, y: 4, width: where.width - where.gutter, height: height - 8 }),
    s("text", { class: "gap-text", x: middle, y: height / 2 + 4, "text-anchor": "middle" }, `${duration(item.seconds)} later`),
  );
}

/** `IKE_AUTH request 1 [ IDi, … ]` into the name and the rest. */
export function split(item) {
  if (item.kind !== "message") return { name: item.kind === "event" ? item.name.replaceAll("-", " ") : item.name, rest: item.text };
  const at = item.text.search(/[[{(]/);
  if (at > 0) return { name: item.text.slice(0, at).trim(), rest: item.text.slice(at).trim() };
  return item.text.startsWith(item.name) ? { name: item.name, rest: item.text.slice(item.name.length).trim() } : { name: item.name, rest: item.text };
}

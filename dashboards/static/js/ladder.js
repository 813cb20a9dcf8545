// The message ladder: lifelines of UE, ePDG and AAA, an arrow for every message, a band for every event.

import { h, icon, replace, s, setText } from "./dom.js";
import { clock, duration, moment, offset, plural } from "./format.js";

const ROW = { message: 40, event: 44, state: 26, gap: 30 };
const TOP = 14;
const GAP = 2.0; // seconds of silence that are worth showing
const HEAD = 7; // length of an arrow head
const NARROW = 620;
const EVENT_MARK = {
  attached: "good",
  moved: "good",
  refused: "bad",
  "address-update-failed": "bad",
  "aaa-unreachable": "bad",
  "str-failed": "bad",
  "attach-ended": "bad",
};

export function mountLadder(place, drawer) {
  let value = null;
  let names = new Set();
  let chosen = null;
  let following = true;
  const drawn = new Map();

  const summary = h("p", { class: "muted", id: "ladder-summary" });
  const eap = h("input", { type: "checkbox", id: "show-eap", checked: true, onchange: () => draw() });
  const states = h("input", { type: "checkbox", id: "show-states", onchange: () => draw() });
  const follow = h("input", { type: "checkbox", id: "follow", checked: true, onchange: () => {
    following = follow.checked;
    if (following) toEnd();
  } });
  const head = s("svg", { class: "ladder-head", role: "presentation" });
  const picture = s("svg", { class: "ladder", role: "group", "aria-label": "Messages in order" });
  const scroller = h("div", { class: "ladder-scroll", tabindex: "-1" }, h("div", { class: "ladder-sticky" }, head), picture);
  const empty = h("p", { class: "empty", hidden: true });
  replace(
    place,
    h(
      "div",
      { class: "ladder-bar" },
      h("div", {}, h("h2", {}, "Message ladder"), summary),
      h("div", { class: "ladder-tools" }, legend(), h("label", { class: "switch" }, eap, h("span", {}, "EAP")), h("label", { class: "switch" }, states, h("span", {}, "States")), h("label", { class: "switch" }, follow, h("span", {}, "Follow"))),
    ),
    empty,
    scroller,
  );

  const watcher = new ResizeObserver(() => draw());
  watcher.observe(scroller);
  scroller.addEventListener("scroll", () => {
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 24;
    if (following && !atEnd && !moving) follow.checked = following = false;
  });
  let moving = false;
  function toEnd() {
    moving = true;
    scroller.scrollTop = scroller.scrollHeight;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      moving = false;
    }));
  }
  const onKey = (event) => {
    if (event.key === "Escape" && chosen && !document.querySelector("dialog[open]")) choose(null);
  };
  document.addEventListener("keydown", onKey);

  /** Where things are, for the width there is. */
  function layout(width) {
    const narrow = width < NARROW;
    const gutter = narrow ? 48 : 84;
    const right = narrow ? 24 : 44;
    const columns = value.columns;
    const left = gutter + (narrow ? 18 : 34);
    const span = width - left - right;
    const shares = columns.length === 3 ? (narrow ? [0, 0.63, 1] : [0, 0.6, 1]) : [0, 0.46, 0.78, 1];
    const at = new Map(columns.map((name, index) => [name, Math.round(left + span * shares[index])]));
    return { width, narrow, gutter, at, columns };
  }

  function rows() {
    const listed = [];
    let previous = null;
    for (const entry of value.entries) {
      if (entry.kind === "state" && !states.checked) continue;
      if (entry.interface === "EAP" && !eap.checked) continue;
      if (previous !== null && entry.wall - previous > GAP) listed.push({ kind: "gap", id: `gap-${entry.id}`, seconds: entry.wall - previous });
      previous = entry.wall;
      listed.push(entry);
    }
    return listed;
  }

  function draw() {
    const width = Math.floor(scroller.clientWidth);
    if (!value || width === 0) return;
    const where = layout(width);
    const listed = rows();
    const start = value.entries[0]?.wall ?? 0;
    let y = TOP;
    const present = new Set();
    const order = [];
    for (const item of listed) {
      const height = ROW[item.kind];
      const signature = `${width}|${JSON.stringify(item)}|${start}`;
      present.add(item.id);
      let known = drawn.get(item.id);
      if (!known || known.signature !== signature) {
        const group = drawItem(item, where, height, start);
        const fresh = !known && drawn.size > 0;
        if (fresh) group.classList.add("fresh");
        known?.group.remove();
        known = { group, signature };
        drawn.set(item.id, known);
      }
      known.group.setAttribute("transform", `translate(0 ${y})`);
      known.group.classList.toggle("chosen", chosen === item.id);
      order.push(known.group);
      y += height;
    }
    for (const [id, item] of drawn) {
      if (present.has(id)) continue;
      item.group.remove();
      drawn.delete(id);
    }
    const total = y + 18;
    const lines = value.columns.map((name) => s("line", { class: "lifeline", x1: where.at.get(name), x2: where.at.get(name), y1: 0, y2: total }));
    picture.classList.toggle("narrow", where.narrow);
    picture.setAttribute("width", width);
    picture.setAttribute("height", total);
    picture.setAttribute("viewBox", `0 0 ${width} ${total}`);
    picture.replaceChildren(s("g", { class: "lifelines" }, lines), ...order);
    drawHead(where);
    if (following) toEnd();
  }

  function drawHead(where) {
    const height = 52;
    head.setAttribute("width", where.width);
    head.setAttribute("height", height);
    head.setAttribute("viewBox", `0 0 ${where.width} ${height}`);
    const names = [["UE", "ePDG", "SWu"], ["ePDG", "AAA", "SWm"], ["AAA", "HSS", "SWx"]];
    replace(
      head,
      s("text", { class: "axis", x: 10, y: 31 }, where.narrow ? "s" : "seconds"),
      names
        .filter(([from, to]) => where.at.has(from) && where.at.has(to))
        .map(([from, to, name]) => s("text", { class: `interface ${name}`, x: (where.at.get(from) + where.at.get(to)) / 2, y: 31, "text-anchor": "middle" }, name)),
      where.columns.map((name) => {
        const half = where.narrow ? 22 : 31;
        const x = Math.min(where.at.get(name), where.width - half - 2);
        return s("g", { class: `column column-${name}` }, s("rect", { x: x - half, y: 12, width: half * 2, height: 28, rx: 8 }), s("text", { x, y: 31, "text-anchor": "middle" }, name));
      }),
    );
  }

  function drawItem(item, where, height, start) {
    if (item.kind === "gap") return drawGap(item, where, height);
    const group = s("g", {
      class: `item ${item.kind}`,
      tabindex: "0",
      role: "button",
      "aria-label": `${offset(item.wall - start)} seconds: ${describe(item)}`,
      dataset: { entry: item.id, name: item.name },
    });
    group.addEventListener("click", () => choose(item.id));
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(item.id);
      }
    });
    group.append(s("rect", { class: "hit", x: 0, y: 0, width: where.width, height }));
    if (item.kind === "message") drawMessage(group, item, where, height, start);
    else if (item.kind === "event") drawEvent(group, item, where, height, start);
    else drawState(group, item, where, height);
    return group;
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
    group.classList.add(item.interface ?? "", ...(item.retransmission ? ["retransmission"] : []), ...(item.arrived === false ? ["lost"] : []));
    const direction = Math.sign(to - from);
    const end = item.arrived === false ? from + (to - from) * 0.72 : to - direction * 2;
    const begin = from + direction * 2;
    group.append(
      s("line", { class: "shaft", x1: begin, x2: end - direction * (item.arrived === false ? 0 : HEAD - 1), y1: y, y2: y }),
      item.arrived === false
        ? s("path", { class: "lost-mark", d: `M${end - 4.5} ${y - 4.5}l9 9m0-9l-9 9` })
        : s("path", { class: "head", d: `M${end} ${y}l${-direction * HEAD * 1.3} ${-HEAD * 0.62}v${HEAD * 1.24}z` }),
      s("circle", { class: "origin", cx: from, cy: y, r: 2.6 }),
    );
    const margin = where.narrow ? 7 : 12;
    const left = Math.min(from, to) + margin;
    const room = Math.abs(to - from) - 2 * margin;
    group.append(label(item, left, y - 8, room, where));
  }

  /** A label as long as there is room for: the name first, then the mark, then the payloads. */
  function label(item, x, y, room, where) {
    const { name, rest } = split(item);
    const short = where.narrow ? name.replace(" request ", " req ").replace(" response ", " resp ") : name;
    const mark = where.narrow ? "" : [item.arrived === false && "lost", item.retransmission && "retransmitted"].filter(Boolean).join(", ");
    const shown = fit(short, room, where.narrow ? SMALL_FONT : NAME_FONT);
    const parts = [s("tspan", { class: "label-name" }, shown)];
    let left = room - measure(shown, NAME_FONT) - 6;
    if (mark && measure(mark, NAME_FONT) < left) {
      parts.push(s("tspan", { class: "label-mark", dx: 6 }, mark));
      left -= measure(mark, NAME_FONT) + 6;
    }
    const payloads = where.narrow ? "" : fit(rest, left, REST_FONT);
    if (payloads.length > 6 || payloads === rest) parts.push(s("tspan", { class: "label-rest", dx: 6 }, payloads));
    return s("text", { class: "label", x, y }, parts);
  }

  function drawEvent(group, item, where, height, start) {
    const tone = EVENT_MARK[item.name] ?? "quiet";
    group.classList.add(tone);
    const first = where.gutter;
    const width = where.width - first - 8;
    group.append(
      s("rect", { class: "band", x: first, y: 7, width, height: height - 14, rx: 8 }),
      s("rect", { class: "band-edge", x: first, y: 7, width: 4, height: height - 14, rx: 2 }),
      time(item, where, start, height / 2 + 4),
    );
    const name = item.name.replaceAll("-", " ");
    const room = width - 28 - measure(name, NAME_FONT) - 8;
    group.append(
      s(
        "text",
        { class: "band-text", x: first + 16, y: height / 2 + 4.5 },
        s("tspan", { class: "band-name" }, name),
        s("tspan", { class: "band-rest", dx: 8 }, fit(item.text, room, BAND_FONT)),
      ),
    );
  }

  function drawState(group, item, where, height) {
    const anchor = where.at.get(item.from) ?? where.gutter;
    const text = cut(item.text.replace(/ \(.*\)$/, ""), where.narrow ? 26 : 48);
    const width = measure(text, STATE_FONT) + 20;
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

  function choose(id) {
    chosen = chosen === id ? null : id;
    for (const [key, item] of drawn) item.group.classList.toggle("chosen", key === chosen);
    showDetail();
  }

  function showDetail() {
    const entry = value?.entries.find((each) => each.id === chosen);
    place.classList.toggle("with-drawer", Boolean(entry));
    if (!entry) {
      replace(drawer);
      return;
    }
    const { name, rest } = split(entry);
    const start = value.entries[0].wall;
    const list = [
      ["Time", `${moment(entry.wall)} (${offset(entry.wall - start)} s)`],
      entry.kind === "message" && ["Way", h("span", {}, `${entry.from ?? "?"} → ${entry.to ?? "?"}`, entry.interface && h("span", { class: "badge" }, entry.interface))],
      entry.peer && ["Peer", entry.peer],
      entry.transit !== null && ["In transit", duration(Math.max(0, entry.transit))],
      entry.kind === "message" && ["Arrived", entry.arrived === null ? "not known" : entry.arrived ? "yes" : "no: its receiver never recorded it"],
      entry.retransmission && ["Sent", "again (retransmission)"],
      ["Recorded by", entry.seen_by.join(", ")],
    ].filter(Boolean);
    replace(
      drawer,
      h(
        "aside",
        { class: "drawer", id: "detail", "aria-label": "Details" },
        h("div", { class: "drawer-head" }, h("div", {}, h("p", { class: "eyebrow" }, entry.kind === "message" ? entry.protocol ?? "message" : entry.kind), h("h2", {}, name)),
          h("button", { type: "button", class: "button ghost square", "aria-label": "Close", onclick: () => choose(null) }, icon("close"))),
        rest && h("p", { class: "notation mono" }, entry.kind === "message" ? notation(rest) : rest),
        h("dl", { class: "facts" }, list.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)])),
        entry.detail && Object.keys(entry.detail).length > 0 && h("div", { class: "tree" }, h("h3", {}, "Content"), tree(entry.detail)),
      ),
    );
  }

  return {
    show(next) {
      value = next;
      names = new Set(value.names.map((name) => `${name.node}\n${name.session}`));
      const messages = value.entries.filter((entry) => entry.kind === "message" && entry.interface !== "EAP");
      const again = messages.filter((entry) => entry.retransmission).length;
      const silent = value.silent.length ? ` · without ${value.silent.join(", ")}` : "";
      setText(summary, `${plural(messages.length, "message")}, ${plural(again, "retransmission")}${value.left_out ? ` · ${value.left_out} older left out` : ""}${silent}`);
      empty.hidden = value.entries.length > 0;
      if (!value.entries.length) setText(empty, "Nothing has been recorded of this session yet.");
      scroller.hidden = value.entries.length === 0;
      draw();
      if (chosen) showDetail();
    },
    trouble(text) {
      if (value) return;
      empty.hidden = false;
      scroller.hidden = true;
      setText(empty, text);
    },
    /** Whether a record may belong here: its node's name of the session is ours, or not met before. */
    concerns(node, session) {
      return session !== null && (names.has(`${node}\n${session}`) || ![...names].some((name) => name.startsWith(`${node}\n`)));
    },
    close() {
      watcher.disconnect();
      document.removeEventListener("keydown", onKey);
      replace(drawer);
    },
  };
}

function legend() {
  const sample = (style, text) =>
    h("li", {}, s("svg", { class: `sample ${style}`, width: 26, height: 10, viewBox: "0 0 26 10", "aria-hidden": "true" }, s("line", { class: "shaft", x1: 1, x2: 24, y1: 5, y2: 5 })), text);
  return h("ul", { class: "legend" }, sample("SWu", "SWu"), sample("SWm", "SWm"), sample("SWx", "SWx"), sample("retransmission", "retransmitted"), sample("lost", "lost"));
}

const SANS = getComputedStyle(document.documentElement).getPropertyValue("--sans");
const NAME_FONT = `600 12.5px ${SANS}`;
const SMALL_FONT = `600 11px ${SANS}`;
const REST_FONT = `400 11.5px ${SANS}`;
const STATE_FONT = `10.5px ${getComputedStyle(document.documentElement).getPropertyValue("--mono")}`;
const BAND_FONT = `400 12.5px ${SANS}`;
const canvas = document.createElement("canvas").getContext("2d");
const widths = new Map();

function measure(text, font) {
  const key = `${font}${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    canvas.font = font;
    width = canvas.measureText(text).width;
    if (widths.size > 20000) widths.clear();
    widths.set(key, width);
  }
  return width;
}

/** The longest beginning of a text that fits, with an ellipsis where something is missing. */
function fit(text, room, font) {
  if (measure(text, font) <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    canvas.font = font;
    if (canvas.measureText(`${text.slice(0, middle).trimEnd()}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return low > 0 ? `${text.slice(0, low).trimEnd()}…` : "";
}

const cut = (text, length) => (text.length <= length ? text : length < 2 ? "" : `${text.slice(0, length - 1).trimEnd()}…`);

/** `IKE_AUTH request 1 [ IDi, … ]` into the name and the rest. */
function split(item) {
  if (item.kind !== "message") return { name: item.kind === "event" ? item.name.replaceAll("-", " ") : item.name, rest: item.text };
  const at = item.text.search(/[[{(]/);
  if (at > 0) return { name: item.text.slice(0, at).trim(), rest: item.text.slice(at).trim() };
  return item.text.startsWith(item.name) ? { name: item.name, rest: item.text.slice(item.name.length).trim() } : { name: item.name, rest: item.text };
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

function describe(item) {
  if (item.kind !== "message") return item.text;
  return `${item.from ?? "?"} to ${item.to ?? "?"}, ${item.text}${item.retransmission ? ", retransmission" : ""}${item.arrived === false ? ", lost" : ""}`;
}

function tree(value) {
  if (Array.isArray(value)) {
    if (value.every((item) => item === null || typeof item !== "object")) return h("span", { class: "mono leaf" }, value.map(String).join(", ") || "empty");
    return h("ol", { class: "branches" }, value.map((item) => h("li", {}, tree(item))));
  }
  if (value !== null && typeof value === "object") {
    return h("dl", { class: "branches" }, Object.entries(value).map(([key, item]) => [h("dt", {}, key), h("dd", {}, tree(item))]));
  }
  return h("span", { class: "mono leaf" }, value === null ? "–" : String(value));
}

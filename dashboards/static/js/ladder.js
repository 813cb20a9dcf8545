// The message ladder: lifelines of UE, ePDG and AAA, an arrow for every message, a band for every event.
// Only the rows in view are drawn, so that long ladders stay quick.

import { ROW, drawHead, drawRow, layout, tone } from "./arrows.js";
import { h, replace, s, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { mountDetail } from "./message.js";

const TOP = 14;
const BOTTOM = 18;
const GAP = 2.0; // seconds of silence that are worth showing
const OVERSCAN = 900; // pixels above and below the view that are drawn, too
const AT_END = 24;
const INTERFACE_ORDER = ["SWu", "SWm", "SWx", "S6b", "EAP"];

const hidden = new Set(["states"]); // what is not shown, kept from one session to the next

export function mountLadder(place, drawer, session) {
  let value = null;
  let names = new Set();
  let known = new Set(); // ids of entries that have been shown before
  let listed = []; // the rows that the filters leave, each with its y
  let places = new Map(); // id -> index in listed
  let where = null;
  let height = 0;
  let chosen = null;
  let current = null; // the row that the keyboard is at
  let following = true;
  let moving = false;
  let marked = new Set();
  const drawn = new Map();

  const summary = h("p", { class: "muted", id: "ladder-summary" });
  const filters = h("div", { class: "ladder-filters", role: "group", "aria-label": "What the ladder shows" });
  const follow = h("input", { type: "checkbox", id: "follow", checked: true, onchange: () => {
    following = follow.checked;
    if (following) toEnd();
  } });
  const head = s("svg", { class: "ladder-head", role: "presentation" });
  const lifelines = s("g", { class: "lifelines" });
  const rows = s("g", {});
  const picture = s("svg", { class: "ladder", role: "group", "aria-label": "Messages in order; arrow keys go from one to the next, Enter opens one" }, lifelines, rows);
  const scroller = h("div", { class: "ladder-scroll", tabindex: "-1" }, h("div", { class: "ladder-sticky" }, head), picture);
  const empty = h("p", { class: "empty", hidden: true });
  replace(
    place,
    h("div", { class: "ladder-bar" },
      h("div", {}, h("h2", {}, "Message ladder"), summary),
      h("div", { class: "ladder-tools" }, filters, h("label", { class: "switch" }, follow, h("span", {}, "Follow")))),
    empty,
    scroller,
  );
  const detail = mountDetail(drawer, session, () => choose(null));

  let frame = 0;
  let resized = false;
  function soon() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (resized) draw();
      else paint();
    });
  }
  const watcher = new ResizeObserver(() => {
    resized = true;
    soon();
  });
  watcher.observe(scroller);
  scroller.addEventListener("scroll", () => {
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < AT_END;
    if (following && !atEnd && !moving) follow.checked = following = false;
    soon();
  });

  function toEnd() {
    moving = true;
    scroller.scrollTop = scroller.scrollHeight;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      moving = false;
    }));
  }

  function shown(entry) {
    if (hidden.has("calm") && !isTrouble(entry)) return false;
    if (entry.kind === "message") return !hidden.has(entry.interface ?? "other");
    return !hidden.has(`${entry.kind}s`);
  }

  /** What is to be shown, where, and how wide. */
  function draw() {
    const width = Math.floor(scroller.clientWidth);
    if (!value || width === 0) return;
    resized = false;
    where = layout(width, value.columns);
    listed = [];
    places = new Map();
    let previous = null;
    let y = TOP;
    const add = (item) => {
      places.set(item.id, listed.length);
      listed.push({ item, y });
      y += ROW[item.kind];
    };
    for (const entry of value.entries) {
      if (!shown(entry)) continue;
      if (previous !== null && entry.wall - previous > GAP) add({ kind: "gap", id: `gap-${entry.id}`, seconds: entry.wall - previous });
      previous = entry.wall;
      add(entry);
    }
    height = y + BOTTOM;
    if (!places.has(current)) current = listed[0]?.item.id ?? null;
    picture.classList.toggle("narrow", where.narrow);
    picture.setAttribute("width", width);
    picture.setAttribute("height", height);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    lifelines.replaceChildren(...value.columns.map((name) => s("line", { class: "lifeline", x1: where.at.get(name), x2: where.at.get(name), y1: 0, y2: height })));
    drawHead(head, where);
    if (following) toEnd();
    paint();
  }

  /** The first row that ends below y. */
  function firstBelow(y) {
    let low = 0;
    let high = listed.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (listed[middle].y + ROW[listed[middle].item.kind] > y) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  function inView() {
    const from = firstBelow(scroller.scrollTop - OVERSCAN);
    const wanted = [];
    const end = scroller.scrollTop + scroller.clientHeight + OVERSCAN;
    for (let index = from; index < listed.length && listed[index].y < end; index += 1) wanted.push(listed[index]);
    const at = places.get(current); // where the keyboard is must not go away
    if (at !== undefined && at < from) wanted.unshift(listed[at]);
    else if (at !== undefined && at >= from + wanted.length) wanted.push(listed[at]);
    return wanted;
  }

  function paint() {
    if (!where) return;
    const start = value.entries[0]?.wall ?? 0;
    const wanted = inView();
    const present = new Set(wanted.map(({ item }) => item.id));
    for (const [id, { group }] of drawn) {
      if (present.has(id)) continue;
      group.remove();
      drawn.delete(id);
    }
    wanted.forEach(({ item, y }, index) => {
      const signature = `${where.width}|${where.columns}|${start}|${JSON.stringify(item)}`;
      let row = drawn.get(item.id);
      if (row?.signature !== signature) {
        const group = drawRow(item, where, start);
        if (known.size > 0 && !known.has(item.id) && item.kind !== "gap") group.classList.add("fresh");
        const focused = row && row.group === document.activeElement;
        row?.group.replaceWith(group);
        row = { group, signature };
        drawn.set(item.id, row);
        if (focused) group.focus({ preventScroll: true });
      }
      const { group } = row;
      group.setAttribute("transform", `translate(0 ${y})`);
      group.classList.toggle("chosen", chosen === item.id);
      group.classList.toggle("evidence", recordsOf(item).some((id) => marked.has(id)));
      if (item.kind !== "gap") group.setAttribute("tabindex", current === item.id ? "0" : "-1");
      if (rows.children[index] !== group) rows.insertBefore(group, rows.children[index] ?? null);
    });
    if (known.size > 0) for (const { item } of wanted) known.add(item.id);
  }

  function choose(id) {
    chosen = chosen === id ? null : id;
    if (id) current = id;
    place.classList.toggle("with-drawer", chosen !== null);
    paint();
    showDetail();
    if (chosen === null) drawn.get(current)?.group.focus({ preventScroll: true });
  }

  function showDetail() {
    const entry = value?.entries.find((each) => each.id === chosen);
    if (entry) detail.show(entry, value.entries[0].wall);
    else detail.hide();
  }

  function goTo(index, focus) {
    const row = listed[index];
    if (!row) return;
    current = row.item.id;
    const above = row.y - 60;
    const below = row.y + ROW[row.item.kind] + 70;
    if (above < scroller.scrollTop) scroller.scrollTop = above;
    else if (below > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = below - scroller.clientHeight;
    paint();
    if (focus) drawn.get(current)?.group.focus({ preventScroll: true });
  }

  function step(direction) {
    let index = (places.get(current) ?? 0) + direction;
    while (listed[index]?.item.kind === "gap") index += direction;
    goTo(index, true);
  }

  rows.addEventListener("click", (event) => {
    const group = event.target.closest(".item");
    if (group) choose(group.dataset.entry);
  });
  rows.addEventListener("keydown", (event) => {
    const moves = {
      ArrowDown: () => step(1),
      ArrowUp: () => step(-1),
      Home: () => goTo(0, true),
      End: () => goTo(listed.length - 1, true),
      Enter: () => choose(current),
      " ": () => choose(current),
    };
    if (!moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  });
  rows.addEventListener("focusin", (event) => {
    const id = event.target.closest(".item")?.dataset.entry;
    if (id && id !== current) {
      current = id;
      paint();
    }
  });
  const onKey = (event) => {
    if (event.key === "Escape" && chosen && !document.querySelector("dialog[open]")) choose(null);
  };
  document.addEventListener("keydown", onKey);

  function showFilters() {
    const found = new Set(value.entries.filter((entry) => entry.kind === "message").map((entry) => entry.interface ?? "other"));
    const interfaces = [...INTERFACE_ORDER.filter((name) => found.has(name)), ...[...found].filter((name) => !INTERFACE_ORDER.includes(name)).sort()];
    if (filters.dataset.interfaces === interfaces.join()) return;
    filters.dataset.interfaces = interfaces.join();
    replace(filters, interfaces.map((name) => filter(name, name, name)), filter("events", "Events"), filter("states", "States"), filter("calm", "Only trouble", "trouble", true));
  }

  function filter(name, label, style, inverse = false) {
    const box = h("input", { type: "checkbox", id: `show-${name.toLowerCase()}`, onchange: () => {
      if (box.checked === inverse) hidden.add(name);
      else hidden.delete(name);
      draw();
      showSummary();
    } });
    box.checked = hidden.has(name) === inverse;
    const sample = style && s("svg", { class: `sample ${style}`, width: 20, height: 10, viewBox: "0 0 20 10", "aria-hidden": "true" }, s("line", { class: "shaft", x1: 1, x2: 19, y1: 5, y2: 5 }));
    return h("label", { class: "switch" }, box, sample, h("span", {}, label));
  }

  function showSummary() {
    const messages = value.entries.filter((entry) => entry.kind === "message" && entry.interface !== "EAP");
    const again = messages.filter((entry) => entry.retransmission).length;
    const lost = messages.filter((entry) => entry.arrived === false).length;
    const filtered = value.entries.filter((entry) => entry.kind !== "state" && !shown(entry)).length;
    setText(summary, [
      `${plural(messages.length, "message")}, ${plural(again, "retransmission")}`,
      lost && `${count(lost)} lost`,
      filtered && `${count(filtered)} filtered out`,
      value.left_out && `${count(value.left_out)} older left out`,
      value.silent.length && `without ${value.silent.join(", ")}`,
    ].filter(Boolean).join(" · "));
  }

  return {
    show(next) {
      known = new Set(value?.entries.map((entry) => entry.id));
      value = next;
      names = new Set(value.names.map((name) => `${name.node}\n${name.session}`));
      empty.hidden = value.entries.length > 0;
      if (!value.entries.length) setText(empty, "Nothing has been recorded of this session yet.");
      scroller.hidden = value.entries.length === 0;
      showFilters();
      showSummary();
      draw();
      if (chosen) showDetail();
    },
    trouble(text) {
      if (value) return;
      empty.hidden = false;
      scroller.hidden = true;
      setText(empty, text);
    },
    /** The entry that a record, `node:sequence`, is part of. */
    entry(id) {
      return value?.entries.find((each) => recordsOf(each).includes(id));
    },
    /** Mark these records, and go to the first of them; a filter that hides one is lifted. */
    reveal(ids) {
      marked = new Set(ids);
      const entries = value?.entries.filter((each) => recordsOf(each).some((id) => marked.has(id))) ?? [];
      if (!entries.length) return false;
      for (const entry of entries) for (const name of ["calm", `${entry.kind}s`, entry.interface ?? "other"]) if (!shown(entry)) hidden.delete(name);
      delete filters.dataset.interfaces;
      showFilters();
      showSummary();
      follow.checked = following = false;
      draw();
      goTo(places.get(entries[0].id), true);
      place.scrollIntoView({ block: "nearest" });
      return true;
    },
    /** What nodes call the session, as far as they have told anything of it. */
    get names() {
      return [...names].map((name) => name.split("\n")[1]);
    },
    /** Whether this node has told anything of it. */
    has(node) {
      return [...names].some((name) => name.startsWith(`${node}\n`));
    },
    /** Whether a record may belong here: its node's name of the session is ours, or not met before. */
    concerns(node, other) {
      return other !== null && (names.has(`${node}\n${other}`) || !this.has(node));
    },
    close() {
      cancelAnimationFrame(frame);
      watcher.disconnect();
      document.removeEventListener("keydown", onKey);
      detail.hide();
    },
  };
}

function isTrouble(entry) {
  return entry.retransmission || entry.arrived === false || (entry.kind === "event" && tone(entry) === "bad");
}

/** The records behind a row, `node:sequence`: of a message what its sender and its receiver wrote. */
const recordsOf = (item) => item.records ?? [item.id];

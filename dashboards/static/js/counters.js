// What a session carries, plotted: octets and packets by direction, sampled while the page is open.

import { h, replace, s, setText } from "./dom.js";
import { clock, count, octets } from "./format.js";

const KEPT = 300; // samples, ten minutes of them
const LEAST_INTERVAL = 0.5; // seconds between two samples
const HEIGHT = 92;
const MARGIN = { top: 8, right: 8, bottom: 18, left: 8 };
const DIRECTIONS = [["inbound", "From the UE", "in"], ["outbound", "To the UE", "out"]];
const PLOTS = [["octets", "Octets", (value) => `${octets(Math.round(value))}/s`], ["packets", "Packets", (value) => `${count(Math.round(value))} packets/s`]];
const REFUSED = [["replayed", "Replayed"], ["bad_icv", "Bad ICV"], ["bad_selector", "Outside selectors"], ["malformed", "Malformed"],
  ["too_big", "Too big"], ["fragment", "Fragments"], ["congestion", "Congestion"]];
const NAMES = DIRECTIONS.flatMap(([direction]) => PLOTS.map(([plot]) => `${direction}_${plot}`));

const total = (session, name) => session.child_sas.reduce((sum, child) => sum + (child.counters?.[name] ?? 0), 0);

export function mountCounters(place) {
  const samples = []; // { wall, rates by name or null where a child SA was replaced }
  let before = null;
  let latest = null; // the session as it was shown last: what is drawn anew without news is no sample
  let at = null; // the sample that is pointed at
  const ways = h("div", { class: "ways" });
  const plots = PLOTS.map(([name, label, unit]) => plot(name, label, unit));
  const reading = h("p", { class: "hint number", "aria-live": "off" });
  const refused = h("ul", { class: "refused" });
  replace(place, ways, plots.map((each) => each.element), reading, refused);
  let width = 0;
  const watcher = new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    draw();
  });
  watcher.observe(place);

  function plot(name, label, unit) {
    const picture = s("svg", { class: "counter-plot", role: "img", tabindex: "0" });
    const most = h("span", { class: "muted number" });
    picture.addEventListener("pointermove", (event) => pointAt(Math.round(((event.offsetX - MARGIN.left) / Math.max(1, width - MARGIN.left - MARGIN.right)) * (samples.length - 1))));
    picture.addEventListener("pointerleave", () => pointAt(null));
    picture.addEventListener("blur", () => pointAt(null));
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      pointAt((at ?? samples.length - 1) + step);
    });
    return { name, label, unit, picture, most, element: h("div", { class: "plot-place" }, h("p", { class: "plot-head" }, h("span", {}, label), most), picture) };
  }

  function pointAt(index) {
    at = index === null ? null : Math.max(0, Math.min(samples.length - 1, index));
    draw();
  }

  function take(session) {
    if (session === latest) return false;
    latest = session;
    const now = performance.now() / 1000;
    const spis = session.child_sas.map((child) => child.inbound_spi).join();
    const totals = Object.fromEntries(NAMES.map((name) => [name, total(session, name)]));
    const seconds = before ? now - before.now : 0;
    if (before && seconds < LEAST_INTERVAL) return false;
    if (before) {
      const rates = before.spis === spis ? Object.fromEntries(NAMES.map((name) => [name, Math.max(0, (totals[name] - before.totals[name]) / seconds)])) : null;
      samples.push({ wall: Date.now() / 1000, rates });
      if (samples.length > KEPT) samples.shift();
    }
    before = { now, spis, totals };
    return true;
  }

  function show(session) {
    if (!take(session)) return;
    const last = samples.at(-1)?.rates;
    replace(ways, DIRECTIONS.map(([name, label, style]) => h("div", { class: `way ${style}` },
      h("p", { class: "way-label" }, h("span", { class: "way-mark", "aria-hidden": "true" }), label),
      h("p", { class: "way-value" }, octets(total(session, `${name}_octets`))),
      h("p", { class: "muted" }, `${count(total(session, `${name}_packets`))} packets`, last && ` · ${octets(Math.round(last[`${name}_octets`]))}/s`))));
    replace(refused, REFUSED.map(([name, label]) => {
      const number = total(session, name);
      return h("li", { class: number ? "bad-text" : "muted" }, `${label} `, h("strong", {}, count(number)));
    }));
    draw();
  }

  function draw() {
    for (const each of plots) drawPlot(each, width, samples, at);
    setText(reading, read(samples, at));
  }

  return { show, close: () => watcher.disconnect() };
}

function read(samples, at) {
  if (samples.length < 2) return "Sampled while this page is open.";
  if (at === null) return `${clock(samples[0].wall)} – ${clock(samples.at(-1).wall)}`;
  const { wall, rates } = samples[at];
  if (!rates) return `${clock(wall)}: a child SA was replaced`;
  const ways = DIRECTIONS.map(([name, label]) => `${label.toLowerCase()} ${PLOTS.map(([plot, , unit]) => unit(rates[`${name}_${plot}`])).join(", ")}`);
  return `${clock(wall)}: ${ways.join("; ")}`;
}

function drawPlot({ name, label, unit, picture, most }, width, samples, at) {
  if (!width) return;
  const largest = Math.max(1, ...samples.flatMap(({ rates }) => (rates ? DIRECTIONS.map(([direction]) => rates[`${direction}_${name}`]) : [])));
  const room = { x: width - MARGIN.left - MARGIN.right, y: HEIGHT - MARGIN.top - MARGIN.bottom };
  const x = (index) => MARGIN.left + (samples.length < 2 ? room.x : (index / (samples.length - 1)) * room.x);
  const y = (value) => MARGIN.top + room.y * (1 - value / largest);
  const now = samples.at(-1)?.rates;
  picture.setAttribute("width", width);
  picture.setAttribute("height", HEIGHT);
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.setAttribute("aria-label", `${label} over time. ${now ? `Now ${DIRECTIONS.map(([direction, words]) => `${words.toLowerCase()} ${unit(now[`${direction}_${name}`])}`).join(", ")}; at most ${unit(largest)}.` : ""} Arrow keys read single samples.`);
  setText(most, now ? `at most ${unit(largest)}` : "");
  picture.replaceChildren(
    s("line", { class: "plot-base", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(0), y2: y(0) }),
    s("line", { class: "plot-most", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(largest), y2: y(largest) }),
    ...DIRECTIONS.map(([direction, , style]) => s("path", { class: `plot-line ${style}`, d: line(samples, (rates) => rates[`${direction}_${name}`], x, y) })),
    ...(at === null || !samples[at] ? [] : [s("line", { class: "plot-at", x1: x(at), x2: x(at), y1: MARGIN.top, y2: y(0) })]),
    ...(samples.length < 2 ? [] : [
      s("text", { class: "tick-text", x: MARGIN.left, y: HEIGHT - 4 }, clock(samples[0].wall)),
      s("text", { class: "tick-text", x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, clock(samples.at(-1).wall)),
    ]),
  );
}

/** The line through the samples, with a gap where there is none. */
function line(samples, value, x, y) {
  let pen = "M";
  let path = "";
  samples.forEach(({ rates }, index) => {
    if (!rates) {
      pen = "M";
      return;
    }
    path += `${pen}${x(index).toFixed(1)} ${y(value(rates)).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

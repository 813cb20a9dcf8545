// Plots over the last intervals and bars, as SVG.

import { breakable, h, replace, s, setText } from "./dom.js";

const HEIGHT = 168;
const BELOW = { right: 10, top: 8, bottom: 22 };

/** A number at or above the highest value from which two lines can be drawn: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

const ago = (seconds) => {
  const whole = Math.round(seconds);
  if (!whole) return "now";
  return whole < 60 ? `${whole} s ago` : `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""} ago`;
};

/** Lines of values per interval, oldest first, the last one now; ``series`` is [{name, tone}], ``show`` a value in words, ``left`` pixels for it, ``least`` the least upper end. */
export function timePlot(label, series, show, { left, least }) {
  const margin = { left, ...BELOW };
  const picture = s("svg", { class: "plot", role: "img", height: HEIGHT });
  const values = series.map(() => h("span", { class: "value" }));
  const when = h("span", { class: "muted when" });
  const legend = h("p", { class: "plot-legend" }, series.map(({ name, tone }, index) => h("span", { class: `entry tone-${tone}` }, h("span", { class: "swatch", "aria-hidden": "true" }), name, " ", values[index])), when);
  const element = h("div", { class: "plot-box" }, legend, picture);
  let data = series.map(() => []);
  let interval = 1;
  let pointed = null;
  const count = () => Math.max(2, ...data.map((each) => each.length));

  function draw() {
    const width = Math.floor(element.clientWidth);
    if (width < 80) return;
    const points = count();
    const top = ceiling(Math.max(least, ...data.flat()));
    const across = (index) => margin.left + ((width - margin.left - margin.right) * index) / (points - 1);
    const down = (value) => HEIGHT - margin.bottom - ((HEIGHT - margin.bottom - margin.top) * value) / top;
    const whole = points * interval;
    const lines = [0, 0.5, 1].map((part) => [
      s("line", { class: "grid-line", x1: margin.left, x2: width - margin.right, y1: down(top * part), y2: down(top * part) }),
      s("text", { class: "axis", x: margin.left - 7, y: down(top * part) + 4, "text-anchor": "end" }, show(top * part)),
    ]);
    const times = [0, 0.5, 1].map((part) => s("text", { class: "axis", x: across((points - 1) * part), y: HEIGHT - 5, "text-anchor": ["start", "middle", "end"][part * 2] }, ago(whole * (1 - part))));
    const curves = data.map((each, index) => {
      const path = each.map((value, at) => `${at ? "L" : "M"}${across(at + points - each.length).toFixed(1)} ${down(value).toFixed(1)}`).join("");
      return each.length > 1 && s("path", { class: `curve tone-${series[index].tone}`, d: path });
    });
    const at = pointed === null ? null : across(Math.min(pointed, points - 1));
    picture.setAttribute("width", width);
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    replace(picture, lines.flat(), times, curves.reverse(), at !== null && s("line", { class: "pointer", x1: at, x2: at, y1: margin.top, y2: HEIGHT - margin.bottom }));
    read(points, whole);
  }

  function read(points, whole) {
    const index = pointed === null ? points - 1 : Math.min(pointed, points - 1);
    data.forEach((each, line) => setText(values[line], each.length ? show(each[index - (points - each.length)] ?? 0) : "–"));
    setText(when, ago((points - 1 - index) * interval));
    const words = data.map((each, line) => `${series[line].name}: ${each.length ? `${show(each.at(-1))} now, ${show(Math.max(...each))} at most` : "nothing yet"}`);
    picture.setAttribute("aria-label", `${label} over ${Math.round(whole)} seconds. ${words.join("; ")}.`);
  }

  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const part = (event.clientX - box.left - margin.left) / (box.width - margin.left - margin.right);
    pointed = Math.round(Math.min(1, Math.max(0, part)) * (count() - 1));
    draw();
  });
  picture.addEventListener("pointerleave", () => {
    pointed = null;
    draw();
  });
  new ResizeObserver(draw).observe(element);
  return {
    element,
    update(lists, seconds) {
      data = lists;
      interval = seconds;
      draw();
    },
  };
}

/** Horizontal bars: [{label, value, text, tone, href}], the longest as wide as there is room. */
export function bars(entries) {
  const most = Math.max(...entries.map((entry) => entry.value), 1);
  return h("ul", { class: "bars" }, entries.map(({ label, value, text, tone, href, hint }) => {
    const share = (100 * value) / most;
    return h("li", { class: `bar ${tone ?? ""}` },
      h("span", { class: "bar-label" }, href ? h("a", { href, title: hint, "data-key": href }, breakable(label)) : breakable(label)),
      s("svg", { class: "bar-track", "aria-hidden": "true", height: 10, preserveAspectRatio: "none", viewBox: "0 0 100 10" }, s("rect", { width: Math.max(share, 0.6), height: 10, rx: 1 })),
      h("span", { class: "bar-value" }, text));
  }));
}

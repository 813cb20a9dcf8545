// Build elements. Text always goes in as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

/** A name of capitals, which may be broken after its underscores. */
export const breakable = (text) => text.split(/(?<=_)/).flatMap((part, index) => (index ? [h("wbr"), part] : [part]));

/** Change a text only when it differs, so that a selection in it survives. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const ICONS = {
  sun: "M12 4V2M12 22v-2M4 12H2M22 12h-2M5.6 5.6 4.2 4.200M19.8 19.800l-1.4-1.400M5.6 18.400l-1.4 1.400M19.8 4.200l-1.4 1.400M12 7.500a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9z",
  moon: "M20 14.500A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.500z",
  key: "M14.5 9.500a4.5 4.5 0 1 0-3.3 4.300L13 15.500h2.500V18H18v2.500h3V17.500l-6.9-6.900c.2-.6.4-.7.4-1.100zM8.7 8.200h.01",
  back: "M19 12H5m6-7-7 7 7 7",
  close: "M6 6l12 12M18 6 6 18",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM20.5 20.500l-5.2-5.2",
  download: "M12 4v11m-5-5 5 5 5-5M5 20h14",
  check: "M5 12.5 10 17.5 19.5 7",
  cross: "M7 7l10 10M17 7 7 17",
  arrow: "M5 12h14m-5-5 5 5-5 5",
  plug: "M9 3v5M15 3v5M6.5 8h11v3.500a5.5 5.5 0 0 1-11 0zM12 17v4",
  alert: "M12 4 2.5 20.500h19zM12 10v4.500M12 17.500v.01",
  gauge: "M4 18a8.5 8.5 0 1 1 16 0M12 15l4-5",
  list: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  flask: "M9 3h6M10 3v6L4.5 18.5A1.700 1.700 0 0 0 6 21h12a1.700 1.700 0 0 0 1.500-2.500L14 9V3M7.500 15h9",
  card: "M3.500 5.500h17v13h-17zM7 10h4v4H7zM14 10h3.500M14 14h3.500",
  nodes: "M4 4h6v6H4zM14 14h6v6h-6zM14 4h6v6h-6zM10 7h4M17 10v4",
  keyboard: "M3 6.500h18v11H3zM7 10h.01M11 10h.01M15 10h.01M18 10h.01M8 14h8",
  play: "M7 4.500v15l12-7.500z",
  stop: "M6 6h12v12H6z",
  wifi: "M3 9.500a13 13 0 0 1 18 0M6.500 13a8 8 0 0 1 11 0M10 16.500a3 3 0 0 1 4 0M12 20h.01",
  out: "M14 4h5v16h-5M4 12h11m-4-4 4 4-4 4",
};

export function icon(name) {
  return s(
    "svg",
    { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
    s("path", { d: ICONS[name], fill: "none", stroke: "currentColor", "stroke-width": "1.8", "stroke-linecap": "round", "stroke-linejoin": "round" }),
  );
}

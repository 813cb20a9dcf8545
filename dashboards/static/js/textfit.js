// How wide texts are, and how much of one fits.

const style = getComputedStyle(document.documentElement);
const SANS = style.getPropertyValue("--sans");
const MONO = style.getPropertyValue("--mono");

export const FONT = {
  name: `600 12.5px ${SANS}`,
  small: `600 11px ${SANS}`,
  rest: `400 11.5px ${SANS}`,
  band: `400 12.5px ${SANS}`,
  state: `10.5px ${MONO}`,
};

const KEPT = 20000;
const canvas = document.createElement("canvas").getContext("2d");
const widths = new Map();

export function measure(text, font) {
  const key = `${font}${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    canvas.font = font;
    width = canvas.measureText(text).width;
    if (widths.size > KEPT) widths.clear();
    widths.set(key, width);
  }
  return width;
}

/** The longest beginning of a text that fits, with an ellipsis where something is missing. */
export function fit(text, room, font) {
  if (measure(text, font) <= room) return text;
  let low = 0;
  let high = text.length;
  canvas.font = font;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (canvas.measureText(`${text.slice(0, middle).trimEnd()}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return low > 0 ? `${text.slice(0, low).trimEnd()}…` : "";
}

export const cut = (text, length) => (text.length <= length ? text : length < 2 ? "" : `${text.slice(0, length - 1).trimEnd()}…`);

// Octets as people read them: offsets, hexadecimal, and what of it is text.

import { h } from "./dom.js";

const SHOWN = 2048; // octets of one block; a button shows the rest
const HIGHLIGHT = "octets"; // styled as ::highlight(octets)
const LEAST = 4; // octets that a value must have to be looked for

const isHex = (text) => text.length % 2 === 0 && /^[0-9a-f]+$/.test(text);
const printable = (octet) => (octet >= 0x20 && octet < 0x7f ? String.fromCharCode(octet) : ".");

/** A dump of hexadecimal text, `width` octets in a row. `range` finds where a value stands in it. */
export function dump(hex, width) {
  const element = h("pre", { class: "dump mono", tabindex: "0" });
  const lines = []; // { text node of the hexadecimal, of the characters }
  const total = hex.length / 2;

  function add(from, to) {
    for (let at = from; at < to; at += width) {
      const row = hex.slice(at * 2, (at + width) * 2).match(/../g) ?? [];
      const digits = document.createTextNode(row.join(" ").padEnd(width * 3 - 1));
      const characters = document.createTextNode(row.map((octet) => printable(Number.parseInt(octet, 16))).join(""));
      element.append(h("span", { class: "at" }, at.toString(16).padStart(4, "0")), "  ", digits, "  ", h("span", { class: "as-text" }, characters), "\n");
      lines.push({ digits, characters });
    }
  }

  add(0, Math.min(total, SHOWN));
  const more = total > SHOWN && h("button", { type: "button", class: "button", onclick: () => {
    more.remove();
    add(Math.ceil(SHOWN / width) * width, total);
  } }, `${total - SHOWN} octets more`);
  return {
    element: h("div", {}, element, more),
    /** The places of a value that stands in the octets exactly once; none otherwise. */
    ranges(value) {
      if (typeof value !== "string" || value.length < LEAST * 2 || !isHex(value)) return [];
      const at = aligned(hex, value);
      if (at === null) return [];
      const found = [];
      for (let index = at; index < at + value.length / 2; index += 1) {
        const line = lines[Math.floor(index / width)];
        if (!line) break;
        const column = index % width;
        found.push(range(line.digits, column * 3, column * 3 + 2), range(line.characters, column, column + 1));
      }
      return found;
    },
  };
}

/** Where a value begins, in octets, when there is one place only. */
function aligned(hex, value) {
  let found = null;
  for (let at = hex.indexOf(value); at >= 0; at = hex.indexOf(value, at + 1)) {
    if (at % 2) continue;
    if (found !== null) return null;
    found = at / 2;
  }
  return found;
}

function range(node, start, end) {
  const made = new Range();
  made.setStart(node, start);
  made.setEnd(node, end);
  return made;
}

/** Light up these ranges and no others; browsers without the interface leave the text as it is. */
export function light(ranges) {
  if (!globalThis.Highlight) return;
  if (ranges.length) CSS.highlights.set(HIGHLIGHT, new Highlight(...ranges));
  else CSS.highlights.delete(HIGHLIGHT);
}

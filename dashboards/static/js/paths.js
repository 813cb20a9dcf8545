// Where the session has been: every path as a bar on a timeline, every move as a mark with its outage; and the same as a list.

import { h, icon, replace, s } from "./dom.js";
import { clock, duration, plural, reason } from "./format.js";

const LANE = 48;
const TOP = 12;
const AXIS = 26;
const BAR = 10;
const LEAST = 26; // pixels of a bar, however short its time was
const LANES = 8; // addresses drawn; those of earlier are in the list
const LISTED = 6; // steps of the list before its button
const TONES = 5;
const NAT = "behind a NAT";
const UPDATE = "N(UPDATE_SA_ADDRESSES)";

/** The moves that the ladder tells of: adopted or not, and how long the gateway went on using the old address. */
export function movesOf(entries) {
  const moves = [];
  let asked = null; // the first request of the move that is under way
  for (const entry of entries) {
    if (entry.kind === "message" && entry.text.includes(UPDATE) && / request/.test(entry.name) && entry.from === "UE" && !entry.retransmission) asked ??= entry;
    if (entry.kind !== "event") continue;
    if (entry.name === "moved" && entry.detail?.old !== entry.detail?.new) {
      moves.push({ wall: entry.wall, remote: entry.detail?.new, seconds: asked ? Math.max(0, entry.wall - asked.wall) : null, adopted: true, text: entry.text, id: entry.id });
    } else if (entry.name === "address-update-failed") {
      moves.push({ wall: entry.wall, remote: entry.detail?.new ?? entry.detail?.tried, seconds: entry.detail?.seconds ?? (asked ? entry.wall - asked.wall : null), adopted: false, text: entry.text, id: entry.id });
    }
    if (entry.name === "moved" || entry.name === "address-update-failed") asked = null;
  }
  return moves;
}

export function mountPaths(place, reveal) {
  let drawn = "";
  let all = false;
  let last = null;
  const asked = h("p", { class: "asked-from", hidden: true });
  const picture = s("svg", { class: "paths", role: "group", "aria-label": "Addresses of the UE over time" });
  const room = h("div", {}, picture);
  const told = h("p", { class: "told" });
  const list = h("ol", { class: "path-steps" });
  const more = h("button", { type: "button", class: "button ghost", onclick: () => {
    all = !all;
    show(...last);
  } });
  const local = h("p", { class: "hint" });
  replace(place, asked, room, told, list, more, local);
  let width = 0;
  const watcher = new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    if (last) show(...last);
  });
  watcher.observe(room);

  function show(session, moves) {
    last = [session, moves];
    const spans = spansOf(session, moves);
    const origin = session.paths.length === 0 && session.ike?.path?.remote; // refused, or not that far yet
    const end = session.ike?.path?.local ?? session.paths.at(-1)?.local;
    const signature = JSON.stringify([width, all, spans, moves, session.state, origin, end]);
    if (signature === drawn && session.state !== "established") return;
    const changed = signature !== drawn;
    drawn = signature;
    picture.toggleAttribute("hidden", spans.length === 0);
    told.hidden = spans.length === 0;
    if (spans.length && width) drawTimeline(picture, told, width, spans, moves, session, reveal);
    if (!changed) return;
    asked.hidden = !origin;
    replace(asked, origin && ["asked from ", h("span", { class: "mono" }, origin)]);
    const steps = stepsOf(session, moves);
    replace(list, all ? steps : steps.slice(0, LISTED));
    more.hidden = steps.length <= LISTED;
    replace(more, all ? "Only the last ones" : `All ${plural(steps.length, "address", "addresses")}`);
    replace(local, end && ["The gateway's end: ", h("span", { class: "mono" }, end)]);
  }

  return { show, close: () => watcher.disconnect() };
}

/** Times at an address, and those at one that was asked for and not adopted. */
function spansOf(session, moves) {
  const spans = session.paths.map((path) => ({ remote: path.remote, since: path.since, until: path.until, why: path.why, kept: path.validated || path.until === null, nat: path.why.includes(NAT), path }));
  for (const move of moves) {
    if (move.adopted || !move.remote || move.seconds === null) continue;
    if (spans.some((span) => !span.kept && span.remote === move.remote)) continue;
    spans.push({ remote: move.remote, since: move.wall - move.seconds, until: move.wall, why: move.text, kept: false, nat: false });
  }
  return spans.sort((a, b) => a.since - b.since);
}

/** Which pixel a moment is at: as time goes, but no stretch between two changes is narrower than can be seen. */
function scale(spans, end, left, width) {
  const moments = [...new Set([...spans.flatMap((span) => [span.since, span.until ?? end]), end])].sort((a, b) => a - b);
  const whole = Math.max(moments.at(-1) - moments[0], 0.001);
  const least = Math.min(LEAST, width / moments.length);
  const shares = moments.slice(1).map((moment, index) => Math.max(((moment - moments[index]) / whole) * width, least));
  const factor = width / Math.max(shares.reduce((sum, share) => sum + share, 0), 1);
  const at = [left];
  for (const share of shares) at.push(at.at(-1) + share * factor);
  const x = (wall) => {
    const index = Math.max(0, Math.min(moments.length - 2, moments.findLastIndex((moment) => moment <= wall)));
    if (moments.length === 1) return left;
    const within = (wall - moments[index]) / Math.max(moments[index + 1] - moments[index], 1e-9);
    return at[index] + Math.max(0, Math.min(1, within)) * (at[index + 1] - at[index]);
  };
  return { x, even: factor > 0.97 && shares.every((share) => share > least), moments };
}

function drawTimeline(picture, told, width, spans, moves, session, reveal) {
  const end = session.state === "closed" ? Math.max(...spans.map((span) => span.until ?? span.since)) : Date.now() / 1000;
  const latest = spans.slice(-Math.max(4, Math.floor(width / LEAST)));
  const lanes = [...new Set(latest.map((span) => span.remote).reverse())].slice(0, LANES).reverse();
  const shown = latest.filter((span) => lanes.includes(span.remote));
  const earlier = spans.length - shown.length;
  const height = TOP + lanes.length * LANE + AXIS;
  const { x, even, moments } = scale(shown, end, 8, width - 16);
  const tones = [...new Set(spans.map((span) => span.remote))];
  const toneOf = (remote) => `tone-${tones.indexOf(remote) % TONES}`;
  const y = (remote) => TOP + lanes.indexOf(remote) * LANE + 22;
  const focused = picture.contains(document.activeElement) ? document.activeElement.dataset.mark : null;
  const tell = (text) => ({ onpointerenter: () => replace(told, text), onfocus: () => replace(told, text) });
  picture.setAttribute("width", width);
  picture.setAttribute("height", height);
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.replaceChildren(
    ...lanes.map((remote) => s("text", { class: "lane mono", x: 8, y: y(remote) - 8 }, remote, shown.some((span) => span.remote === remote && span.nat) && s("tspan", { class: "lane-note", dx: 8 }, NAT))),
    ...lanes.map((remote) => s("line", { class: "lane-line", x1: 8, x2: width - 8, y1: y(remote) + BAR / 2, y2: y(remote) + BAR / 2 })),
    ...shown.map((span, index) => {
      const from = x(span.since);
      const to = x(span.until ?? end);
      const text = `${span.remote} for ${duration((span.until ?? end) - span.since)}, from ${clock(span.since)}: ${span.path ? reason(span.path) : span.why}`;
      return s("rect", { class: `stay ${toneOf(span.remote)} ${span.kept ? "" : "unproved"}`, x: from, y: y(span.remote), width: Math.max(to - from, 2), height: BAR, rx: 4, role: "img", tabindex: "0", "aria-label": text, dataset: { mark: `bar-${index}` }, ...tell(text) });
    }),
    ...moves.filter((move) => move.wall >= shown[0].since && lanes.includes(move.remote)).map((move) => drawMove(move, x, y, width, tell, reveal)),
    ...axis(moments, x, height, width),
  );
  if (!told.textContent) replace(told, [earlier > 0 && `${plural(earlier, "earlier stay")} only in the list. `, !even && "Short stays are drawn wider than they lasted."].filter(Boolean).join(""));
  if (focused) picture.querySelector(`[data-mark="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function drawMove(move, x, y, width, tell, reveal) {
  const at = x(move.wall);
  const centre = y(move.remote) + BAR / 2;
  const took = move.seconds === null ? "" : duration(move.seconds);
  const text = move.adopted ? `${move.text}${took ? ` The gateway followed ${took} after it was asked.` : ""}` : `${move.text}${took ? ` It was tried for ${took}.` : ""}`;
  const open = () => reveal([move.id]);
  const late = at > width - 70;
  return s(
    "g",
    {
      class: `move-mark ${move.adopted ? "adopted" : "failed"}`, role: "button", tabindex: "0", "aria-label": `${clock(move.wall)}: ${text} Shows it on the ladder.`, dataset: { mark: move.id }, ...tell(text), onclick: open,
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open();
      },
    },
    s("circle", { class: "reach", cx: at, cy: centre, r: 13 }),
    move.adopted ? s("circle", { class: "spot", cx: at, cy: centre, r: 6 }) : s("path", { class: "cross", d: `M${at - 5} ${centre - 5}l10 10m0-10l-10 10` }),
    took && s("text", { class: "took", x: late ? at - 10 : at + 10, y: centre + 16, "text-anchor": late ? "end" : "start" }, took),
  );
}

/** Clock times where there is room for them. */
function axis(moments, x, height, width) {
  const parts = [];
  let free = 0;
  for (const moment of moments) {
    const at = Math.min(Math.max(x(moment), 30), width - 30);
    parts.push(s("line", { class: "tick", x1: x(moment), x2: x(moment), y1: height - AXIS + 2, y2: height - AXIS + 7 }));
    if (at - 30 < free) continue;
    free = at + 34;
    parts.push(s("text", { class: "tick-text", x: at, y: height - 6, "text-anchor": "middle" }, clock(moment)));
  }
  return parts;
}

function stepsOf(session, moves) {
  const remotes = [...new Set(spansOf(session, moves).map((span) => span.remote))];
  return session.paths.map((path) => {
    const current = path.until === null && session.state !== "closed";
    const move = moves.find((each) => each.adopted && each.remote === path.remote && Math.abs(each.wall - path.since) < 0.5);
    return h(
      "li",
      { class: `step tone-${remotes.indexOf(path.remote) % TONES} ${current ? "current" : ""} ${path.validated ? "" : "unproved"}` },
      h("div", { class: "step-head" }, h("span", { class: "mono address" }, path.remote), current && h("span", { class: "badge good" }, "now"), validity(path, current)),
      h("p", { class: "step-why" }, reason(path), move?.seconds != null && h("span", { class: "muted" }, ` · followed after ${duration(move.seconds)}`)),
      h("p", { class: "step-when" }, current ? `since ${clock(path.since)}` : path.until === null ? `from ${clock(path.since)} to the end` : `${clock(path.since)} – ${clock(path.until)}`, path.until !== null && h("span", { class: "muted" }, ` · ${duration(path.until - path.since)}`)),
    );
  }).reverse();
}

/** Return routability (RFC 4555 §3.7): shown, not yet, or never. */
function validity(path, current) {
  if (path.validated) return h("span", { class: "check good" }, icon("check"), "validated");
  if (current) return h("span", { class: "check warn" }, icon("alert"), "not validated yet");
  return h("span", { class: "check bad" }, icon("cross"), "not validated");
}

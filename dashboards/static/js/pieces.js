// What pages are put together from: heads, cards, tables, plain notes, and buttons that act.

import { Problem } from "./api.js";
import { h, icon, replace, setText } from "./dom.js";
import { askToSignIn, confirmAction } from "./signin.js";
import { state } from "./state.js";

/** A page with its head; ``summary`` is a line below the title that changes. */
export function page(title, { tools, nav } = {}, ...content) {
  const summary = h("p", { class: "muted", id: "summary" });
  const trouble = h("p", { class: "inline-trouble", role: "alert", id: "trouble", hidden: true });
  const element = h(
    "section", { class: "page" }, nav,
    h("div", { class: "page-head" }, h("div", {}, h("h1", {}, title), summary), tools && h("div", { class: "tools" }, tools)),
    trouble, content,
  );
  return {
    element,
    say: (text) => setText(summary, text),
    complain: (text) => {
      trouble.hidden = !text;
      setText(trouble, text ?? "");
    },
  };
}

export function card(title, body, { name, flush } = {}) {
  return h("section", { class: `card ${flush ? "flush" : ""}`, "aria-label": title, dataset: name ? { card: name } : undefined }, h("h2", {}, title), flush ? body : h("div", { class: "card-body" }, body));
}

/** Plain words in place of an empty table. */
export const note = (mark, ...words) => h("div", { class: "empty" }, icon(mark), words.map((text) => (typeof text === "string" ? h("p", {}, text) : text)));

/** A table whose cells, on a narrow screen, are labelled by their column, unless it is ``compact``. */
export function table(id, titles, rows, { compact } = {}) {
  return h(
    "div", { class: "scroll" },
    h("table", { class: `grid ${compact ? "compact" : ""}`, id },
      h("thead", {}, h("tr", {}, titles.map((text) => (text ? h("th", { scope: "col" }, text) : h("td", {}))))),
      h("tbody", {}, rows)),
  );
}

export function row(titles, cells, properties) {
  return h("tr", properties, cells.map((cell, index) => h("td", { "data-label": titles[index] || null, class: typeof cell === "number" ? "number" : null }, typeof cell === "number" ? String(cell) : cell ?? "–")));
}

/** Put new content in place; what has the focus keeps it when an element with the same ``data-key`` is there again. */
export function renew(element, ...children) {
  const fresh = h("div", {}, children);
  if (element.isEqualNode && element.childNodes.length === fresh.childNodes.length && [...element.childNodes].every((child, index) => child.isEqualNode(fresh.childNodes[index]))) return;
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...fresh.childNodes);
  if (key) [...element.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus({ preventScroll: true });
}

export const pill = (tone, text, title) => h("span", { class: `mark ${tone}`, title }, h("span", { class: "dot", "aria-hidden": "true" }), text);

const WHY = "Needs the role operator";

/** Why actions are not offered, for the top of a page; nothing where they are. */
export const unableNote = () => !state.mayAct && h("p", { class: "hint unable", id: "unable" }, `You are signed in as ${state.name} (${state.role}): looking is possible, changing things needs the role operator.`);

/** A button for a change; ``unable`` says why it is not possible just now. */
export function action(label, act, { mark, danger, primary, key, id, unable } = {}) {
  const why = state.mayAct ? unable : WHY;
  return h("button", {
    type: "button", id, class: `button ${danger ? "danger" : ""} ${primary ? "primary" : ""}`, disabled: Boolean(why), title: why || null, "data-key": key ?? null, onclick: act,
  }, mark && icon(mark), label);
}

/** Carry out a change, after signing in where that is missing; what is refused is told to ``complain``. */
export async function perform(change, complain, { confirm, why = "This changes something." } = {}) {
  if (!state.signedIn && !(await askToSignIn(why))) {
    complain("Nothing was changed: that needs signing in.");
    return undefined;
  }
  if (!state.mayAct) {
    complain(`Nothing was changed: that needs the role operator; ${state.name} is a ${state.role}.`);
    return undefined;
  }
  if (confirm && !(await confirmAction(confirm))) return undefined;
  try {
    const answer = await change();
    complain("");
    return answer;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    complain(problem.message);
    return undefined;
  }
}

/** Load by ``read``, show by ``show``; a refusal is put into ``place`` in plain words. */
export async function fill(place, read, show, missing) {
  try {
    show(await read());
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    replace(place, h("div", { class: "card" }, note(problem.status === 0 || problem.status === 503 ? "plug" : "alert", missing?.(problem) ?? problem.message)));
  }
}

/** Listen, until the answer is called. */
export function listen(...listeners) {
  for (const [target, name, listener] of listeners) target.addEventListener(name, listener);
  return () => {
    for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
  };
}

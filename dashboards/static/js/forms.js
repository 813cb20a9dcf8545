// Forms out of descriptions of members: what each does stands at its field, and so does what is wrong with it.

import { h, replace, setText } from "./dom.js";

let numbers = 0;

/** The member of ``value`` at a path such as ``match.imsi``. */
const at = (value, path) => path.split(".").reduce((found, part) => found?.[part], value);

function put(value, path, member) {
  const parts = path.split(".");
  const last = parts.pop();
  let place = value;
  for (const part of parts) place = place[part] ??= {};
  place[last] = member;
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

const READ = {
  text: (input) => input.value.trim() || undefined,
  secret: (input) => input.value.trim() || undefined,
  number: (input) => (input.value === "" ? undefined : Number(input.value)),
  flag: (input) => input.checked,
  choice: (input) => input.value || undefined,
  list: (input) => input.value.split(/[\s,]+/).filter(Boolean),
};

function control({ kind, options, placeholder, min, max, step, required, length }, id, described, value) {
  const shared = { id, "aria-describedby": described, required };
  if (kind === "flag") return h("input", { ...shared, type: "checkbox", checked: Boolean(value) });
  if (kind === "choice") {
    return h("select", shared, options.map((option) => {
      const [key, label, barred] = Array.isArray(option) ? option : [option, option];
      return h("option", { value: key, selected: (value ?? "") === key, disabled: barred }, label);
    }));
  }
  const text = Array.isArray(value) ? value.join(", ") : value;
  if (kind === "number") return h("input", { ...shared, type: "number", min, max, step: step ?? 1, inputmode: step ? "decimal" : "numeric", placeholder, value: text ?? null });
  return h("input", { ...shared, type: "text", class: kind === "secret" ? "mono" : null, placeholder, value: text ?? null, maxlength: length ?? 200, autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
}

/** One field: {name, label, kind, about, …}; ``kind`` is text, secret, number, flag, choice or list. */
function field(member, value) {
  const id = `field-${++numbers}`;
  const about = h("p", { class: "about", id: `${id}-about` }, member.about ?? "");
  const wrong = h("p", { class: "wrong", id: `${id}-wrong` });
  const input = control(member, id, `${id}-about ${id}-wrong`, value);
  const label = h("label", { for: id }, member.label, member.required && h("span", { class: "muted" }, " (needed)"));
  const parts = member.kind === "flag" ? [h("div", { class: "flag" }, input, label), about, wrong] : [label, input, about, wrong];
  const read = () => READ[member.kind](input);
  const before = read();
  return {
    element: h("div", { class: `field ${member.kind}`, dataset: { field: member.name } }, parts),
    name: member.name,
    initial: member.initial,
    input,
    read,
    get changed() {
      return !same(read(), before);
    },
    complain(text) {
      setText(wrong, text ?? "");
      if (text) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    },
  };
}

/** Fields in groups: [{title, open, fields}]; ``values`` are what they begin with. */
export function fieldset(groups, values = {}) {
  const fields = [];
  const elements = groups.map(({ title, fields: members, closed }) => {
    const own = members.map((member) => field(member, at(values, member.name) ?? member.initial));
    fields.push(...own);
    const grid = h("div", { class: "fields" }, own.map((each) => each.element));
    return closed === undefined ? h("fieldset", {}, h("legend", {}, title), grid) : h("details", { open: !closed }, h("summary", {}, title), grid);
  });

  /** Which field a path of the server means: its own, or the one that it is a part of. */
  const find = (path) => fields.find((each) => each.name === path) ?? fields.find((each) => path.startsWith(`${each.name}.`));

  return {
    elements,
    /** What was filled in; empty lists, and flags that are off as without the form, are left out. */
    read() {
      const value = {};
      for (const each of fields) {
        const member = each.read();
        if (member !== undefined && (member !== false || each.initial) && !(Array.isArray(member) && !member.length)) put(value, each.name, member);
      }
      return value;
    },
    /** What differs from the beginning; null where a field was emptied. */
    changes() {
      const value = {};
      for (const each of fields) if (each.changed) put(value, each.name, each.read() ?? null);
      return value;
    },
    clear: () => fields.forEach((each) => each.complain("")),
    /** Put a refusal at its fields; what belongs to none is the answer. */
    complain(problem) {
      const rest = [];
      for (const { name, detail } of located(problem)) {
        const where = name && find(name);
        if (where) where.complain(detail);
        else rest.push(name ? `${name}: ${detail}` : detail);
      }
      const first = fields.find((each) => each.input.hasAttribute("aria-invalid"));
      first?.element.closest("details")?.setAttribute("open", "");
      first?.input.focus();
      return rest.join("; ");
    },
  };
}

/** The places that a problem names: its ``errors`` (422 of the server), or the member that a node begins with. */
function located(problem) {
  if (problem.errors.length) return problem.errors;
  const text = problem.node && problem.message.startsWith(`${problem.node}: `) ? problem.message.slice(problem.node.length + 2) : problem.message;
  const found = /^(?:rule: )?([a-z_0-9]+(?:\.[a-z_0-9]+)*): (.+)$/.exec(text);
  if (found) return [{ name: found[1], detail: found[2] }];
  return [{ name: "", detail: text.replace(/^rule: \(top\): (?:got a mapping, )?/, "") }];
}

/**
 * A dialog with a form; ``send(form)`` carries it out and may be refused: then the dialog stays and says where.
 * The answer is what ``send`` answered, undefined when it was cancelled.
 */
export function formDialog({ id, title, about, form, extra, label, send, wide = true }) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    const trouble = h("p", { class: "trouble", role: "alert" });
    const submit = h("button", { type: "submit", class: "button primary" }, label);
    const dialog = h(
      "dialog", { class: `dialog ${wide ? "wide" : ""}`, id, "aria-labelledby": `${id}-title` },
      h("form", { method: "dialog", novalidate: true },
        h("h2", { id: `${id}-title` }, title), about && h("p", { class: "muted" }, about),
        form.elements, extra, trouble,
        h("div", { class: "dialog-actions" }, h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel"), submit)),
    );
    let answer;
    dialog.addEventListener("submit", async (event) => {
      event.preventDefault();
      form.clear();
      setText(trouble, "");
      submit.disabled = true;
      try {
        answer = await send(form);
        dialog.close();
      } catch (problem) {
        if (problem.errors === undefined) throw problem;
        const more = form.complain(problem);
        setText(trouble, more || "See the fields that are marked.");
      } finally {
        submit.disabled = false;
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus?.();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Rows of fields that can be added and removed, as for APNs; a problem at ``path.number.member`` finds its field. */
export function rows(path, members, values, { add, title }) {
  const place = h("div", { class: "form-rows" });
  let held = [];

  function show() {
    replace(place, held.map((each, index) => h("div", { class: "form-row" },
      h("div", { class: "form-row-head" }, h("h3", {}, title(index)), h("button", { type: "button", class: "button ghost", onclick: () => {
        held = held.filter((other) => other !== each);
        show();
      } }, "Remove")), each.elements)));
  }
  const append = (value) => held.push(fieldset([{ title: "Members", fields: members }], value));
  values.forEach(append);
  show();
  const read = () => held.map((each) => each.read());
  const before = JSON.stringify(read());
  return {
    element: h("fieldset", {}, h("legend", {}, add.legend), place, h("button", { type: "button", class: "button", onclick: () => {
      append({});
      show();
      place.lastElementChild.querySelector("input")?.focus();
    } }, add.label)),
    read,
    get changed() {
      return JSON.stringify(read()) !== before;
    },
    clear: () => held.forEach((each) => each.clear()),
    /** The problems that are not of these rows. */
    complain(problem) {
      const others = [];
      for (const error of located(problem)) {
        const [first, number, ...member] = error.name.split(".");
        const row = first === path ? held[Number(number)] : undefined;
        if (!row) others.push(error);
        else {
          const more = row.complain({ errors: [{ ...error, name: member.join(".") }], message: error.detail });
          if (more) others.push({ name: "", detail: more });
        }
      }
      return { errors: others, message: others.map((each) => each.detail).join("; ") };
    },
  };
}

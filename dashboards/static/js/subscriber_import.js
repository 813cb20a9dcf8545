// A file of subscribers: of a SIM vendor (CSV) or the YAML form.

import { rest } from "./rest.js";
import { h } from "./dom.js";
import { plural } from "./format.js";
import { fieldset, formDialog } from "./forms.js";

const KINDS = { csv: "text/csv", yaml: "application/yaml", yml: "application/yaml" };

/** Ask for a file and provision it; the answer is {added, replaced, told}, or undefined. */
export function importFile(parameters) {
  const file = h("input", { type: "file", id: "import-file", accept: ".csv,.yaml,.yml,text/csv,application/yaml" });
  const form = fieldset([{ title: "How", fields: [
    { name: "apn", label: "APNs", kind: "list", initial: ["internet"], about: "for subscribers whose APNs the file leaves out; the first is the default" },
    { name: "over", label: "Over subscribers that are there", kind: "flag", about: "off: with one that is there already nothing is imported" },
  ] }]);
  const chooser = h("div", { class: "field" }, h("label", { for: "import-file" }, "File"), file, h("p", { class: "about" }, "CSV with IMSI, Ki and OPc, or the YAML form; all or nothing, at most 900,000 octets"));
  return formDialog({
    id: "import-dialog", title: "Import subscribers", label: "Import", form: { ...form, elements: [chooser, form.elements] }, wide: false,
    async send() {
      const [chosen] = file.files;
      if (!chosen) throw Object.assign(new Error("Choose a file."), { errors: [], node: undefined });
      const kind = KINDS[chosen.name.toLowerCase().split(".").pop()] ?? "text/csv";
      const { apn, over } = form.read();
      const query = new URLSearchParams(parameters.slice(1));
      for (const each of apn ?? []) query.append("apn", each);
      if (over) query.set("over", "true");
      const done = await rest.sendFile(`/subscribers/import-file?${query}`, chosen, kind);
      done.sentence = `${plural(done.added, "subscriber")} added, ${done.replaced} replaced.`;
      return done;
    },
  });
}

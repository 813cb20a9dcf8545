// Fault rules of an AAA server: what it answers wrongly, to whom, how often.

import { rest, word } from "./rest.js";
import { h, icon, replace } from "./dom.js";
import { count, plural } from "./format.js";
import { fieldset, formDialog } from "./forms.js";
import { tabs } from "./navigation.js";
import { action, fill, listen, note, page, perform, pill, renew, row, table, unableNote } from "./pieces.js";
import { whileVisible } from "./polling.js";
import { servers } from "./servers.js";
import { state } from "./state.js";

const INTERVAL = 2000;
const TITLES = ["Rule", "For", "Does", "Left", "Met", "Applied", ""];

const RULE = [
  { name: "name", label: "Name", kind: "text", required: true, length: 64, placeholder: "twice-unknown", about: "letters, digits, . _ -; no other rule has it" },
  { name: "times", label: "Times", kind: "number", min: 1, about: "how often it is applied before it is spent; for ever without it" },
];
const MATCH = [
  { name: "match.imsi", label: "IMSI", kind: "text", placeholder: "00101*", about: "an IMSI, a prefix such as 00101*, or a range first-last; anybody without it" },
  { name: "match.apn", label: "APN", kind: "text", placeholder: "internet", length: 100, about: "any without it" },
  { name: "match.command", label: "Answers to", kind: "choice", options: [["", "anything the gateway asks"], "DER", "AAR", "STR", "MAR", "SAR"], about: "MAR and SAR are what the AAA server asks the HSS: refused, delayed or not answered only where they are named" },
  { name: "match.step", label: "Step", kind: "choice", options: [["", "any"], "identity", "challenge", "final"], about: "what the answer to a DER does: ask who the user is, challenge, or end the exchange" },
  { name: "match.attempts", label: "Attempts", kind: "text", placeholder: "1-2", about: "which of a subscriber's attempts: 1, 2-4, 3- or every 3; one Diameter session is one attempt" },
  { name: "match.share", label: "Share", kind: "number", min: 0, max: 1, step: "any", about: "the part of those that it hits, 0 to 1" },
  { name: "match.seed", label: "Seed", kind: "number", min: 0, about: "another share of them" },
];
const ANSWER = [
  { name: "action.result", label: "Result", kind: "text", placeholder: "DIAMETER_ERROR_USER_UNKNOWN", about: "in place of the right one: a name, a number or vendor:number such as 10415:5004" },
  { name: "action.backoff", label: "Back-off", kind: "number", min: 1, max: 86400, about: "seconds, as OC-Validity-Duration (RFC 7683): the UE stays away so long" },
  { name: "action.delay", label: "Delay", kind: "number", min: 0, max: 3600, step: "any", about: "seconds; longer than the gateway waits: NETWORK_FAILURE" },
  { name: "action.truncate", label: "Cut after", kind: "number", min: 1, about: "octets that are left of the answer" },
  { name: "action.silence", label: "No answer", kind: "flag", about: "nothing else that the answer would carry goes with it" },
  { name: "action.duplicate", label: "Answer twice", kind: "flag", about: "the gateway counts the second one" },
  { name: "action.wrong_session_id", label: "Wrong Session-Id", kind: "flag", about: "the gateway cannot tell whose answer it is" },
];
const EAP = [
  { name: "action.eap_failure", label: "EAP-Failure", kind: "flag", about: "in place of the EAP packet" },
  { name: "action.wrong_mac", label: "Wrong AT_MAC", kind: "flag", about: "the UE answers AKA-Client-Error (RFC 4187 §6.3.1)" },
  { name: "action.wrong_autn", label: "Wrong AUTN", kind: "flag", about: "MAC-A does not verify: AKA-Authentication-Reject" },
  { name: "action.old_sqn", label: "Old SQN", kind: "flag", about: "the UE answers with AUTS, and the HSS resynchronises (TS 33.102 §6.3.5)" },
  { name: "action.clear_amf_bit", label: "AMF separation bit cleared", kind: "flag", about: "EAP-AKA' refuses it (RFC 9048 §3.4); EAP-AKA does not look" },
  { name: "action.wrong_keys", label: "Wrong CK and IK", kind: "flag", about: "AT_MAC does not verify at the other end" },
];
const WORDS = new Map([...RULE, ...MATCH, ...ANSWER, ...EAP].map((each) => [each.name, each.label]));
const said = (group, members) => Object.entries(members ?? {}).map(([name, value]) => {
  const label = WORDS.get(`${group}.${name}`) ?? name;
  return value === true ? label : `${label} ${value}`;
});

export function mountFaults(main, _, query) {
  const chosen = servers(query, "#/faults");
  const body = h("div", {});
  const buttons = h("div", { class: "tools" });
  const shown = page("Fault rules", { nav: tabs("subscribers", "#/faults"), tools: [chosen.element, buttons] },
    h("p", { class: "muted lead" }, "The AAA server asks them in this order for every answer; the first that fits decides what goes wrong."), unableNote(), body);
  replace(main, shown.element);
  document.title = "Fault rules · ePDG dashboard";
  const absent = chosen.missing();
  if (absent) {
    replace(body, h("div", { class: "card" }, absent));
    return () => {};
  }

  const load = () => fill(body, () => rest.get("/faults", { node: chosen.name }), ({ faults }) => {
    shown.say(faults.length ? `${plural(faults.length, "rule")} at ${chosen.name}, ${plural(faults.reduce((sum, each) => sum + (each.applied ?? 0), 0), "answer")} spoilt` : `${chosen.name} answers as it should.`);
    renew(buttons, [
      action("Add", add, { primary: true, id: "add-fault", key: "add" }),
      action("Remove all", clear, { danger: true, key: "clear", unable: faults.length ? "" : "There is no rule" }),
    ]);
    renew(body, faults.length ? h("div", { class: "card flush" }, table("faults", TITLES, faults.map(ruleRow))) : h("div", { class: "card" }, note("check", "No fault rule.", "Add one to see how the gateway and the UE take a wrong answer.")));
  });

  const ruleRow = (rule) => row(TITLES, [
    h("span", {}, h("strong", {}, rule.name), rule.enabled === false && pill("", "off"), rule.origin === "configuration" && h("span", { class: "badge", title: "It is there again when the node is started anew" }, "configuration")),
    said("match", rule.match).join(", ") || "everything the gateway asks", said("action", rule.action).join(", "),
    rule.remaining === 0 ? "spent" : rule.remaining == null ? "for ever" : count(rule.remaining), count(rule.matched ?? 0), count(rule.applied ?? 0),
    h("span", { class: "row-actions" }, action("Remove", () => remove(rule.name), { danger: true, mark: "close", key: `remove-${rule.name}` })),
  ], { dataset: { rule: rule.name } });

  async function add() {
    const form = fieldset([
      { title: "The rule", fields: RULE },
      { title: "When", fields: MATCH },
      { title: "What the answer is", fields: ANSWER },
      { title: "What the EAP packet or the vector is", fields: EAP, closed: true },
    ]);
    const send = () => rest.post(`/faults${chosen.parameters}`, { action: {}, ...form.read() });
    const added = await perform(() => formDialog({ id: "fault-dialog", title: "Add a fault rule", about: "Behind the others; it is gone when the node ends.", label: "Add", form, send }), shown.complain, { why: "A fault rule changes what the AAA server answers." });
    if (added) await load();
  }

  async function remove(name) {
    if (await perform(() => rest.remove(word`/faults/${name}` + chosen.parameters), shown.complain)) await load();
  }

  async function clear() {
    const confirm = { title: "Remove every rule?", text: "Those of the configuration too, until the node is started anew.", action: "Remove all" };
    if (await perform(() => rest.remove(`/faults${chosen.parameters}`), shown.complain, { confirm })) await load();
  }

  const stop = whileVisible(INTERVAL, load);
  const silent = listen([state, "refreshed", load]);
  return () => {
    stop();
    silent();
  };
}

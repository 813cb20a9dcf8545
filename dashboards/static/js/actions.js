// What an operator can have the gateway do with a session; what came of it is said in words.

import { api } from "./api.js";
import { ask } from "./dialogs.js";
import { h, replace } from "./dom.js";
import { clock, duration, imsi } from "./format.js";
import { askToSignIn } from "./signin.js";
import { state } from "./state.js";

const TOLD = 5; // results that are kept in sight
const begun = (what) => () => `${what}; the ladder shows it.`;
const answered = (what) => (answer) => (answer.answered
  ? `${what}: the UE answered after ${duration(answer.seconds)} at ${answer.path?.remote}.`
  : `${what}: the UE has not answered for ${duration(answer.seconds)} at ${answer.path?.remote}.`);

const ACTIONS = [
  { name: "liveness", label: "Is it alive?", title: "Send an empty INFORMATIONAL and wait for the answer (RFC 7296 §2.4)", waits: true, told: answered("Liveness") },
  { name: "check-path", label: "Check path", title: "Ask for return routability with COOKIE2 (RFC 4555 §3.7)", waits: true, told: answered("Path") },
  { name: "rekey-ike", label: "Rekey IKE SA", title: "CREATE_CHILD_SA for a new IKE SA (RFC 7296 §1.3.2)", told: begun("Rekeying of the IKE SA has begun") },
  { name: "rekey-child", label: "Rekey child SAs", title: "CREATE_CHILD_SA with REKEY_SA (RFC 7296 §1.3.3)", told: begun("Rekeying of the child SAs has begun") },
  {
    name: "redirect", label: "Redirect …", title: "Send the UE to another gateway (RFC 5685 §5)", told: (answer) => `The UE is told to go to ${answer.gateway}.`,
    ask: { title: "Redirect to another gateway?", text: "The UE ends this session itself, and attaches there.", action: "Redirect",
      fields: [{ name: "gateway", label: "Gateway", hint: "An IP address or a domain name.", required: true }] },
    body: ({ gateway }) => ({ gateway: gateway.trim() }),
  },
  {
    name: "restore-pcscf", label: "Restore P-CSCF …", title: "Tell the UE other P-CSCF addresses (TS 23.380 §5.6.5)", told: begun("The UE is told the new P-CSCF addresses"),
    ask: { title: "Other P-CSCF addresses?", text: "For UEs that announced P_CSCF_RESELECTION_SUPPORT. The tunnel stays.", action: "Tell the UE",
      fields: [{ name: "addresses", label: "Addresses", hint: "IP addresses, separated by commas or blanks.", required: true }] },
    body: ({ addresses }) => ({ addresses: addresses.split(/[\s,]+/).filter(Boolean) }),
  },
  {
    name: "reauthenticate", label: "Authenticate anew …", title: "Send AUTH_LIFETIME (RFC 4478 §2)", told: begun("The UE is told to authenticate anew"),
    ask: { title: "Authenticate anew?", text: "The UE attaches again within the time given, or loses the session.", action: "Ask for it",
      fields: [{ name: "lifetime", label: "Seconds that it has", hint: "Nothing: at once.", pattern: "[0-9]*" }] },
    body: ({ lifetime }) => (lifetime ? { lifetime: Number(lifetime) } : {}),
  },
];

const DETACH = {
  text: "The gateway deletes the IKE SA and its child SAs towards the UE and ends the Diameter session.",
  fields: [{ name: "cause", label: "Cause", options: [["operator", "By the operator: the UE may attach again"], ["reactivate", "For reactivation: the UE is told to attach again at once"]] }],
  action: "Detach", danger: true,
};

/** Why an action is not offered now, in words; empty when it is. */
export function obstacle(session, gone) {
  if (!state.mayAct) return `Needs the role operator; ${state.name} is a ${state.role}.`;
  if (!state.gatewayReachable) return "The gateway cannot be reached.";
  if (gone || !session) return "The gateway does not know this session any more.";
  if (session.state === "closed") return "The session is closed.";
  return "";
}

export function mountActions(place, id, { done }) {
  const why = h("p", { class: "hint", id: "actions-why" });
  const told = h("div", { class: "told-results", role: "log", "aria-label": "What came of it" });
  const buttons = ACTIONS.map((action) => h("button", { type: "button", class: "button small", id: `act-${action.name}`, title: action.title, "aria-describedby": "actions-why", onclick: (event) => act(action, event.currentTarget) }, action.label));
  const grid = h("div", { class: "action-grid" }, buttons);
  replace(place, grid, why, told);
  let blocked = "";

  function tell(good, text) {
    told.prepend(h("p", { class: good ? "" : "bad-text" }, h("span", { class: "muted number" }, clock(Date.now() / 1000)), " ", text));
    while (told.children.length > TOLD) told.lastChild.remove();
  }

  async function act(action, button) {
    if (!(await allowed(tell))) return;
    const given = action.ask ? await ask(action.ask) : {};
    if (given === null) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    try {
      tell(true, action.told(await api.act(id, action.name, action.body?.(given) ?? {})));
    } catch (problem) {
      tell(false, `${action.label.replace(/ …|\?/, "")}: ${problem.message}`);
      if (problem.status === 401) state.refresh();
    }
    button.removeAttribute("aria-busy");
    button.disabled = Boolean(blocked);
    done();
  }

  return {
    tell,
    /** Whether there is anything to see: what came of the last action stays when it has ended the session. */
    get any() {
      return !grid.hidden || told.children.length > 0;
    },
    show(session, gone) {
      grid.hidden = gone || session.state === "closed";
      blocked = obstacle(session, gone) || (session.state === "established" ? "" : `The session is ${session.state}.`);
      why.textContent = blocked;
      why.hidden = !blocked || grid.hidden;
      for (const button of buttons) button.disabled = Boolean(blocked) || button.hasAttribute("aria-busy");
    },
  };
}

/** Whether one may act; asks to sign in where that is what is missing. */
async function allowed(tell) {
  if (!state.signedIn && !(await askToSignIn("Only somebody who has signed in may change a session."))) {
    tell(false, "Not done: only somebody who has signed in may do that.");
    return false;
  }
  if (state.mayAct) return true;
  tell(false, `Not done: this needs the role operator; ${state.name} is a ${state.role}.`);
  return false;
}

/** Ask for the cause, and detach; `tell` is given what came of it. */
export async function detach(session, id, tell) {
  if (!state.signedIn && !(await askToSignIn("Detaching a session changes the gateway's state."))) {
    tell(false, "Not detached: only somebody who has signed in may detach a session.");
    return;
  }
  if (!state.mayAct) {
    tell(false, `Not detached: this needs the role operator; ${state.name} is a ${state.role}.`);
    return;
  }
  const given = await ask({ title: `Detach ${imsi(session?.imsi)}?`, ...DETACH });
  if (given === null) return;
  try {
    await api.detach(id, given.cause);
    tell(true, given.cause === "reactivate" ? "Detached; the UE was told to attach again." : "Detached.");
  } catch (problem) {
    tell(false, problem.message);
    if (problem.status === 401) state.refresh();
  }
}

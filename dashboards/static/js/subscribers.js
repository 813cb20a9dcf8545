// Subscribers of an HSS: searched, added, changed, removed, imported, exported; and one with its registration.

import { rest, word } from "./rest.js";
import { h, icon, replace } from "./dom.js";
import { bitRate, count, imsi, plural } from "./format.js";
import { tabs } from "./navigation.js";
import { action, card, fill, listen, note, page, perform, pill, row, table, unableNote } from "./pieces.js";
import { servers, whenBack } from "./servers.js";
import { state } from "./state.js";
import { addSubscriber, changeSubscriber } from "./subscriber_form.js";
import { importFile } from "./subscriber_import.js";

const PAGE = 50;
const TITLES = ["IMSI", "MSISDN", "State", "APNs", "Algorithm", "SQN"];
let kept = "";

export function mountSubscribers(main, query) {
  let next = null;
  let found = [];
  let total = 0;
  let round = 0;
  const chosen = servers(query, "#/subscribers");
  const search = h("input", { type: "search", id: "search", placeholder: "IMSI, MSISDN, IMEI or APN", "aria-label": "Search subscribers", autocomplete: "off", spellcheck: "false" });
  search.value = kept;
  const buttons = h("div", { class: "tools" });
  const body = h("div", {});
  const shown = page("Subscribers", { nav: tabs("subscribers", "#/subscribers"), tools: [chosen.element, h("label", { class: "search" }, icon("search"), search), buttons] }, unableNote(), body);
  replace(main, shown.element);
  document.title = "Subscribers · ePDG dashboard";
  const absent = chosen.missing();
  if (absent) {
    replace(body, h("div", { class: "card" }, absent));
    return () => {};
  }

  replace(
    buttons,
    action("Add", async () => {
      const added = await perform(() => addSubscriber(chosen.parameters), shown.complain, { why: "Adding a subscriber changes the HSS." });
      if (added) location.hash = word`#/subscribers/${added.imsi}` + chosen.parameters;
    }, { primary: true, id: "add-subscriber" }),
    action("Import", async () => {
      const done = await perform(() => importFile(chosen.parameters), shown.complain, { why: "An import changes the HSS." });
      if (!done) return;
      await load();
      shown.say(done.sentence);
    }, { id: "import-subscribers" }),
    ["csv", "yaml"].map((form) => h("a", { class: "button", href: `/api/v1/subscribers/export${chosen.parameters || "?"}${chosen.parameters ? "&" : ""}format=${form}`, download: `subscribers.${form}`, title: "Without keys" }, `Export ${form.toUpperCase()}`)),
  );

  async function load(cursor) {
    const mine = ++round;
    const text = kept.trim();
    await fill(body, () => rest.get("/subscribers", { text, limit: PAGE, cursor, node: chosen.name }), (answer) => {
      if (mine !== round) return;
      found = cursor ? [...found, ...answer.subscribers] : answer.subscribers;
      ({ next, total } = answer);
      show(text);
    });
  }

  function show(text) {
    shown.say(`${plural(total, "subscriber")}${text ? ` with “${text}”` : ""} at ${chosen.name}`);
    if (!found.length) {
      replace(body, h("div", { class: "card" }, text ? note("search", "No subscriber matches.") : note("card", "No subscriber yet.", "Add one, or import a file of a SIM vendor (IMSI, Ki, OPc).")));
      return;
    }
    replace(body, h("div", { class: "card flush" }, table("subscribers", TITLES, found.map((each) => row(TITLES, [
      h("a", { class: "row-link mono", href: word`#/subscribers/${each.imsi}` + chosen.parameters, "data-key": each.imsi }, imsi(each.imsi)),
      each.msisdn, standing(each), each.apns.map((apn) => apn.apn).join(", ") || "none", each.algorithm, h("span", { class: "mono" }, each.sqn),
    ], { dataset: { imsi: each.imsi } })))), next !== null && h("div", { class: "more" }, h("button", { type: "button", class: "button", onclick: () => load(next) }, "More subscribers")));
  }

  let typing = 0;
  search.addEventListener("input", () => {
    kept = search.value;
    clearTimeout(typing);
    typing = setTimeout(() => load(), 200);
  });
  const silent = listen([state, "refreshed", () => load()], whenBack(chosen.name, () => load()));
  load();
  return () => {
    clearTimeout(typing);
    silent();
  };
}

const standing = (each) => (!each.enabled ? pill("bad", "disabled") : each.non_3gpp_allowed && each.wlan_allowed ? pill("good", "enabled") : pill("warn", "no WLAN"));

export function mountSubscriber(main, name, query) {
  const chosen = servers(query, word`#/subscribers/${name}`);
  const body = h("div", {});
  const buttons = h("div", { class: "tools" });
  const shown = page(imsi(name), { nav: tabs("subscribers", "#/subscribers"), tools: buttons }, unableNote(), body);
  replace(main, shown.element);
  document.title = `${name} · ePDG dashboard`;
  const path = word`/subscribers/${name}`;

  const load = () => fill(body, () => Promise.all([rest.get(path, { node: chosen.name }), registration(path, chosen.name)]), ([subscriber, registered]) => {
    shown.say(subscriber.enabled ? "Subscriber" : "Subscriber, disabled");
    replace(buttons, changes(subscriber, registered));
    replace(body, h("div", { class: "panels" }, facts(subscriber), h("div", { class: "stack" }, apns(subscriber), registrationCard(registered))));
  });

  async function told(change, done, options) {
    const answer = await perform(change, shown.complain, options);
    if (answer === undefined) return;
    await load();
    shown.say(done(answer));
  }

  function changes(subscriber, registered) {
    const ends = { title: `Remove ${subscriber.imsi}?`, text: "The subscriber is forgotten, keys too; sessions of the user end.", action: "Remove" };
    return [
      h("a", { class: "button ghost", href: `#/subscribers${chosen.parameters}` }, icon("back"), "All subscribers"),
      action("Change", () => told(() => changeSubscriber(subscriber, chosen.parameters), ({ told: answer }) => `Changed. ${answer ? `The AAA server answered: ${answer}.` : "Nobody serves the user now."}`, { why: "This changes the subscriber." }), { id: "change-subscriber", primary: true }),
      action("Push profile", () => told(() => rest.post(`${path}/push-profile${chosen.parameters}`), (answer) => `Profile pushed: ${answer.result}.`), { unable: registered ? "" : "The user is not registered: nobody is there to be told" }),
      action("End registration", () => told(() => rest.remove(`${path}/registration${chosen.parameters}`), (answer) => `Registration ended: ${answer.result}.`, { confirm: { title: "End the registration?", text: "RTR to the AAA server, which aborts the user's sessions at their gateways.", action: "End it" } }), { danger: true, unable: registered ? "" : "The user is not registered" }),
      action("Remove", async () => {
        const gone = await perform(() => rest.remove(path + chosen.parameters), shown.complain, { confirm: ends });
        if (gone) location.hash = `#/subscribers${chosen.parameters}`;
      }, { danger: true, id: "remove-subscriber" }),
    ];
  }

  const silent = listen([state, "refreshed", load], whenBack(chosen.name, load));
  load();
  return silent;
}

/** Where the user is served; null where nowhere. */
async function registration(path, node) {
  try {
    return await rest.get(`${path}/registration`, { node });
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

const yes = (value) => (value ? "yes" : "no");
const rate = (bits) => (bits === null ? "not limited" : bitRate(bits));

function facts(each) {
  const lines = [
    ["IMSI", h("span", { class: "mono" }, each.imsi)], ["MSISDN", each.msisdn ?? "none"], ["IMEI", each.imei ?? "any"], ["State", standing(each)],
    ["Algorithm", each.algorithm], ["K", each.k ? "stored, not shown" : "none"], ["OPc", each.opc ? "stored, not shown" : each.op ? "out of OP" : "none"],
    ["AMF, SQN", h("span", { class: "mono" }, `${each.amf}, ${each.sqn}`)], ["Non-3GPP, WLAN", `${yes(each.non_3gpp_allowed)}, ${yes(each.wlan_allowed)}`],
    ["Roaming", each.roaming_allowed ? each.visited_networks.join(", ") || "everywhere" : "no"],
    ["UE-AMBR, up / down", `${rate(each.ambr_ul)} / ${rate(each.ambr_dl)}`], ["Session timeout", each.session_timeout === null ? "none" : `${count(each.session_timeout)} s`],
  ];
  return card("Subscription", h("dl", { class: "facts" }, lines.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)])), { name: "subscription" });
}

function apns(each) {
  const titles = ["APN", "Addresses", "Static", "AMBR, up / down", "QCI, ARP", "PGW"];
  if (!each.apns.length) return card("APNs", note("alert", "No APN: every attach is refused with NO_APN_SUBSCRIPTION."));
  return card("APNs", table("apns", titles, each.apns.map((apn) => row(titles, [
    h("strong", {}, apn.apn, apn.default && h("span", { class: "badge" }, "default")), apn.type, [apn.ipv4, apn.ipv6].filter(Boolean).join(", ") || "–",
    `${rate(apn.ul)} / ${rate(apn.dl)}`, `${apn.qci ?? "–"}, ${apn.priority ?? "–"}`, apn.pgw ?? "–",
  ]))), { flush: true });
}

function registrationCard(found) {
  if (!found) return card("Registration", h("p", { class: "muted" }, "No AAA server serves the user now: it is not attached."), { name: "registration" });
  const pgws = Object.entries(found.pgws).map(([apn, pgw]) => `${apn}: ${pgw}`).join(", ");
  return card("Registration", h("dl", { class: "facts" }, [["AAA server", found.server], ["Realm", found.realm ?? "–"], ["PDN gateways", pgws || "none reported"], ["Sessions", h("a", { href: `#/aaa-sessions?imsi=${found.imsi}` }, "SWm sessions of the user")]].map(([label, value]) => [h("dt", {}, label), h("dd", { class: "break" }, value)])), { name: "registration" });
}

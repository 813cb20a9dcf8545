// Facts of a session: who it is, what it may do, its security associations.

import { h, replace } from "./dom.js";
import { count, duration, moment, octets, selector } from "./format.js";

export function card(name) {
  const body = h("div", { class: "card-body" });
  return { element: h("section", { class: "card", dataset: { card: name.toLowerCase() } }, h("h2", {}, name), body), body };
}

export function facts(...pairs) {
  return h("dl", { class: "facts" }, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== "").map(([name, value, style]) => [h("dt", {}, name), h("dd", { class: style ?? "" }, value)]));
}

/** Put new content only when it differs: a selection, and the eye, stay where they are. */
function update(place, ...content) {
  const made = h("div", {}, content);
  if (place.firstElementChild?.isEqualNode(made)) return;
  replace(place, made);
}

export function showIdentity(place, session) {
  update(
    place,
    facts(
      ["IMSI", session.imsi, "mono"],
      ["NAI", session.nai, "mono break"],
      ["Device", session.device_identity, "mono"],
      ["APN", session.apn],
      ["Emergency", session.emergency ? "yes" : null],
      ["Inner address", session.inner_addresses.join(", "), "mono strong"],
      ["Gateway", session.gateway],
      ["Session", session.id, "mono"],
      ["Diameter session", session.diameter_session_id, "mono break"],
      ["Last error", session.last_error && `${session.last_error.cause}: ${session.last_error.text}`, "bad-text"],
    ),
  );
}

const bits = (number) => (number >= 1e6 ? `${count(number / 1e6)} Mbit/s` : `${count(number / 1e3)} kbit/s`);

/** What the AAA server granted (TS 29.273 §7.2.3.1: APN-Configuration), or false when it told nothing. */
export function showAuthorisation(place, session) {
  const profile = session.authorisation;
  if (!profile) return false;
  const { qos, ambr } = profile;
  update(
    place,
    facts(
      ["Granted by", profile.server, "mono break"],
      ["APN", profile.apn],
      ["PDN type", profile.pdn_type],
      ["APN-AMBR", ambr && `${bits(ambr.uplink_bits)} up, ${bits(ambr.downlink_bits)} down`],
      ["QoS", qos && `QCI ${qos.qci}, priority ${qos.priority_level}`],
      ["Pre-emption", qos && `${qos.pre_emption_capability ? "may" : "may not"} pre-empt, ${qos.pre_emption_vulnerability ? "may" : "may not"} be pre-empted`],
      ["Static address", (profile.static_addresses ?? []).join(", "), "mono"],
      ["Ends after", profile.session_timeout ? duration(profile.session_timeout) : null],
      ["Renewed", profile.renewed ? moment(profile.renewed) : null],
    ),
  );
  return true;
}

export function showSas(place, session) {
  const ike = session.ike;
  update(
    place,
    ike && ikeSa(ike),
    ...session.child_sas.map(childSa),
    !ike && session.child_sas.length === 0 && h("p", { class: "muted" }, "None yet."),
  );
}

function ikeSa(ike) {
  const nat = [ike.nat.local && "gateway", ike.nat.remote && "UE"].filter(Boolean).join(" and ");
  return h("div", { class: "sa" }, h("h3", {}, "IKE SA", ike.suite && h("span", { class: "badge mono" }, ike.suite)), facts(
    ["SPIs", `${ike.spi_i} / ${ike.spi_r}`, "mono break"],
    ["State", ike.state],
    ["Since", typeof ike.established === "number" ? moment(ike.established) : null],
    ["NAT", nat ? `in front of the ${nat}` : "none detected"],
    ["MOBIKE", ike.mobike ? "supported" : "not supported"],
    ["Lifetime", lifetime(ike.lifetime)],
    ["Rekeyed", ike.rekeys === null || ike.rekeys === undefined ? null : ike.rekeys ? `${count(ike.rekeys)} times` : "not yet"],
    ["Requests sent", ike.requests_sent === null || ike.requests_sent === undefined ? null : `${count(ike.requests_sent)}, ${count(ike.retransmissions_sent ?? 0)} retransmitted`],
  ));
}

function childSa(child) {
  return h("div", { class: "sa" }, h("h3", {}, "Child SA", child.suite && h("span", { class: "badge mono" }, child.suite)), facts(
    ["SPIs in / out", `${child.inbound_spi} / ${child.outbound_spi}`, "mono"],
    ["Path", child.path ? child.path.remote : "", "mono"],
    ["Encapsulation", typeof child.encapsulation === "string" ? child.encapsulation : child.encapsulation ? "ESP in UDP" : "plain ESP"],
    ["Mode", child.mode === "beet" ? `BEET, ${octets(child.counters?.overhead_saved_octets ?? 0)} of headers saved` : child.mode],
    ["Lifetime", lifetime(child.lifetime)],
    ["Gateway side", child.local_selectors.map(selector).join(", "), "mono break"],
    ["UE side", child.remote_selectors.map(selector).join(", "), "mono break"],
  ));
}

/** When an SA is to be replaced, and when it ends at the latest: seconds since 1970, each may be null. */
function lifetime(given) {
  if (!given) return null;
  const now = Date.now() / 1000;
  return [given.rekey_at && `rekeyed in ${duration(given.rekey_at - now)}`, given.expires_at && `ends in ${duration(given.expires_at - now)}`].filter(Boolean).join(", ") || "without limit";
}

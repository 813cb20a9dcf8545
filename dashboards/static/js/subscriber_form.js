// The members of a subscriber, and the dialogs that add and change one.

import { rest, word } from "./rest.js";
import { fieldset, formDialog, rows } from "./forms.js";

const IDENTITY = [
  { name: "imsi", label: "IMSI", kind: "text", required: true, about: "6 to 15 digits, MCC and MNC first", placeholder: "001010000000042", length: 15 },
  { name: "msisdn", label: "MSISDN", kind: "text", about: "the telephone number, up to 15 digits without +", length: 15 },
  { name: "imei", label: "IMEI", kind: "text", about: "the one device that the subscription is bound to; any without it", length: 16 },
];
const KEYS = [
  { name: "algorithm", label: "Algorithm", kind: "choice", options: ["milenage", "tuak", "xor"], initial: "milenage", about: "TS 35.206, TS 35.231, TS 34.108 (test)" },
  { name: "k", label: "K", kind: "secret", about: "32 hexadecimal digits; 64 are possible with TUAK" },
  { name: "opc", label: "OPc", kind: "secret", about: "32 hexadecimal digits; TOPc, 64, with TUAK" },
  { name: "op", label: "OP", kind: "secret", about: "in place of OPc; TOP with TUAK" },
  { name: "amf", label: "AMF", kind: "secret", placeholder: "8000", about: "4 hexadecimal digits; 8000 sets the separation bit, which EAP-AKA' needs" },
  { name: "sqn", label: "SQN", kind: "secret", placeholder: "000000000000", about: "up to 12 hexadecimal digits; it only goes forward" },
];
const RIGHTS = [
  { name: "enabled", label: "Enabled", kind: "flag", initial: true, about: "off: every attach is refused as unknown" },
  { name: "non_3gpp_allowed", label: "Non-3GPP access", kind: "flag", initial: true, about: "Non-3GPP-IP-Access of TS 29.273" },
  { name: "wlan_allowed", label: "WLAN", kind: "flag", initial: true, about: "the access type WLAN is not forbidden" },
  { name: "roaming_allowed", label: "Roaming", kind: "flag", initial: true, about: "in visited networks" },
  { name: "visited_networks", label: "Visited networks", kind: "list", about: "such as 001-01, 262-01; empty: any", placeholder: "001-01" },
  { name: "session_timeout", label: "Session timeout", kind: "number", min: 1, about: "seconds until the gateway asks again; none without it" },
  { name: "ambr_ul", label: "UE-AMBR uplink", kind: "number", min: 0, about: "bits per second, all APNs together" },
  { name: "ambr_dl", label: "UE-AMBR downlink", kind: "number", min: 0, about: "bits per second" },
];
const APN = [
  { name: "apn", label: "APN", kind: "text", required: true, placeholder: "internet", length: 100 },
  { name: "default", label: "Default APN", kind: "flag", about: "for a UE that names none" },
  { name: "type", label: "Addresses", kind: "choice", options: ["ipv4v6", "ipv4", "ipv6", "ipv4-or-ipv6"], initial: "ipv4v6" },
  { name: "ipv4", label: "Static IPv4", kind: "text", about: "out of the pool without it" },
  { name: "ipv6", label: "Static IPv6", kind: "text", about: "a /64 prefix" },
  { name: "ul", label: "APN-AMBR uplink", kind: "number", min: 0, about: "bits per second" },
  { name: "dl", label: "APN-AMBR downlink", kind: "number", min: 0, about: "bits per second" },
  { name: "qci", label: "QCI", kind: "number", min: 1, max: 255, about: "of the default bearer" },
  { name: "priority", label: "ARP priority", kind: "number", min: 1, max: 15, about: "1 is the highest" },
  { name: "pre_emption_capability", label: "May pre-empt", kind: "flag" },
  { name: "pre_emption_vulnerability", label: "May be pre-empted", kind: "flag", initial: true },
  { name: "visited_dynamic_address", label: "Address of the visited network", kind: "flag" },
  { name: "pgw", label: "PGW", kind: "text", about: "host name or address of the PGW that is allocated" },
];
const APN_WORDS = { title: (index) => `APN ${index + 1}`, add: { legend: "APNs", label: "Add an APN" } };

function groups(keys) {
  return [
    { title: "Identity", fields: keys.new ? IDENTITY : IDENTITY.filter(({ name }) => name !== "imsi") },
    { title: "Keys", fields: keys.new ? KEYS.map((each) => (each.name === "k" ? { ...each, required: true } : each)) : KEYS.map((each) => ({ ...each, about: ["k", "op", "opc"].includes(each.name) ? `${each.about}; empty: as it is` : each.about })), closed: !keys.new },
    { title: "What is allowed", fields: RIGHTS, closed: keys.new },
  ];
}

function whole(form, apns) {
  return {
    ...form,
    clear() {
      form.clear();
      apns.clear();
    },
    complain: (problem) => form.complain(apns.complain(problem)),
  };
}

/** Ask for a new subscriber; the answer is the subscriber, or undefined. */
export function addSubscriber(parameters) {
  const form = fieldset(groups({ new: true }));
  const apns = rows("apns", APN, [{ apn: "internet", default: true }], APN_WORDS);
  return formDialog({
    id: "subscriber-dialog", title: "Add a subscriber", label: "Add", form: whole(form, apns), extra: apns.element,
    send: () => rest.post(`/subscribers${parameters}`, { ...form.read(), apns: apns.read() }),
  });
}

/** Ask for changes; the answer is {subscriber, told}, or undefined. */
export function changeSubscriber(subscriber, parameters) {
  const { k, op, opc, ...known } = subscriber; // not shown, and not overwritten
  const form = fieldset(groups({ new: false }), known);
  const apns = rows("apns", APN, subscriber.apns, APN_WORDS);
  return formDialog({
    id: "subscriber-dialog", title: `Change ${subscriber.imsi}`, label: "Save", form: whole(form, apns), extra: apns.element,
    about: "Where the user is attached, the change reaches its gateway at once (TS 29.273 §8.1.2.3).",
    send: () => rest.patch(word`/subscribers/${subscriber.imsi}` + parameters, { ...form.changes(), ...(apns.changed ? { apns: apns.read() } : {}) }),
  });
}

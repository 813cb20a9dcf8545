"""The nodes' own configuration files: every key is in the example, and a bad value is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from epdg.config import EpdgConfiguration
from protocols.errors import ConfigurationError
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.io.algorithms import weakness
from protocols.io.configuration import ConfigurationModel, parse
from tests.harness.refusals import without_line
from ue.config import UeConfiguration

ROOT = Path(__file__).resolve().parents[2]
NODES: dict[str, type[ConfigurationModel]] = {"epdg": EpdgConfiguration, "ue": UeConfiguration}

# key, value in YAML, how the line goes on after the file's name
TUNNEL_REFUSALS = [
    ("data_plane.dscp", "64", "data_plane.dscp: got 64, expected copy, or a number from 0 to 63"),
    ("data_plane.dscp", "EF", "data_plane.dscp: got 'EF', expected copy, or a number from 0 to 63"),
    ("data_plane.dscp", "true", "data_plane.dscp: got true, expected copy, or a number from 0 to 63"),
    ("data_plane.outer_mtu", "575", "data_plane.outer_mtu: got 575, expected at least 576"),
    ("data_plane.outer_mtu", "auto", "data_plane.outer_mtu: got 'auto', expected a whole number"),
    (
        "data_plane.clamp_mss",
        "off",
        "data_plane.clamp_mss: got 'off', expected null, auto, or octets from 216 to 65495",
    ),
    ("data_plane.clamp_mss", "0", "data_plane.clamp_mss: got 0, expected null, auto, or octets from 216 to 65495"),
    ("data_plane.replay_window", "31", "data_plane.replay_window: got 31, expected at least 32"),
    ("data_plane.replay_window", "4097", "data_plane.replay_window: got 4097, expected at most 4096"),
]
EPDG_REFUSALS = [
    *TUNNEL_REFUSALS,
    ("ike.suites", "[rot13]", "ike.suites.0: got 'rot13', expected a suite such as aes128-sha256-x25519, or a policy"),
    ("ike.suites", "[]", "ike.suites: got an empty list, expected a length of at least 1"),
    ("ike.suites", "legacy", "ike.suites: got 'legacy', expected a list"),
    (
        "ike.esp_suites",
        "[default, aes128-sha256-prfsha256]",
        "ike.esp_suites.1: got 'aes128-sha256-prfsha256', expected a suite such as aes128gcm16, or a policy",
    ),
    (
        "ike.acceptable_addresses",
        "[10.0.0.1/8]",
        "ike.acceptable_addresses.0: got '10.0.0.1/8', expected a network such as 10.45.0.0/16",
    ),
    ("ike.follow_esp", "sometimes", "ike.follow_esp: got 'sometimes', expected true or false"),
    (
        "ike.force_encapsulation",
        "sometimes",
        "ike.force_encapsulation: got 'sometimes', expected auto, true or false",
    ),
    ("ike.allow_beet", "perhaps", "ike.allow_beet: got 'perhaps', expected true or false"),
    ("ike.hold_lifetime", "0", "ike.hold_lifetime: got 0, expected more than 0"),
    ("ike.cookie_rate", "0", "ike.cookie_rate: got 0, expected more than 0.0"),
    ("ike.cookie_threshold", "-1", "ike.cookie_threshold: got -1, expected at least 0"),
    ("ike.half_open_limit", "0", "ike.half_open_limit: got 0, expected at least 1"),
    ("ike.half_open_limit_per_source", "0", "ike.half_open_limit_per_source: got 0, expected at least 1"),
    ("ike.unprotected_rate", ".inf", "ike.unprotected_rate: got '.inf', expected a number"),
    ("ike.qcd_secret", "7", "ike.qcd_secret: got a value that is not shown, expected a path"),
    ("ike.child_lifetime", "0", "ike.child_lifetime: got 0, expected more than 0"),
    (
        "ike.child_lifetime",
        "{soft: 100, hard: 100}",
        "ike.child_lifetime: got a mapping, expected hard to be more than its soft limit",
    ),
    ("ike.child_lifetime", "{soft_octets: 0}", "ike.child_lifetime.soft_octets: got 0, expected at least 1"),
    ("ike.child_lifetime", "{jitter: 0.6}", "ike.child_lifetime.jitter: got 0.6, expected at most 0.5"),
    (
        "ike.ike_lifetime",
        "{soft_octets: 1000}",
        "ike.ike_lifetime.soft_octets: got an unknown key, expected no such key: known keys are soft, hard, jitter",
    ),
    ("ike.ike_lifetime", "daily", "ike.ike_lifetime: got 'daily', expected a number of seconds, or a mapping"),
    ("ike.additional_children", "-1", "ike.additional_children: got -1, expected at least 0"),
    ("ike.authentication_lifetime", "0", "ike.authentication_lifetime: got 0, expected more than 0"),
    ("ike.application_version", '"ä"', "ike.application_version: got 'ä', expected text like ^[ -~]{1,255}$"),
    ("ike.ue_liveness_period", "0", "ike.ue_liveness_period: got 0, expected at least 1"),
    ("ike.fragmentation", "perhaps", "ike.fragmentation: got 'perhaps', expected true or false"),
    ("ike.fragment_size", "255", "ike.fragment_size: got 255, expected at least 256"),
    ("ike.window_size", "256", "ike.window_size: got 256, expected at most 255"),
    ("ike.childless", "perhaps", "ike.childless: got 'perhaps', expected true or false"),
    ("ike.redirect", "{}", "ike.redirect.gateway: got nothing, expected a value"),
    (
        "ike.redirect",
        '{gateway: "two words"}',
        "ike.redirect.gateway: got 'two words', expected an address or a domain name such as epdg2.example",
    ),
    (
        "ike.redirect",
        "{gateway: 192.0.2.1, stage: later}",
        "ike.redirect.stage: got 'later', expected 'init' or 'authentication'",
    ),
    ("ike.redirect", "{gateway: 192.0.2.1, threshold: -1}", "ike.redirect.threshold: got -1, expected at least 0"),
    (
        "ike.redirect",
        "{gateway: 192.0.2.1, anycast: [everywhere]}",
        "ike.redirect.anycast.0: got 'everywhere', expected an IP address",
    ),
    ("ike.redirected_lifetime", "0", "ike.redirected_lifetime: got 0, expected more than 0"),
    ("ike.resumption", "{}", "ike.resumption.secret_file: got nothing, expected a value"),
    (
        "ike.resumption",
        "{secret_file: x, lifetime: 7200, key_interval: 3600}",
        "ike.resumption.lifetime: got 7200, expected at most key_interval",
    ),
    ("certificate.pss", "maybe", "certificate.pss: got 'maybe', expected true or false"),
    ("certificate.ocsp", "response.der", "certificate.ocsp: got 'response.der', expected a list"),
    ("further_certificates", "[{chain: a.pem}]", "further_certificates.0.key: got nothing, expected a value"),
    ("authentication.methods", "[]", "authentication.methods: got an empty list, expected a length of at least 1"),
    (
        "authentication.methods",
        "[password]",
        "authentication.methods.0: got 'password', expected 'eap', 'psk' or 'certificate'",
    ),
    (
        "authentication.methods",
        "[psk]",
        "authentication.psk: got a value that is not shown, expected the keys of the UEs",
    ),
    (
        "authentication.methods",
        "[certificate]",
        "authentication.certificate_authorities: got an empty list, expected PEM files",
    ),
    (
        "authentication.gateway",
        "eap",
        "authentication.gateway: got 'eap', expected psk or certificate",
    ),
    (
        "authentication.psk",
        '{ue@example.org: ""}',
        "authentication.psk.ue@example.org: got a value that is not shown, expected text, not empty",
    ),
    (
        "authentication.revocation",
        "sometimes",
        "authentication.revocation: got 'sometimes', expected 'off', 'if-present' or 'required'",
    ),
    ("authentication.crls", "crl.pem", "authentication.crls: got 'crl.pem', expected a list"),
    (
        "apns.internet.pool6",
        "2001:db8::/64",
        "apns.internet.pool6: got '2001:db8::/64', expected networks with a /64 for each UE, such as 2001:db8:45::/48",
    ),
    (
        "apns.internet.pool",
        "[10.45.0.0/16, 10.48.0.0/31]",
        "apns.internet.pool: got a list, expected networks with room for at least two hosts, such as 10.45.0.0/24",
    ),
    (
        "apns.ims.pool",
        "[10.46.0.0/16, 10.45.7.0/24]",
        "apns: got a mapping, expected pools that do not overlap: 10.45.7.0/24 of ims and 10.45.0.0/16 of internet do",
    ),
    (
        "apns.ims.pool6",
        "[2001:db8:47::/48, 2001:db8:47:8000::/49]",
        "apns: got a mapping, expected pools that do not overlap: 2001:db8:47:8000::/49 of ims and "
        "2001:db8:47::/48 of ims do",
    ),
    (
        "apns.internet.excluded",
        "[10.45.0.9-10.45.0.2]",
        "apns.internet.excluded.0: got '10.45.0.9-10.45.0.2', expected an address, a network, or a range such as "
        "10.45.0.2-10.45.0.99",
    ),
    (
        "apns.internet.excluded",
        "[10.45.0.9-2001:db8::1]",
        "apns.internet.excluded.0: got '10.45.0.9-2001:db8::1', expected an address, a network, or a range",
    ),
    ("apns.internet.excluded", "[7]", "apns.internet.excluded.0: got 7, expected an address, a network, or a range"),
    ("apns.internet.egress", "nat", "apns.internet.egress: got 'nat', expected 'routed', 'masqueraded' or 'none'"),
    ("apns.internet.egress_interface", "eth/0", "apns.internet.egress_interface: got 'eth/0', expected text like"),
    (
        "apns.internet.egress_next_hop",
        "[192.0.2.1]",
        "apns.internet: got a mapping, expected an egress_interface where there is an egress_next_hop",
    ),
    (
        "apns.internet",
        "{pool: 10.45.0.0/16, egress_interface: eth0, egress_next_hop: [192.0.2.1, 192.0.2.2]}",
        "apns.internet: got a mapping, expected at most one egress_next_hop of each IP version",
    ),
    (
        "apns.internet",
        "{pool: 10.45.0.0/16, egress_interface: eth0, egress: none}",
        "apns.internet: got a mapping, expected no egress_interface where egress is none",
    ),
    (
        "apns.internet.ue_to_ue",
        "true",
        "(top): got a mapping, expected data_plane.kind: tun, which egress, egress_interface and ue_to_ue "
        "of internet need",
    ),
    (
        "apns.internet.pool6",
        "10.0.0.0/8",
        "apns.internet.pool6: got '10.0.0.0/8', expected an IPv6 network such as 2001:db8::/48",
    ),
    (
        "apns.internet.requested_address",
        "always",
        "apns.internet.requested_address: got 'always', expected 'preferred' or 'required'",
    ),
    ("ike.require_device_identity", "7", "ike.require_device_identity: got 7, expected true or false"),
    ("refusals", "7", "refusals: got 7, expected a path"),
    (
        "aaa_initiated.reactivation",
        "sometimes",
        "aaa_initiated.reactivation: got 'sometimes', expected 'never' or 'always'",
    ),
    ("emergency", "{apn: sos}", "emergency.apn: got 'sos', expected one of the APNs listed under apns"),
    (
        "emergency",
        "{unauthenticated: perhaps}",
        "emergency.unauthenticated: got 'perhaps', expected 'allow' or 'refuse'",
    ),
    ("limits.connections_per_ue", "0", "limits.connections_per_ue: got 0, expected at least 1"),
    ("limits.congestion_threshold", "many", "limits.congestion_threshold: got 'many', expected a whole number"),
    ("diameter.host", "a b", "diameter.host: got 'a b', expected a domain name such as aaa.example.org"),
    ("diameter.peers", "[{host: aaa.test}]", "diameter.peers.0.address: got nothing, expected a value"),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1, transport: dtls}]",
        "diameter.peers.0.transport: got 'dtls', expected 'tcp', 'tls' or 'sctp'",
    ),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1, transport: tls}]",
        "diameter.tls: got nothing, expected certificates, which a peer with transport: tls needs",
    ),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1}, {host: AAA.test, address: 192.0.2.2}]",
        "diameter.peers: got a list, expected every host once",
    ),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1, weight: 0}]",
        "diameter.peers.0.weight: got 0, expected at least 1",
    ),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1, priority: -1}]",
        "diameter.peers.0.priority: got -1, expected at least 0",
    ),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1, applications: [cx]}]",
        "diameter.peers.0.applications.0: got 'cx', expected 'swm', 'swx' or 's6b'",
    ),
    (
        "diameter.peers",
        '[{host: aaa.test, address: 192.0.2.1, realms: [""]}]',
        "diameter.peers.0.realms.0: got '', expected a domain name such as aaa.example.org",
    ),
    (
        "diameter.peers",
        "[{host: aaa.test, address: 192.0.2.1, on_demand: perhaps}]",
        "diameter.peers.0.on_demand: got 'perhaps', expected true or false",
    ),
    ("diameter.tls", "{chain: a.pem, key: a.key}", "diameter.tls.authority: got nothing, expected a value"),
    (
        "diameter.peers",
        "[{host: epdg.epc.mnc001.mcc001.3gppnetwork.org, address: 192.0.2.1}]",
        "diameter.peers: got a list, expected other nodes than host itself",
    ),
    ("diameter.watchdog_interval", "5", "diameter.watchdog_interval: got 5, expected at least 6.0"),
    (
        "diameter.limits",
        "{message_length: 100}",
        "diameter.limits.message_length: got 100, expected at least 1024",
    ),
    ("diameter.limits", "{requests: 0}", "diameter.limits.requests: got 0, expected at least 1"),
    ("diameter.limits", "{answers: 1}", "diameter.limits.answers: got 1, expected at least 20"),
    ("apns.internet", "{dns: []}", "apns.internet: got a mapping, expected pool (IPv4), pool6 (IPv6) or both"),
]
UE_REFUSALS = [
    *TUNNEL_REFUSALS,
    ("force_encapsulation", "0", "force_encapsulation: got 0, expected auto, true or false"),
    ("child_sa.mode", "transport", "child_sa.mode: got 'transport', expected 'tunnel' or 'beet'"),
    ("child_sa", "{mode: beet}", "child_sa: got a mapping, expected child_sa.remote_host, the one host that mode"),
    (
        "child_sa.remote_host",
        "2001:db8::1",
        "child_sa.remote_host: got '2001:db8::1', expected an address of the IP version that pdn_type asks for alone",
    ),
    (
        "algorithms.ike",
        "[aes128-sha256]",
        "algorithms.ike.0: got 'aes128-sha256', expected a suite such as aes128-sha256-x25519, or a policy",
    ),
    (
        "algorithms.esp",
        "[aes128gcm16-rot13]",
        "algorithms.esp.0: got 'aes128gcm16-rot13', expected a suite such as aes128gcm16, or a policy",
    ),
    ("authentication", "password", "authentication: got 'password', expected 'eap', 'psk' or 'certificate'"),
    ("authentication", "psk", "psk: got nothing, expected a key, which authentication: psk needs"),
    (
        "authentication",
        "certificate",
        "certificate: got nothing, expected a chain and its key, which authentication: certificate needs",
    ),
    ("certificate", "{chain: ue.pem}", "certificate.key: got nothing, expected a value"),
    ("psk", '""', "psk: got a value that is not shown, expected text, not empty"),
    ("identity", '""', "identity: got '', expected text without control characters"),
    ("imsi", "null", "imsi: got nothing, expected an IMSI, which only a card or a server of one can tell instead"),
    (
        "additional_pdns",
        "{internet: {}}",
        "additional_pdns: got a mapping, expected PDN connections with an APN of their own each",
    ),
    (
        "additional_pdns",
        "{voice: {apn: internet.mnc001.mcc001.gprs}}",
        "additional_pdns: got a mapping, expected PDN connections with an APN of their own each",
    ),
    ("additional_pdns", "{ims: {apn: ..}}", "additional_pdns.ims.apn: got '..', expected an APN such as internet"),
    (
        "additional_pdns",
        "{ims: {request: {previous_addresses: [2001:db8::1]}}}",
        "additional_pdns.ims.request.previous_addresses: got a list, expected at most one address of each IP version",
    ),
    (
        "additional_pdns",
        "{ims: {data_plane: {kind: tun, device: tun7}}, mms: {data_plane: {kind: tun, device: tun7}}}",
        "additional_pdns: got a mapping, expected a data_plane.device of its own for each PDN connection",
    ),
    (
        "data_plane.namespace",
        "phone",
        "data_plane: got a mapping, expected kind: tun where there is a namespace",
    ),
    ("data_plane.namespace", "../phone", "data_plane.namespace: got '../phone', expected text like"),
    ("additional_pdns", "{ims: {acces: a}}", "additional_pdns.ims.acces: got an unknown key"),
    ("usim", "{k: 00}", "usim: got a mapping, expected either opc or op"),
    (
        "usim.k",
        "0011",
        "usim: got a mapping, expected keys that fit the algorithm (K of milenage has 16 octets, not 2)",
    ),
    ("usim.k", "secret", "usim.k: got a value that is not shown, expected an even number of hexadecimal digits"),
    ("usim.algorithm", "comp128", "usim.algorithm: got 'comp128', expected 'milenage', 'tuak' or 'xor'"),
    ("usim.res_length", "3", "usim.res_length: got 3, expected at least 4"),
    (
        "usim.res_length",
        "16",
        "usim: got a mapping, expected keys that fit the algorithm (RES of milenage has not 16 octets)",
    ),
    ("usim.tuak_iterations", "0", "usim.tuak_iterations: got 0, expected at least 1"),
    (
        "usim.tuak_iterations",
        "2",
        "usim: got a mapping, expected keys that fit the algorithm (milenage has not 2 iterations)",
    ),
    ("eap.methods", "[]", "eap.methods: got an empty list, expected a length of at least 1"),
    ("eap.methods", "[sim]", "eap.methods.0: got 'sim', expected 'aka' or 'aka-prime'"),
    ("eap.methods", "[aka, aka]", "eap: got a mapping, expected each of the methods once"),
    ("eap.outer_identity", "none", "eap.outer_identity: got 'none', expected 'temporary' or 'permanent'"),
    ("eap.identity_form", "imsi", "eap.identity_form: got 'imsi', expected 'nai' or 'username'"),
    ("eap.visited", "{mcc: 310}", "eap.visited.mnc: got nothing, expected a value"),
    ("eap.emergency", "now", "eap.emergency: got 'now', expected true or false"),
    ("usim.ind_bits", "17", "usim.ind_bits: got 17, expected at most 16"),
    ("eap.privacy", "high", "eap.privacy: got 'high', expected 'liberal' or 'conservative'"),
    ("eap.pseudonyms", "some", "eap.pseudonyms: got 'some', expected true or false"),
    ("eap.reauthentication", "some", "eap.reauthentication: got 'some', expected true or false"),
    ("eap.result_indications", "some", "eap.result_indications: got 'some', expected true or false"),
    ("eap.network_name", '""', "eap.network_name: got '', expected a length of at least 1"),
    ("eap.network_name_mismatch", "shout", "eap.network_name_mismatch: got 'shout', expected 'reject' or 'warn'"),
    ("eap.state", "7", "eap.state: got 7, expected a path"),
    ("pdn_type", "ipv5", "pdn_type: got 'ipv5', expected 'ipv4', 'ipv6' or 'ipv4v6'"),
    (
        "request.p_cscf",
        "[private]",
        "request.p_cscf.0: got 'private', expected 'rfc7651', 'private-16384' or 'private-16389'",
    ),
    (
        "request.previous_addresses",
        "[10.45.0.9, 10.45.0.10]",
        "request.previous_addresses: got a list, expected at most one address of each IP version of pdn_type",
    ),
    (
        "request.previous_addresses",
        '["2001:db8::1"]',
        "request.previous_addresses: got a list, expected at most one address of each IP version of pdn_type",
    ),
    (
        "gateway.other_address",
        "127.0.1.2",
        "gateway: got a mapping, expected an other_address of the IP version that address is not of",
    ),
    ("gateway.other_address", "elsewhere", "gateway.other_address: got 'elsewhere', expected an IP address"),
    (
        "gateway.revocation",
        "sometimes",
        "gateway.revocation: got 'sometimes', expected 'off', 'if-present' or 'required'",
    ),
    (
        "gateway.selection",
        "{configured: [two words]}",
        "gateway.selection.configured.0: got 'two words', expected an IP address or a domain name such as "
        "epdg.example.org",
    ),
    (
        "gateway.selection",
        "{configured_use: only}",
        "gateway.selection: got a mapping, expected gateways under configured, which configured_use: only needs",
    ),
    (
        "gateway.selection",
        "{country: abroad}",
        "gateway.selection.country: got 'abroad', expected text like ^[0-9]{3}$",
    ),
    (
        "gateway.selection",
        "{registered: {mcc: 345, mnc: 12, tracking_area: 65536}}",
        "gateway.selection.registered.tracking_area: got 65536, expected at most 65535",
    ),
    (
        "gateway.selection",
        "{preferred: [{plmn: any, fqdn: area}]}",
        "gateway.selection.preferred.0.fqdn: got 'area', expected 'operator' or 'location'",
    ),
    ("gateway.address", "null", "gateway: got a mapping, expected gateway.address, or gateway.selection to find it by"),
    ("gateway.selection", "{preferred: [{plmn: some}]}", "gateway.selection.preferred.0.plmn: got 'some', expected"),
    ("retry.intervals", "[]", "retry.intervals: got an empty list, expected a length of at least 1"),
    ("retry.give_up_after", "0", "retry.give_up_after: got 0, expected at least 1"),
    (
        "retry.rules",
        "[{causes: [NOBODY]}]",
        "retry.rules.0.causes: got a list, expected causes such as USER_UNKNOWN, 24 or 9000-9050",
    ),
    (
        "retry.rules",
        "[{causes: [24], bars: nobody}]",
        "retry.rules.0.bars: got 'nobody', expected 'none', 'gateway', 'plmn' or 'everywhere'",
    ),
    ("dns", "{servers: [ns.example]}", "dns.servers.0: got 'ns.example', expected an IP address"),
    ("dns", "{timeout: 0}", "dns.timeout: got 0, expected more than 0"),
    ("gateway.crls", "crl.pem", "gateway.crls: got 'crl.pem', expected a list"),
    (
        "child_lifetime",
        "{soft_packets: 10, hard_packets: 5}",
        "child_lifetime: got a mapping, expected hard_packets to be more than its soft limit",
    ),
    ("ike_lifetime", "-1", "ike_lifetime: got -1, expected more than 0"),
    ("additional_children", "-1", "additional_children: got -1, expected at least 0"),
    ("childless", "perhaps", "childless: got 'perhaps', expected true or false"),
    ("redirect.obey", "always", "redirect.obey: got 'always', expected 'never', 'authenticated' or 'any'"),
    ("redirect.names", "{epdg2.example: there}", "redirect.names.epdg2.example: got 'there', expected an IP address"),
    ("resumption", "perhaps", "resumption: got 'perhaps', expected true or false"),
    ("reactivate", "perhaps", "reactivate: got 'perhaps', expected true or false"),
    ("fragment_size", "65536", "fragment_size: got 65536, expected at most 65535"),
    ("window_size", "0", "window_size: got 0, expected at least 1"),
    ("path_test_after", "0", "path_test_after: got 0, expected more than 0"),
    ("silence_interval", "0", "silence_interval: got 0, expected more than 0"),
    ("update_cookie", "perhaps", "update_cookie: got 'perhaps', expected true or false"),
    ("hold_lifetime", "0", "hold_lifetime: got 0, expected more than 0"),
]


def example(node: str) -> str:
    return (ROOT / node / "example.yaml").read_text(encoding="utf-8")


def changed(text: str, dotted: str, value: str) -> str:
    """The YAML with one value replaced; all else stays as it is written, quotes too."""
    root = yaml.compose(text, yaml.BaseLoader)
    section = root
    *names, last = dotted.split(".")
    for name in names:
        section = next(node for key, node in section.value if key.value == name)
    key = yaml.ScalarNode("tag:yaml.org,2002:str", last)
    section.value = [(each, node) for each, node in section.value if each.value != last]
    section.value.append((key, yaml.compose(value, yaml.BaseLoader)))
    return yaml.serialize(root, Dumper=yaml.BaseDumper)


def refused(node: str, key: str, value: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(changed(example(node), key, value), NODES[node], file="f")
    line = without_line(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("key", "value", "line"), EPDG_REFUSALS)
def test_a_bad_value_of_the_gateway_is_one_line(key: str, value: str, line: str) -> None:
    assert refused("epdg", key, value).startswith(f"f: {line}")


@pytest.mark.parametrize(("key", "value", "line"), UE_REFUSALS)
def test_a_bad_value_of_the_ue_is_one_line(key: str, value: str, line: str) -> None:
    assert refused("ue", key, value).startswith(f"f: {line}")


def test_a_suite_that_is_none_is_refused_with_the_names_there_are() -> None:
    line = refused("epdg", "ike.suites", "[modern, rot13-sha256-x25519]")
    assert "ike.suites.1: got 'rot13-sha256-x25519'" in line
    assert "aes256gcm16" in line
    assert "policies are default, modern, legacy" in line


@pytest.mark.parametrize("names", ["[default]", "[legacy, aes256ctr-sha512-x448]", "[aes128-sha256-x25519, Modern]"])
def test_suites_and_policies_may_be_mixed(names: str) -> None:
    epdg = parse(changed(example("epdg"), "ike.suites", names), EpdgConfiguration)
    ue = parse(changed(example("ue"), "algorithms.ike", names), UeConfiguration)
    assert epdg.ike.suites == ue.algorithms.ike
    assert IkePolicy.of(epdg.ike.suites).suites


@pytest.mark.parametrize("node", sorted(NODES))
def test_every_key_stands_in_the_example(node: str) -> None:
    """Those too that it shows in a comment only."""
    written = set(re.findall(r"([a-z0-9_]+):(?=\s|$)", example(node), re.MULTILINE))
    assert sorted(keys(NODES[node]) - written) == []


def keys(annotation: object) -> set[str]:
    """The keys of a section and of those below it."""
    found: set[str] = set()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            found |= {name} | keys(field.annotation)
    for argument in getattr(annotation, "__args__", ()):
        found |= keys(argument)
    return found


@pytest.mark.parametrize("name", ["default", "modern"])
def test_nothing_is_said_of_policies_without_weak_algorithms(name: str) -> None:
    assert weakness({"ike.suites": IkePolicy.of([name]), "ike.esp_suites": EspPolicy.of([name])}) is None


def test_weak_algorithms_are_named_once_with_the_key_that_allows_them() -> None:
    policies = {"ike.suites": IkePolicy.of(["legacy"]), "ike.esp_suites": EspPolicy.of(["default", "null-sha1"])}
    said = "Weak algorithms are on: 3des, sha1, prfsha1, modp1536, modp1024, modp768 in ike.suites; "
    assert weakness(policies) == said + "null, sha1 in ike.esp_suites."

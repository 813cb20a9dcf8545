"""What each packet of a capture is a step of: the comment that stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocols.path import Address
from protocols.trace.ike_header import IkeHeader, Key, message_key, observed
from protocols.trace.order import Timeline, text_of
from protocols.trace.pcap import ObservedDatagram
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord


class Steps:
    """Comments on the datagrams of one session.

    One comment: who (IMSI, APN), which step (``IKE_AUTH request 2: EAP-Response/AKA-Challenge [ EAP ]``), who saw it,
    and what was out of the ordinary, with bars between.
    """

    def __init__(self, records: Sequence[TraceRecord], session: Mapping[str, JsonValue] | None = None) -> None:
        """``session``: as ``sessions.get`` of the gateway describes it."""
        who = [f"{name.upper()} {(session or {}).get(name)}" for name in ("imsi", "apn") if (session or {}).get(name)]
        self._who = ", ".join(who)
        self._messages: dict[Key, TraceRecord] = {}
        self._diameter: dict[tuple[str, int], TraceRecord] = {}
        self._nodes: dict[bool, set[str]] = {True: set(), False: set()}  # by whether a stream: who has datagrams
        for record in records:
            key = message_key(record)
            if key is not None:
                self._messages.setdefault(key, record)
            elif record.kind is Kind.MESSAGE and record.body.get("protocol") == "diameter":
                self._diameter[record.node, record.sequence] = record
            elif record.kind is Kind.DATAGRAM:
                self._nodes[record.body.get("transport") in STREAMS].add(record.node)
        self._arrivals, self._repeated = _deliveries(records)

    def comment(self, record: TraceRecord) -> str:
        """Of a datagram record."""
        seen = observed(record)
        if seen is None:
            return ""
        header = IkeHeader.of(seen)
        message = self._message(record, seen, header)
        parts = [self._who, self._step(seen, header, message), self._seen_by(record, seen)]
        place = record.node, record.sequence
        if place in self._repeated or (message is not None and message.body.get("retransmission") is True):
            parts.append("retransmission")
        others = self._nodes[False] - {record.node}
        if header is not None and seen.outgoing and others and place not in self._arrivals:
            parts.append(f"lost: {' and '.join(sorted(others))} has no record of it")
        return " | ".join(part for part in parts if part)

    def _message(self, record: TraceRecord, seen: ObservedDatagram, header: IkeHeader | None) -> TraceRecord | None:
        if header is not None:
            return self._messages.get(header.key(record.node, outgoing=seen.outgoing))
        return self._diameter.get((record.node, record.sequence + 1)) if seen.transport in STREAMS else None

    def _step(self, seen: ObservedDatagram, header: IkeHeader | None, message: TraceRecord | None) -> str:
        if message is not None and header is not None:
            fragment = "" if header.fragment is None else ", fragment {} of {}".format(*header.fragment)
            return _ike_step(message) + fragment
        if message is not None:
            detail = message.body.get("detail")
            result = detail.get("Result-Code") if isinstance(detail, dict) else None
            return text_of(message, "name") + (f": {result}" if isinstance(result, str) else "")
        if header is not None:
            return "an IKE message that its receiver did not take"
        if seen.protocol == "esp" and len(seen.payload) >= 8:
            return f"ESP 0x{seen.payload[:4].hex()}, packet {int.from_bytes(seen.payload[4:8], 'big')}"
        return {"keepalive": "NAT-keepalive", "diameter": "Diameter"}.get(seen.protocol, "octets that do not parse")

    def _seen_by(self, record: TraceRecord, seen: ObservedDatagram) -> str:
        if not seen.outgoing:
            return f"received by {record.node}"
        arrival = self._arrivals.get((record.node, record.sequence))
        return f"sent by {record.node}" + (f", received by {arrival}" if arrival else "")


def _ike_step(message: TraceRecord) -> str:
    """The message in RFC notation, with the name of the EAP packet that it carries."""
    summary, detail = text_of(message, "summary") or text_of(message, "name"), message.body.get("detail")
    payloads = detail.get("payloads") if isinstance(detail, dict) else None
    for payload in payloads if isinstance(payloads, list) else []:
        packet = payload.get("eap") if isinstance(payload, dict) else None
        if isinstance(packet, dict) and isinstance(packet.get("name"), str):
            head, bracket, rest = summary.partition(" [")
            return f"{head}: {packet['name']}{bracket}{rest}"
    return summary


def _deliveries(records: Sequence[TraceRecord]) -> tuple[dict[tuple[str, int], str], set[tuple[str, int]]]:
    """Who received what a node sent, by (node, sequence), and which sent IKE datagrams had been sent before."""
    timeline = Timeline(record for record in records if record.kind is Kind.DATAGRAM)
    arrivals = {}
    for arrival, sending in timeline.datagram_senders.items():
        arrivals[sending[0], timeline.record(sending).sequence] = arrival[0]
    repeated, sent = set(), set()
    for place in timeline.places():
        record = timeline.record(place)
        if record.body.get("protocol") != "ikev2" or record.body.get("direction") != "out":
            continue
        octets = record.node, text_of(record, "payload").removeprefix("00000000")
        if octets in sent:
            repeated.add((record.node, record.sequence))
        sent.add(octets)
    return arrivals, repeated


def names_of(records: Sequence[TraceRecord]) -> dict[Address, str]:
    """Names of addresses for a capture: ``ue-192.0.2.1``; an address that two nodes have stays without."""
    owners: dict[Address, set[str]] = {}
    for record in records:
        seen = observed(record)
        if seen is not None:
            here = seen.source if seen.outgoing else seen.destination
            owners.setdefault(here.address, set()).add(record.node)
    return {address: f"{min(nodes)}-{address}" for address, nodes in owners.items() if len(nodes) == 1}

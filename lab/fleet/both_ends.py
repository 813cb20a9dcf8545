"""What the UEs have counted beside what the gateway has, and in sentences why the two differ.

A UE counts a move when the gateway has agreed, the gateway when it has checked the new address (RFC 4555 §3.7); a UE
counts an attach, the gateway a session from the first IKE_SA_INIT on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.fleet.figures import FleetFigures
from protocols.trace.records import JsonValue

NOT_ADOPTED = "address-update-failed"
UNCHECKED = "address-update-unchecked"
UNFINISHED = "attach-ended"
PROCEDURES = {"attach": "attached", "move": "moved", "detach": "detached"}  # the UEs' word and the gateway's
PLURALS = {"attach": "attaches", "move": "moves", "detach": "detaches"}


@dataclass(kw_only=True)
class GatewayCounts:
    """What a gateway has counted since its start, and the reasons of what went another way."""

    totals: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, status: JsonValue) -> GatewayCounts:
        """Out of its ``node.status``; what is not there counts as nothing."""
        fields = status if isinstance(status, dict) else {}
        reasons = fields.get("reasons")
        found = {name: _counter(counted) for name, counted in reasons.items()} if isinstance(reasons, dict) else {}
        return cls(totals=_counter(fields.get("totals")), reasons=found)

    def since(self, before: GatewayCounts) -> GatewayCounts:
        """What has been counted since ``before``."""
        reasons = {name: counted - before.reasons.get(name, Counter()) for name, counted in self.reasons.items()}
        return GatewayCounts(totals=self.totals - before.totals, reasons=reasons)

    def why(self, name: str) -> str:
        """How often what, most first."""
        return ", ".join(f"{reason} {number}" for reason, number in self.reasons.get(name, Counter()).most_common())


def both_ends(figures: FleetFigures, gateway: GatewayCounts) -> dict[str, JsonValue]:
    """For the summary."""
    counts: dict[str, JsonValue] = {
        PLURALS[procedure]: {"ues": figures.succeeded(procedure), "gateway": gateway.totals[name]}
        for procedure, name in PROCEDURES.items()
    }
    return {
        **counts,
        "gateway_sessions": gateway.totals["sessions"],
        "gateway_reasons": {name: dict(counted) for name, counted in sorted(gateway.reasons.items()) if counted},
        "differences": [*differences(figures, gateway)],
    }


def differences(figures: FleetFigures, gateway: GatewayCounts) -> list[str]:
    """In sentences; none where both ends say the same."""
    found = []
    for procedure, name in PROCEDURES.items():
        ues, theirs = figures.succeeded(procedure), gateway.totals[name]
        if ues == theirs and not (procedure == "move" and (gateway.totals[NOT_ADOPTED] or gateway.totals[UNCHECKED])):
            continue
        text = f"The UEs count {ues} {PLURALS[procedure]}, the gateway {theirs}"
        why = _explained(procedure, figures, gateway)
        found.append(f"{text}: {why}." if why else f"{text}.")
    unfinished = gateway.totals[UNFINISHED]
    if unfinished:
        text = f"The gateway began {gateway.totals['sessions']} sessions for {gateway.totals['attached']} attaches"
        found.append(f"{text}: {unfinished} ended before ({gateway.why(UNFINISHED)}).")
    if figures.stray_ike or figures.stray_esp:
        strays = f"{figures.stray_ike} IKE messages and {figures.stray_esp} ESP packets"
        found.append(f"{strays} came on accesses that their UEs had left, and were not heard.")
    return found


def _explained(procedure: str, figures: FleetFigures, gateway: GatewayCounts) -> str:
    if procedure == "move":
        kinds = ((NOT_ADOPTED, "not adopted"), (UNCHECKED, "not checked at all"))
        found = [
            f"a new address was {words} {gateway.totals[name]} times ({gateway.why(name)})"
            for name, words in kinds
            if gateway.totals[name]
        ]
        return "; ".join(found)
    if procedure == "attach" and figures.refused(procedure):
        causes = figures.outcomes[procedure].most_common()
        return "of the UEs' attaches " + ", ".join(f"{cause} {number}" for cause, number in causes)
    if procedure == "detach":
        return f"the gateway's sessions ended so: {gateway.why('detached') or 'none'}"
    return ""


def _counter(value: JsonValue) -> Counter[str]:
    fields: Mapping[str, JsonValue] = value if isinstance(value, dict) else {}
    return Counter({name: number for name, number in fields.items() if isinstance(number, int)})

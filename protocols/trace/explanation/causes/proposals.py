"""What two ends have not in common, in words: the facts of ``ikev2.disagreement``."""

from __future__ import annotations

from protocols.trace.explanation.story import fact, payloads
from protocols.trace.records import JsonValue, TraceRecord

KINDS = {
    "ENCR": "encryption",
    "INTEG": "integrity protection",
    "PRF": "the pseudorandom function",
    "KE": "the key exchange",
    "ESN": "sequence numbers",
}


def differences(record: TraceRecord) -> str:
    """What is offered and what is allowed of each transform type that has nothing in common, as clauses."""
    offered, allowed, apart = (fact(record, key) for key in ("offered", "allowed", "apart"))
    if not (isinstance(offered, dict) and isinstance(allowed, dict) and isinstance(apart, list)):
        return "the trace does not say what was offered"
    if not apart:
        return "each algorithm that is offered is allowed, but not together as they are offered"
    return "; ".join(
        f"for {KINDS.get(str(kind), str(kind))} the UE offers {_listed(offered.get(str(kind)), only=True)}"
        f" and the gateway allows {_listed(allowed.get(str(kind)))}"
        for kind in apart
    )


def offer(message: TraceRecord, payload: str) -> str:
    """All algorithms of an SA payload in a message, in the order of preference."""
    found: dict[str, None] = {}
    for sa in payloads(message, payload):
        proposals = sa.get("proposals")
        for proposal in proposals if isinstance(proposals, list) else []:
            if isinstance(proposal, dict):
                for kind in KINDS:
                    names = proposal.get(kind)
                    found.update(dict.fromkeys(map(str, names)) if isinstance(names, list) else {})
    return ", ".join(found)


def _listed(names: JsonValue, *, only: bool = False) -> str:
    if not isinstance(names, list) or not names:
        return "none"
    return ("only " if only else "") + ", ".join(map(str, names))

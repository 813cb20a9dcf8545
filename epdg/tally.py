"""How often what happened to sessions, and why: for ``node.status`` and whoever adds up a run."""

from __future__ import annotations

from collections import Counter

from epdg.commands import Tell

REASONED = {
    "address-update-failed": "why",
    "address-update-unchecked": "why",
    "attach-ended": "why",
    "detached": "why",
    "refused": "cause",
}
REASONS_MAXIMUM = 40  # of one kind, told apart


class Tally:
    """``totals`` by event; ``reasons``: of what ends, or goes another way than asked."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {}

    def count(self, told: Tell) -> None:
        """One more; the reasons are bounded in number."""
        self.totals[told.name] += 1
        key = REASONED.get(told.name)
        if key is None:
            return
        reason = str(told.data.get(key))
        if "by_peer" in told.data and key == "why":
            reason = f"by the {'UE' if told.data['by_peer'] else 'gateway'}: {reason}"
        counted = self.reasons.setdefault(told.name, Counter())
        counted[reason if reason in counted or len(counted) < REASONS_MAXIMUM else "other"] += 1

"""Words that several sentences share: who, how long, and what else a record says."""

from __future__ import annotations

from protocols.trace.explanation.story import Story, datum, said
from protocols.trace.records import Kind, TraceRecord


def number(record: TraceRecord, key: str) -> float | None:
    """A member of an event's data that is a number."""
    value = datum(record, key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def texts(record: TraceRecord, key: str) -> tuple[str, ...]:
    """A member of an event's data that is a list of texts."""
    value = datum(record, key)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def seconds(interval: float) -> str:
    """``3.5 s``, ``120 s``, ``20 ms``; a wall clock has no more digits worth telling."""
    if interval < 1:
        return f"{round(interval * 1000):g} ms"
    return f"{round(interval, 1):g} s"


def listed(what: tuple[str, ...]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(what[:-1]), *what[-1:])))


def who(story: Story) -> str:
    """``subscriber IMSI``, else by its NAI, whose first digit tells its kind (TS 23.003 §19.3.2)."""
    nai = ""
    for record in story.records:
        if record.kind is not Kind.EVENT:
            continue
        imsi = said(record, "imsi")
        if imsi:
            return f"subscriber {imsi}"
        nai = nai or said(record, "nai") or said(record, "identity")
    digits, at, _ = nai.partition("@")
    if at and digits[1:].isdecimal() and digits[:1] in ("0", "6", "8"):
        return f"subscriber {digits[1:]}"
    return f"the user {nai}" if nai else "the user"


def who_begins(story: Story) -> str:
    """The same where a sentence begins."""
    return begun(who(story))


def begun(words: str) -> str:
    """With a capital letter."""
    return words[:1].upper() + words[1:]


def stay_away(record: TraceRecord) -> str:
    """What the UE was told beside a refusal, as the end of a sentence."""
    back_off = datum(record, "back_off")
    if isinstance(back_off, str):
        return "; the UE is to stay away until it is switched off and on"
    wait = number(record, "back_off")
    return f"; the UE is to stay away for {seconds(wait)}" if wait else ""

"""From what was seen to figures: each move is given its cause, its window of time and its packets.

A move's window begins with the event that caused it and ends when it has settled: with the gateway's verdict
on the new address, a failure, or the next move. Its outage is the longest silence that touches this window
(the last packet before, the first one after); packets count from the window's beginning to ``AFTER_INTERVAL``
behind its end, and what was under way when it began. What a listener thinks of it is taken from the same time,
and from as long before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lab.mobility.expectations import judge
from lab.mobility.packets import Outage, outage, silences_between
from lab.mobility.recording import Played, Recording, Stream
from lab.mobility.result import (
    AttachResult,
    DirectionFigures,
    EventResult,
    MoveResult,
    Opinions,
    PathFigures,
    RunResult,
    StreamFigures,
)
from lab.mobility.schedule import AccessEvent, Captive, GatewayEvent, Hint, Impair, MoveTo, NatAppears, Resume
from protocols.media.log import PacketFate, figures, window
from protocols.media.score import score
from protocols.trace.records import JsonValue, Kind, TraceRecord

AFTER_INTERVAL = 1.0  # packets that were under way, buffers that empty
LISTENING_INTERVAL = 4.0  # of speech before and after a move: the E-model wants a share of loss, not one packet
CAUSES = (AccessEvent, Captive, GatewayEvent, Hint, Impair, MoveTo, NatAppears, Resume)
COINCIDENCE_INTERVAL = 0.005  # the UE's measure and the laboratory's of the same moment
ENDINGS = ("traffic-stop", "traffic-start", "detach")  # events that end a stream
HANGING_UP_INTERVAL = 1.5  # from a stream's last packet to the event that ended it: more than the slowest pace
SETTLING_EVENTS = ("moved", "address-update-failed")
COOKIE2 = "N(COOKIE2)"
GATEWAY_ADDRESS_CHANGED = "gateway address"  # why of such a path in the UE's view


def evaluate(recording: Recording, *, real_time: bool) -> RunResult:
    """The result of a run, its expectations judged."""
    moves = _moves(recording)
    played = [EventResult(at_ms=_ms(each.began), text=describe(each), error=each.error) for each in recording.played]
    result = RunResult(
        schedule=recording.name,
        title=recording.schedule.title,
        stage=recording.stage.value,
        nat=recording.nat.value,
        seed=recording.seed,
        backends=dict(recording.backends),
        duration_ms=_ms(recording.duration),
        events=tuple(played),
        attaches=tuple(_attach(each, recording.began) for each in recording.attaches),
        moves=tuple(moves),
        uplink=_whole(recording, [stream.uplink for stream in recording.streams]),
        downlink=_whole(recording, [stream.downlink for stream in recording.streams]),
        final_access=recording.final_access,
        final_gateway=recording.final_gateway,
        messages_lost=dict(sorted(recording.lost.items())),
        leaks=tuple(recording.leaks),
        checks=(),
    )
    return judge(result, recording.schedule, recording.played, real_time=real_time)


def describe(played: Played) -> str:
    """An event in a few words."""
    event = played.event
    words: list[str] = [event.do]
    for key in ("access", "to", "address", "message", "hint"):
        value = getattr(event, key, None)
        if value is not None:
            words.append(str(getattr(value, "value", value)))
    if isinstance(event, Captive):
        words.append("on" if event.captive else "off")
    return " ".join(words)


# --- moves --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A move's time, seconds since the beginning."""

    cause: Played | None
    since: float
    started: float
    settled: float
    gateway_settled: float


def _moves(recording: Recording) -> list[MoveResult]:
    views = [*recording.moves, *_gateway_changes(recording.paths)]
    views.sort(key=lambda view: _seconds(view, "started"))
    starts = [_seconds(view, "started") - recording.began for view in views]
    results: list[MoveResult] = []
    claimed: set[int] = set()
    before = 0.0  # where the move before this one had settled
    for number, view in enumerate(views):
        following = starts[number + 1] if number + 1 < len(starts) else recording.duration
        cause = _cause(recording, view, starts[number], before, claimed)
        window = _window(recording, view, cause, starts[number], following, before)
        results.append(_move(recording, number, view, window, following))
        before = starts[number]
    return results


def _gateway_changes(paths: Sequence[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Changes to another address of the gateway on the same access: the UE counts them as paths, not as moves.

    What stays unchanged it does not measure then.
    """
    return [
        {
            "from": old["access"],
            "to": new["access"],
            "outcome": "completed",
            "why": str(new["why"]),
            "started": new["since"],
            "update_seconds": 0.0,
            "old": {"local": old["local"], "remote": old["remote"]},
            "new": {"local": new["local"], "remote": new["remote"]},
        }
        for old, new in pairwise(paths)
        if new["why"] == GATEWAY_ADDRESS_CHANGED
    ]


def _cause(
    recording: Recording, view: dict[str, JsonValue], started: float, before: float, claimed: set[int]
) -> Played | None:
    """The command to move there, else what took the old access away, else the latest thing that happened at all.

    Each since the move before.
    """
    target, candidates = view.get("to"), []
    for index, played in enumerate(recording.played):
        if played.began > started + COINCIDENCE_INTERVAL or not isinstance(played.event, CAUSES):
            continue
        if isinstance(played.event, MoveTo | Resume):
            near = started - played.began <= COINCIDENCE_INTERVAL or played.ended >= started
            if index not in claimed and played.event.to == target and near:
                claimed.add(index)
                return played
        elif played.began >= before - COINCIDENCE_INTERVAL:
            candidates.append(played)
    taken = [played for played in candidates if _takes(played, str(view.get("from")))]
    return (taken or candidates)[-1] if candidates else None


def _takes(played: Played, access: str) -> bool:
    """Whether an event takes the way over an access away."""
    event = played.event
    match event:
        case AccessEvent():
            return event.do == "address-lost" and event.access == access
        case Captive():
            return event.captive and event.access == access
        case Impair():
            return event.access == access
        case _:
            return event.do in ("suspend", "gateway-down")


def _begun(recording: Recording, view: dict[str, JsonValue], since: float, before: float) -> float:
    """When the way was taken away, if that was before the cause."""
    origin = str(view.get("from"))
    taken = [each.began for each in recording.played if before <= each.began <= since and _takes(each, origin)]
    return taken[-1] if taken else since


def _window(
    recording: Recording,
    view: dict[str, JsonValue],
    cause: Played | None,
    started: float,
    following: float,
    before: float,
) -> _Window:
    update = view.get("update_seconds")
    completed = view.get("outcome") == "completed" and isinstance(update, int | float)
    settled = started + float(update) if completed and isinstance(update, int | float) else following
    verdict = next(
        (
            record.wall - recording.began
            for record in _gateway_events(recording, SETTLING_EVENTS)
            if started <= record.wall - recording.began <= following
        ),
        None,
    )
    gateway_settled = settled if verdict is None else max(settled, verdict)
    return _Window(
        cause=cause,
        since=_begun(recording, view, started if cause is None else min(cause.began, started), before),
        started=started,
        settled=settled,
        gateway_settled=gateway_settled,
    )


def _move(
    recording: Recording, number: int, view: dict[str, JsonValue], window: _Window, following: float
) -> MoveResult:
    checks, check = _return_routability(recording, window.started, following)
    end = min(window.gateway_settled + AFTER_INTERVAL, max(following, window.gateway_settled))
    commanded = window.cause is not None and isinstance(window.cause.event, MoveTo | Resume)
    requests, retransmissions = _count(view, "requests"), _count(view, "retransmissions")
    if not commanded:  # the UE counts from its decision on, which here came after requests that found the way
        requests, retransmissions = _requests(recording, window.since, window.gateway_settled)
    nat = view.get("nat")
    after = view.get("new")
    update = view.get("update_seconds")
    settled = window.gateway_settled
    return MoveResult(
        number=number + 1,
        origin=str(view["from"]),
        target=str(view["to"]),
        commanded=commanded,
        cause="the UE itself" if window.cause is None else describe(window.cause),
        cause_ms=_ms(window.since),
        started_ms=_ms(window.started),
        outcome=str(view["outcome"]),
        why=None if view.get("why") is None else str(view["why"]),
        update_ms=_ms(float(update)) if isinstance(update, int | float) else None,
        requests=requests,
        retransmissions=retransmissions,
        round_trips=_round_trips(recording, window.since if not commanded else window.started, settled),
        checks=checks,
        check_ms=check,
        inner_address_unchanged=_flag(view, "inner_address_unchanged"),
        spis_unchanged=_flag(view, "spis_unchanged"),
        nat=bool(nat.get("local")) if isinstance(nat, dict) else None,
        path_before=_path(view["old"]),
        path_after=None if after is None else _path(after),
        settled_ms=_ms(settled),
        uplink=_direction([stream.uplink for stream in recording.streams], window.since, settled, end),
        downlink=_direction([stream.downlink for stream in recording.streams], window.since, settled, end),
        mos_before=_opinions(recording.streams, window.since - LISTENING_INTERVAL, window.since),
        mos_during=_opinions(recording.streams, window.since, max(end, window.since + LISTENING_INTERVAL)),
        mos_after=_opinions(recording.streams, end, end + LISTENING_INTERVAL),
    )


def _gateway_events(recording: Recording, names: Sequence[str]) -> list[TraceRecord]:
    return [
        record
        for record in recording.records
        if record.kind is Kind.EVENT and record.node == "epdg" and record.body.get("name") in names
    ]


def _messages(recording: Recording, since: float, until: float) -> list[TraceRecord]:
    """The gateway's messages on SWu between two moments, without retransmissions."""
    return [
        record
        for record in recording.records
        if record.kind is Kind.MESSAGE
        and record.node == "epdg"
        and record.body.get("protocol") == "ikev2"
        and record.body.get("retransmission") is not True
        and since <= record.wall - recording.began <= until
    ]


def _requests(recording: Recording, since: float, until: float) -> tuple[int, int]:
    """Requests that the UE has sent, and datagrams that repeated one."""
    sent = [
        record.body.get("retransmission") is True
        for record in recording.records
        if record.kind is Kind.MESSAGE
        and record.node == "ue"
        and record.body.get("direction") == "out"
        and str(record.body.get("name")).endswith("request")
        and since <= record.wall - recording.began <= until
    ]
    return len(sent) - sum(sent), sum(sent)


def _return_routability(recording: Recording, since: float, until: float) -> tuple[int, float | None]:
    """How often the gateway asked for COOKIE2, and how long the check that was answered took."""
    asked: dict[object, float] = {}
    taken: float | None = None
    for record in _messages(recording, since, until):
        body = record.body
        if COOKIE2 not in str(body.get("summary")):
            continue
        detail = body.get("detail")
        number = detail.get("message_id") if isinstance(detail, dict) else None
        if body.get("direction") == "out" and str(body.get("name")).endswith("request"):
            asked.setdefault(number, record.wall)
        elif body.get("direction") == "in" and str(body.get("name")).endswith("response") and number in asked:
            taken = _ms(record.wall - asked[number])
    return len(asked), taken


def _round_trips(recording: Recording, since: float, until: float) -> int:
    """Exchanges that were answered, of either end."""
    messages = _messages(recording, since, until + COINCIDENCE_INTERVAL)
    return sum(str(record.body.get("name")).endswith("response") for record in messages)


# --- packets ------------------------------------------------------------------------------------------


def _direction(
    streams: Sequence[Sequence[PacketFate]], since: float, settled: float, end: float
) -> DirectionFigures | None:
    silences = [found for stream in streams if (found := outage(stream, since, settled)) is not None]
    chosen = [fate for stream in streams for fate in _concerned(stream, since, end)]
    if not chosen and not silences:
        return None
    longest: Outage | None = max(silences, key=lambda silence: silence.interval, default=None)
    score_ = figures(chosen)
    return DirectionFigures(
        outage_ms=None if longest is None else _ms(longest.interval),
        outage_from_ms=None if longest is None else _ms(longest.last),
        recovered=longest is None or longest.first is not None,
        sent=score_.sent,
        lost=score_.lost,
        duplicated=score_.duplicated,
        reordered=score_.reordered,
    )


def _concerned(stream: Sequence[PacketFate], since: float, end: float) -> list[PacketFate]:
    """The packets sent between two moments, and those lost that were under way at the first of them.

    How long these would have been under way is told by the last one that arrived before.
    """
    arrived = [fate for fate in stream if fate.received is not None and fate.received <= since]
    latest = max(arrived, key=lambda fate: fate.received or 0.0, default=None)
    transit = 0.0 if latest is None or latest.received is None else max(latest.received - latest.sent, 0.0)
    earliest = since - transit - COINCIDENCE_INTERVAL
    return [
        fate for fate in stream if since <= fate.sent < end or (fate.received is None and earliest <= fate.sent < since)
    ]


def _hung_up(recording: Recording) -> list[bool]:
    """For each stream whether the schedule ended it; the other end speaks a little longer."""
    stops = [each for each in recording.played if each.event.do in ENDINGS]
    return [
        not stream.uplink
        or any(stream.uplink[0].sent <= each.began <= stream.uplink[-1].sent + HANGING_UP_INTERVAL for each in stops)
        for stream in recording.streams
    ]


def _whole(recording: Recording, streams: Sequence[Sequence[PacketFate]]) -> StreamFigures:
    silences = [found for each in streams if (found := outage(each, 0.0, float("inf"))) is not None]
    silences += silences_between(streams, _hung_up(recording), recording.schedule.duration)
    scores = [figures(stream) for stream in streams]
    jitters = [each.jitter_ms for each in scores if each.jitter_ms is not None]
    return StreamFigures(
        sent=sum(each.sent for each in scores),
        lost=sum(each.lost for each in scores),
        duplicated=sum(each.duplicated for each in scores),
        reordered=sum(each.reordered for each in scores),
        outage_ms=max((_ms(silence.interval) for silence in silences), default=None),
        jitter_ms=round(max(jitters), 3) if jitters else None,
        mos=_opinion(streams, float("-inf"), float("inf")),
    )


def _opinions(streams: Sequence[Stream], since: float, until: float) -> Opinions:
    return Opinions(
        uplink=_opinion([stream.uplink for stream in streams], since, until),
        downlink=_opinion([stream.downlink for stream in streams], since, until),
    )


def _opinion(streams: Sequence[Sequence[PacketFate]], since: float, until: float) -> float | None:
    """Of all streams, each by how much was said in it."""
    said = [window(stream, since, until) for stream in streams]
    opinions = [(opinion.mos, len(each)) for each in said if (opinion := score(each)) is not None]
    total = sum(weight for _, weight in opinions)
    return round(sum(mos * weight for mos, weight in opinions) / total, 2) if total else None


# --- JSON of the nodes --------------------------------------------------------------------------------


def _attach(view: dict[str, JsonValue], began: float) -> AttachResult:
    return AttachResult(
        at_ms=_ms(_seconds(view, "at") - began),
        access=str(view["access"]),
        ms=_ms(_seconds(view, "seconds")),
        requests=_count(view, "requests"),
        retransmissions=_count(view, "retransmissions"),
    )


def _path(value: JsonValue) -> PathFigures:
    assert isinstance(value, dict)
    return PathFigures(local=str(value["local"]), remote=str(value["remote"]))


def _seconds(view: dict[str, JsonValue], key: str) -> float:
    value = view[key]
    assert isinstance(value, int | float)
    return float(value)


def _count(view: dict[str, JsonValue], key: str) -> int:
    value = view.get(key)
    return value if isinstance(value, int) else 0


def _flag(view: dict[str, JsonValue], key: str) -> bool | None:
    value = view.get(key)
    return value if isinstance(value, bool) else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

"""A voice stream between the UE and the host behind the gateway, both inside of the nodes' processes."""

from __future__ import annotations

from lab.mobility.stage import Client, VoiceLogs
from protocols.errors import BackendError
from protocols.trace.records import JsonValue


class NodeVoice:
    """Both ends are asked by control methods."""

    def __init__(self, ue: Client, epdg: Client, flow: int, ssrc: int) -> None:
        self._ue = ue
        self._epdg = epdg
        self._flow = flow
        self._ssrc = ssrc

    @classmethod
    async def start(cls, ue: Client, epdg: Client, destination: str, rate: float) -> NodeVoice:
        """Begin to talk to a host behind the gateway, which talks back."""
        answer = await ue.call("ue.traffic.start", kind="voice", destination=destination, rate=rate)
        return cls(ue, epdg, _number(answer, "id"), _number(answer, "ssrc"))

    async def stop(self) -> None:
        """Send no more; the host falls silent when it hears no more."""
        await self._ue.call("ue.traffic.stop", id=self._flow)

    async def logs(self) -> VoiceLogs:
        """What both have noted."""
        mine = await self._ue.call("ue.traffic.log", id=self._flow)
        theirs = await self._epdg.call("epdg.host.log", ssrc=self._ssrc)
        return VoiceLogs(
            uplink_sent=entries(mine, "sent"),
            uplink_received=entries(theirs, "received"),
            downlink_sent=entries(theirs, "sent"),
            downlink_received=entries(mine, "received"),
        )


def entries(answer: JsonValue, key: str) -> list[tuple[int, float]]:
    """Sequence numbers and moments of a log; ``BackendError`` when it has another form."""
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise BackendError(f"a voice log has no list {key}")
    result: list[tuple[int, float]] = []
    for each in found:
        match each:
            case [int(sequence), int(moment) | float(moment)]:
                result.append((sequence, float(moment)))
            case _:
                raise BackendError(f"a voice log's {key} has an entry {each!r}")
    return result


def _number(answer: JsonValue, key: str) -> int:
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, int):
        raise BackendError(f"the answer to ue.traffic.start has no {key}")
    return found

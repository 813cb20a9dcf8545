"""Configuration payloads (RFC 7296 §2.19, §3.15): asked for and granted in IKE_AUTH, exchanged later.

::

    SK {.., CP(CFG_REQUEST), SAi2, TSi, TSr}  -->  <--  SK {.., CP(CFG_REPLY), SAr2, TSi, TSr}
    INFORMATIONAL SK {CP(CFG_REQUEST)}  -->        <--  SK {CP(CFG_REPLY)}
    INFORMATIONAL SK {CP(CFG_SET)}  -->            <--  SK {CP(CFG_ACK)}

Either end may start the later exchanges; what the attributes mean is for whoever answers the question. One
attribute changes the machine itself: TIMEOUT_PERIOD_FOR_LIVENESS_CHECK (TS 24.302 §8.2.4.2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocols.errors import LocalError
from protocols.ikev2.events import (
    Answer,
    ConfigurationAnswer,
    ConfigurationExchanged,
    ConfigurationReceived,
    ConfigurationReply,
    SaState,
)
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import ConfigurationAttribute, ConfigurationPayload, Payload
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, ExchangeType
from protocols.ikev2.task import Response
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

LIVENESS_PERIOD_LENGTH = 4
_ANSWER_TO = {ConfigType.CFG_REQUEST: ConfigType.CFG_REPLY, ConfigType.CFG_SET: ConfigType.CFG_ACK}

Attributes = tuple[ConfigurationAttribute, ...]


# --- in IKE_AUTH


def build_request(sa: IkeSa) -> tuple[ConfigurationPayload, ...]:
    """CP(CFG_REQUEST), when anything is wanted."""
    wanted = sa.initiator_config.configuration_request
    return (ConfigurationPayload(type=ConfigType.CFG_REQUEST, attributes=wanted),) if wanted else ()


def requested(message: Message) -> Attributes:
    """What a CFG_REQUEST asks for, empty without one."""
    return _attributes(message, ConfigType.CFG_REQUEST) or ()


def build_reply(reply: ConfigurationReply) -> tuple[Payload, ...]:
    """CP(CFG_REPLY), when anything is granted, and what is to be said about it."""
    if not reply.attributes:
        return reply.notifies
    return (ConfigurationPayload(type=ConfigType.CFG_REPLY, attributes=reply.attributes), *reply.notifies)


def granted(message: Message) -> Attributes:
    """What a CFG_REPLY grants, empty without one."""
    return _attributes(message, ConfigType.CFG_REPLY) or ()


def obey(sa: IkeSa, configuration: Attributes) -> None:
    """The gateway's period of silence before a liveness check takes the place of ours (TS 24.302 §7.2.2A).

    Only where it was asked for; a value of no or of zero seconds changes nothing.
    """
    if not sa.first_initiator:
        return
    kind = ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK
    if all(asked.type != kind for asked in sa.initiator_config.configuration_request):
        return
    for attribute in configuration:
        seconds = int.from_bytes(attribute.value, "big")
        if attribute.type == kind and len(attribute.value) == LIVENESS_PERIOD_LENGTH and seconds:
            sa.config = replace(sa.config, liveness_interval=float(seconds))
            sa.timers.set_liveness_interval(float(seconds))


# --- in INFORMATIONAL


class ExchangeConfiguration:
    """CFG_REQUEST or CFG_SET in an exchange of its own (§1.4, §3.15); the outcome is an event."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, kind: ConfigType, attributes: Attributes) -> None:
        if kind not in _ANSWER_TO:
            raise LocalError(f"{kind.name} is an answer, not a request")
        self._kind = kind
        self._attributes = attributes

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """CP(CFG_REQUEST or CFG_SET)."""
        return (ConfigurationPayload(type=self._kind, attributes=self._attributes),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """A response without CP is none the worse: §3.15.1 allows it for CFG_SET, Android does it for both."""
        answer = _attributes(message, _ANSWER_TO[self._kind])
        sa.emit(ConfigurationExchanged(type=self._kind, attributes=self._attributes, answer=answer))


class Inquiry:
    """The peer's CFG_REQUEST or CFG_SET while its answer is being found; the rest of the response waits too."""

    def __init__(self, kind: ConfigType, payloads: tuple[Payload, ...]) -> None:
        self._kind = kind
        self._payloads = payloads

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> Response:
        """CFG_REPLY with values; CFG_ACK with the accepted attributes, "with zero-length data" (§3.15.1)."""
        if not isinstance(answer, ConfigurationAnswer):
            raise LocalError(f"{type(answer).__name__} does not answer {self._kind.name}")
        attributes = answer.attributes
        if self._kind is ConfigType.CFG_SET:
            attributes = tuple(dict.fromkeys(ConfigurationAttribute(type=each.type) for each in attributes))
        payload = ConfigurationPayload(type=_ANSWER_TO[self._kind], attributes=attributes)
        return Response(payloads=(*self._payloads, payload))


def process_request(sa: IkeSa, message: Message, payloads: tuple[Payload, ...]) -> Response | None:
    """The end of an INFORMATIONAL request: ``payloads`` answer it unless a Configuration payload asks more.

    A CFG_REPLY or CFG_ACK in a request, or any before the SA is up, is counted and passed over.
    """
    payload = message.first(ConfigurationPayload)
    if payload is None:
        return Response(payloads=payloads)
    if payload.type not in _ANSWER_TO or sa.state is not SaState.ESTABLISHED:
        sa.dropped["unexpected-configuration"] += 1
        return Response(payloads=payloads)
    if not sa.habits.answers_configuration:
        sa.dropped["configuration-not-answered"] += 1
        return Response(payloads=payloads)
    sa.deferred = Inquiry(payload.type, payloads)
    sa.emit(ConfigurationReceived(type=payload.type, attributes=payload.attributes))
    return None


def _attributes(message: Message, kind: ConfigType) -> Attributes | None:
    payload = message.first(ConfigurationPayload)
    return payload.attributes if payload is not None and payload.type == kind else None

"""Which message is legal when: the transitions of an IKE SA as data (RFC 7296 §1.2–§1.5, §2.16, RFC 9242, RFC 9370).

A rule names the exchange, whether a request or a response is received, by which original role and in
which states, the payloads that must be there, and the procedure that takes it. Procedures rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.errors import RemoteError
from protocols.ikev2.events import OriginalRole, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    EapPayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    Payload,
    SaPayload,
)
from protocols.ikev2.registry import ExchangeType, NotifyType


class Procedure(Enum):
    """What takes a legal request."""

    INIT = "init"
    RESUME = "resume"
    IDENTITY = "identity"
    EAP = "eap"
    FINAL = "final"
    INTERMEDIATE = "intermediate"
    CREATE_CHILD = "create-child"
    FOLLOWUP_KE = "followup-ke"
    INFORMATIONAL = "informational"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One legal kind of request."""

    exchange: ExchangeType
    role: OriginalRole | None
    states: frozenset[SaState]
    required: tuple[type[Payload], ...]
    procedure: Procedure


UP = frozenset({SaState.ESTABLISHED, SaState.REKEYED, SaState.DELETING})

REQUESTS: tuple[Rule, ...] = (
    Rule(
        exchange=ExchangeType.IKE_SA_INIT,
        role=OriginalRole.RESPONDER,
        states=frozenset({SaState.INITIAL}),
        required=(SaPayload, KePayload, NoncePayload),
        procedure=Procedure.INIT,
    ),
    Rule(
        exchange=ExchangeType.IKE_SESSION_RESUME,
        role=OriginalRole.RESPONDER,
        states=frozenset({SaState.INITIAL}),
        required=(NoncePayload,),
        procedure=Procedure.RESUME,
    ),
    Rule(
        exchange=ExchangeType.IKE_INTERMEDIATE,
        role=OriginalRole.RESPONDER,
        states=frozenset({SaState.INTERMEDIATE}),
        required=(KePayload,),
        procedure=Procedure.INTERMEDIATE,
    ),
    Rule(
        exchange=ExchangeType.IKE_AUTH,
        role=OriginalRole.RESPONDER,
        states=frozenset({SaState.HALF_OPEN}),
        required=(IdiPayload,),  # SA, TSi, TSr: all or none (RFC 6023), as ``childless`` has it
        procedure=Procedure.IDENTITY,
    ),
    Rule(
        exchange=ExchangeType.IKE_AUTH,
        role=OriginalRole.RESPONDER,
        states=frozenset({SaState.AUTHENTICATING}),
        required=(EapPayload,),
        procedure=Procedure.EAP,
    ),
    Rule(
        exchange=ExchangeType.IKE_AUTH,
        role=OriginalRole.RESPONDER,
        states=frozenset({SaState.AUTHENTICATING}),
        required=(AuthPayload,),
        procedure=Procedure.FINAL,
    ),
    Rule(
        exchange=ExchangeType.CREATE_CHILD_SA,
        role=None,
        states=UP,
        required=(SaPayload, NoncePayload),
        procedure=Procedure.CREATE_CHILD,
    ),
    Rule(
        exchange=ExchangeType.IKE_FOLLOWUP_KE,
        role=None,
        states=UP,
        required=(KePayload,),
        procedure=Procedure.FOLLOWUP_KE,
    ),
    Rule(
        exchange=ExchangeType.INFORMATIONAL,
        role=None,
        # a UE that gives up says so (§2.21.2)
        states=UP | {SaState.INTERMEDIATE, SaState.HALF_OPEN, SaState.AUTHENTICATING},
        required=(),
        procedure=Procedure.INFORMATIONAL,
    ),
)


def procedure_for(message: Message, role: OriginalRole, state: SaState) -> Procedure | None:
    """The procedure for a request; ``None``: not legal now, drop it.

    A legal exchange without its required payloads raises ``RemoteError`` with INVALID_SYNTAX (§2.21), and so
    does, once the SA is up, an exchange that is unknown or over: then "all requests having errors MUST
    result in a response" (§2.21.3).
    """
    incomplete: Rule | None = None
    for rule in REQUESTS:
        if rule.exchange != message.exchange or rule.role not in (None, role) or state not in rule.states:
            continue
        if all(message.first(kind) is not None for kind in rule.required):
            return rule.procedure
        incomplete = rule
    if incomplete is None and state in UP:
        raise RemoteError(f"{message.exchange.name} in state {state.value}", NotifyType.INVALID_SYNTAX)
    if incomplete is None:
        return None
    names = ", ".join(kind.__name__.removesuffix("Payload") for kind in incomplete.required)
    raise RemoteError(f"{message.exchange.name} in state {state.value} needs {names}", NotifyType.INVALID_SYNTAX)

"""What an operator or a test decides about an IKE SA: policies, timers, identities; all frozen.

``IkeConfig`` holds what both ends need; ``InitiatorConfig`` and ``ResponderConfig`` add what belongs to
the end that starts an SA and to the one that waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.redirection import (
    MAX_REDIRECTS,
    REDIRECT_LOOP_DETECT_PERIOD,
    REDIRECTED_LIFETIME,
    InitialRedirect,
    RedirectObedience,
    RedirectTrail,
)
from protocols.ikev2.ticket import ResumableSession, TicketOffice
from protocols.selectors import TrafficSelector

RETRANSMIT_BASE_INTERVAL = 0.5  # RFC 7296 §2.4 leaves it to us; Android's value
RETRANSMIT_FACTOR = 2.0
RETRANSMIT_LIMIT = 5  # 0.5 + 1 + 2 + 4 + 8 = 15.5 s in all, as Android
RETRANSMIT_CAP = 30.0
HALF_OPEN_LIFETIME = 30.0
RETURN_ROUTABILITY_INTERVAL = 3.5  # three retransmissions of the check
KEEPALIVE_INTERVAL = 20.0  # RFC 3948 §4


@dataclass(frozen=True, kw_only=True)
class RetransmissionPolicy:
    """Exponential back-off (RFC 7296 §2.1, §2.4): ``limit`` retransmissions, then the SA is dead."""

    base_interval: float = RETRANSMIT_BASE_INTERVAL
    factor: float = RETRANSMIT_FACTOR
    limit: int = RETRANSMIT_LIMIT
    cap: float = RETRANSMIT_CAP

    def interval(self, attempt: int) -> float:
        """Seconds to wait after transmission number ``attempt`` (0 is the first)."""
        return min(self.base_interval * self.factor**attempt, self.cap)


class ReturnRoutability(Enum):
    """When a gateway checks a new address (RFC 4555 §3.7's words)."""

    BEFORE_UPDATE = "before-update"
    AFTER_UPDATE = "after-update"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class IkeConfig:
    """Common to both ends.

    ``nat_traversal_port`` and ``remote_nat_traversal_port`` are the ports that take the place of 4500 on
    each side. ``force_encapsulation`` announces a NAT in front of ourselves, whatever the addresses are,
    for data planes that cannot carry bare ESP (as Android and strongSwan's kernel-libipsec do).
    """

    ike_policy: IkePolicy
    esp_policy: EspPolicy
    retransmission: RetransmissionPolicy = field(default_factory=RetransmissionPolicy)
    mobike: bool = True
    force_encapsulation: bool = False
    nat_traversal_port: int = 4500
    remote_nat_traversal_port: int = 4500
    liveness_interval: float | None = None
    keepalive_interval: float | None = KEEPALIVE_INTERVAL
    child_lifetime: float | None = None


@dataclass(frozen=True, kw_only=True)
class InitiatorConfig(IkeConfig):
    """The UE's end. ``gateway_names`` are the names the gateway certificate may carry.

    ``childless`` leaves the child SA out where the responder allows it (RFC 6023).
    ``resumption`` asks for tickets; ``session`` comes with the event ``TicketReceived`` and is resumed (RFC 5723).
    ``redirected`` comes with the event ``Redirected`` and goes into the configuration of the next attempt.
    """

    identity: IdiPayload
    responder_identity: IdrPayload | None = None
    verifier: CertificateVerifier | None = None
    gateway_names: tuple[str, ...] = ()
    eap_only: bool = False
    configuration_request: tuple[ConfigurationAttribute, ...] = ()
    local_selectors: tuple[TrafficSelector, ...] = (TrafficSelector.network("0.0.0.0/0"),)
    remote_selectors: tuple[TrafficSelector, ...] = (TrafficSelector.network("0.0.0.0/0"),)
    init_retries: int = 5
    childless: bool = False
    redirect: RedirectObedience = RedirectObedience.NEVER
    redirected: RedirectTrail | None = None
    resumption: bool = False
    session: ResumableSession | None = None
    redirect_limit: int = MAX_REDIRECTS
    redirect_period: float = REDIRECT_LOOP_DETECT_PERIOD


@dataclass(frozen=True, kw_only=True)
class ResponderConfig(IkeConfig):
    """The gateway's end. ``credential`` signs; ``eap_only`` allows RFC 5998 to peers that offer it."""

    credential: Credential | None = None
    identity: IdrPayload | None = None
    eap_only: bool = False
    return_routability: ReturnRoutability = ReturnRoutability.BEFORE_UPDATE
    return_routability_interval: float = RETURN_ROUTABILITY_INTERVAL
    half_open_lifetime: float = HALF_OPEN_LIFETIME
    setup_lifetime: float = 60.0
    cookie_threshold: int = 64
    half_open_limit: int = 4096
    childless: bool = False
    tickets: TicketOffice | None = None
    redirect: InitialRedirect | None = None
    redirected_lifetime: float = REDIRECTED_LIFETIME

"""What an operator or a test decides about an IKE SA: policies, timers, identities; all frozen.

``IkeConfig`` holds what both ends need; ``InitiatorConfig`` and ``ResponderConfig`` add what belongs to
the end that starts an SA and to the one that waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from protocols.errors import LocalError
from protocols.esp.sa import REPLAY_WINDOW, UsageLimits
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.events import AuthenticationKind
from protocols.ikev2.habits import Habits
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
from protocols.path import Address, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector

RETRANSMIT_BASE_INTERVAL = 0.5  # RFC 7296 §2.4 leaves it to us; Android's value
RETRANSMIT_FACTOR = 2.0
RETRANSMIT_LIMIT = 5  # 0.5 + 1 + 2 + 4 + 8 = 15.5 s in all, as Android
RETRANSMIT_CAP = 30.0
HALF_OPEN_LIFETIME = 30.0
COOKIE_THRESHOLD = 64  # half-open SAs; RFC 7296 §2.6 leaves it to us
COOKIE_RATE = 200.0  # IKE_SA_INIT requests a second
HALF_OPEN_LIMIT = 4096
HALF_OPEN_LIMIT_PER_SOURCE = 256  # RFC 8019 §4.2; many UEs may be behind one NAT
UNPROTECTED_RATE = 100.0  # RFC 7296 §2.21.4: "needs to limit the rate"
RETURN_ROUTABILITY_INTERVAL = 3.5  # three retransmissions of the check
KEEPALIVE_INTERVAL = 20.0  # RFC 3948 §4
FRAGMENT_SIZE = 1280  # RFC 7383 §2.5.1 for IPv6; Android's value for IPv4 too. Smaller ones are tried (§2.5.2)
FRAGMENTS_MAXIMUM = 64
REASSEMBLED_MAXIMUM = 32768  # what a half-open SA may make us keep
LIFETIME_JITTER = 0.1  # RFC 7296 §2.8.1: "the timing of rekeying requests SHOULD be jittered"
HARD_MARGIN = 0.25
HARD_MARGIN_MINIMUM = 60.0  # a rekey may need all its retransmissions
ADDITIONAL_CHILDREN = 8
PATH_TEST_AFTER = 1.2  # RFC 4555 §3.10 leaves it to us; 24 questions to the path in use


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


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """When an SA is rekeyed (*soft*) and when it must not be used any more (*hard*): RFC 7296 §2.8, RFC 4301 §4.4.2.1.

    ``soft`` and ``hard`` are seconds; octets and packets are of inner IP, each direction by itself, and mean
    something for child SAs only. A hard limit that is not given follows from the soft one: a quarter more,
    and at least a minute more. ``jitter`` is the share of ``soft`` by which a rekey may come earlier.
    """

    soft: float | None = None
    hard: float | None = None
    jitter: float = LIFETIME_JITTER
    soft_octets: int | None = None
    hard_octets: int | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None

    @property
    def hard_seconds(self) -> float | None:
        """The hard limit in seconds, given or derived."""
        if self.hard is not None or self.soft is None:
            return self.hard
        return self.soft + max(self.soft * HARD_MARGIN, HARD_MARGIN_MINIMUM)

    @property
    def usage(self) -> UsageLimits:
        """What the data plane has to watch."""
        return UsageLimits(
            soft_octets=self.soft_octets,
            hard_octets=_hard(self.soft_octets, self.hard_octets),
            soft_packets=self.soft_packets,
            hard_packets=_hard(self.soft_packets, self.hard_packets),
        )


def _hard(soft: int | None, hard: int | None) -> int | None:
    return hard if hard is not None or soft is None else int(soft * (1 + HARD_MARGIN)) + 1


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
    ``fragment_size`` is that of an IP datagram in octets; what arrives in fragments is taken up to
    ``fragments_maximum`` and ``reassembled_maximum`` octets (RFC 7383). ``window_size`` is the number of
    the peer's requests that may be outstanding (RFC 7296 §2.3).
    ``additional_children`` is how many child SAs the peer may have beside the first (RFC 7296 §1.3.1).
    ``nats_allowed``: without, there is no NAT traversal, and MOBIKE protects addresses (RFC 4555 §3.9).
    ``additional_addresses`` are this end's others (§3.4). ``path_test_after``: so long after its first
    retransmission, or a hint that the path is bad, the path in use is asked quickly, then a request is tried on
    other address pairs (§3.10); ``None``: never. ``follow_esp``: send ESP to
    where that of a peer behind a NAT comes from (§3.8); without MOBIKE, IKE too (RFC 7296 §2.23).
    ``hold_lifetime``: silence of the peer shorter than that does not end the SA (§3.11). ``beet``: ask for BEET mode,
    or agree to it. ``replay_window``: of child SAs, in packets. ``offers_child_sas``: before a child SA is granted to
    the peer the data plane is asked for it (``ChildSaOffered``).
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
    child_lifetime: Lifetime | None = None
    ike_lifetime: Lifetime | None = None
    additional_children: int = ADDITIONAL_CHILDREN
    replay_window: int = REPLAY_WINDOW
    offers_child_sas: bool = False
    fragmentation: bool = True
    fragment_size: int = FRAGMENT_SIZE
    fragments_maximum: int = FRAGMENTS_MAXIMUM
    reassembled_maximum: int = REASSEMBLED_MAXIMUM
    window_size: int = 1
    nats_allowed: bool = True
    additional_addresses: tuple[Address, ...] = ()
    path_test_after: float | None = PATH_TEST_AFTER
    follow_esp: bool = True
    hold_lifetime: float | None = None
    crash_secrets: tuple[Secret, ...] = ()
    beet: bool = False


@dataclass(frozen=True, kw_only=True)
class InitiatorConfig(IkeConfig):
    """The UE's end. ``gateway_names`` are the names the gateway certificate may carry.

    ``authentication`` is how the UE proves itself, with ``psk`` or one of ``credentials``. The gateway proves itself
    by a certificate to ``verifier`` or, unless the UE uses EAP (RFC 7296 §2.16), by ``psk``, whichever it chooses.
    ``initial_contact``: this is our only SA with the gateway (RFC 7296 §2.4), which is untrue of the one that
    repeats the authentication of another.
    ``initial_paths``: other address pairs, which retransmissions of the first request go to in turn (RFC 4555 §3.1).
    ``init_patience``: seconds without an answer to IKE_SA_INIT after which it is given up, if its retransmissions last
    longer.
    ``update_cookie``: COOKIE2 goes with every update, as strongSwan does it. ``detect_mapping_changes``: behind a
    NAT liveness checks carry NAT detection (RFC 4555 §3.8).
    ``childless`` leaves the child SA out where the responder allows it (RFC 6023).
    ``resumption`` asks for tickets; ``session`` comes with the event ``TicketReceived`` and is resumed (RFC 5723).
    ``redirected`` comes with the event ``Redirected`` and goes into the configuration of the next attempt.
    ``habits``: what real UEs do in other ways.
    """

    identity: IdiPayload
    authentication: AuthenticationKind = AuthenticationKind.EAP
    psk: Secret | None = None
    credentials: tuple[Credential, ...] = ()
    responder_identity: IdrPayload | None = None
    verifier: CertificateVerifier | None = None
    gateway_names: tuple[str, ...] = ()
    eap_only: bool = False
    configuration_request: tuple[ConfigurationAttribute, ...] = ()
    local_selectors: tuple[TrafficSelector, ...] = (TrafficSelector.network("0.0.0.0/0"),)
    remote_selectors: tuple[TrafficSelector, ...] = (TrafficSelector.network("0.0.0.0/0"),)
    init_retries: int = 5
    initial_contact: bool = True
    initial_paths: tuple[Path, ...] = ()
    init_patience: float | None = None
    update_cookie: bool = False
    detect_mapping_changes: bool = True
    childless: bool = False
    redirect: RedirectObedience = RedirectObedience.NEVER
    redirected: RedirectTrail | None = None
    resumption: bool = False
    session: ResumableSession | None = None
    redirect_limit: int = MAX_REDIRECTS
    redirect_period: float = REDIRECT_LOOP_DETECT_PERIOD
    habits: Habits = Habits()

    def __post_init__(self) -> None:
        """What ``authentication`` needs has to be there."""
        if self.authentication is AuthenticationKind.PSK and self.psk is None:
            raise LocalError("authentication by a pre-shared key needs one")
        if self.authentication is AuthenticationKind.CERTIFICATE and not self.credentials:
            raise LocalError("authentication by certificate needs one")


@dataclass(frozen=True, kw_only=True)
class ResponderConfig(IkeConfig):
    """The gateway's end. ``eap_only`` allows RFC 5998 to peers that offer it.
    ``authentication_lifetime``: seconds after which a peer has to authenticate anew (RFC 4478).
    ``acceptable_addresses``: where a UE may move to (RFC 4555 §3.5), anywhere when empty. ``move_by_rekey``: a
    rekey from another address is a move, where MOBIKE was not negotiated (Android).

    A COOKIE is demanded from ``cookie_threshold`` half-open SAs on (0: always), or when more than
    ``cookie_rate`` requests arrive in a second. ``unprotected_rate`` is how many answers a second go
    without protection to what belongs to no SA (§2.21.4).

    One of ``credentials`` signs, chosen by CERTREQ; the first is the default. ``authentications`` are the ways UEs
    may prove themselves; ``shared_keys`` are by identity as ``identity_text`` has it, ``verifier`` is for the
    certificates of UEs. ``own_authentication`` is how the gateway proves itself to UEs without EAP, by default as
    the UE does; to UEs with EAP it always shows a certificate (RFC 7296 §2.16).
    """

    credentials: tuple[Credential, ...] = ()
    authentications: frozenset[AuthenticationKind] = frozenset({AuthenticationKind.EAP})
    shared_keys: Mapping[str, Secret] = field(default_factory=dict)
    verifier: CertificateVerifier | None = None
    own_authentication: AuthenticationKind | None = None
    identity: IdrPayload | None = None
    eap_only: bool = False
    return_routability: ReturnRoutability = ReturnRoutability.BEFORE_UPDATE
    return_routability_interval: float = RETURN_ROUTABILITY_INTERVAL
    acceptable_addresses: tuple[IPv4Network | IPv6Network, ...] = ()
    move_by_rekey: bool = True
    half_open_lifetime: float = HALF_OPEN_LIFETIME
    setup_lifetime: float = 60.0
    cookie_threshold: int = COOKIE_THRESHOLD
    cookie_rate: float = COOKIE_RATE
    half_open_limit: int = HALF_OPEN_LIMIT
    half_open_limit_per_source: int = HALF_OPEN_LIMIT_PER_SOURCE
    unprotected_rate: float = UNPROTECTED_RATE
    authentication_lifetime: float | None = None
    childless: bool = False
    tickets: TicketOffice | None = None
    redirect: InitialRedirect | None = None
    redirected_lifetime: float = REDIRECTED_LIFETIME

"""Policy of an EAP-AKA peer: methods, identities, privacy, network name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.eap.packet import EapType

DEFAULT_SYNCHRONISATION_FAILURES = 3
DEFAULT_REAUTHENTICATIONS = 100  # RFC 4187 §5.1: "SHOULD have an upper limit", left to us


class IdentityForm(str, Enum):
    """How AT_IDENTITY names the subscriber."""

    NAI = "nai"
    USERNAME = "username"  # without realm, as Android answers AT_*_ID_REQ


class PrivacyPolicy(str, Enum):
    """What AT_PERMANENT_ID_REQ gets from a peer that has a pseudonym (RFC 4187 §4.1.6)."""

    LIBERAL = "liberal"  # the permanent identity
    CONSERVATIVE = "conservative"  # nothing: the exchange ends


class NetworkNamePolicy(str, Enum):
    """What another network name than the expected one leads to (RFC 9048 §3.1)."""

    REJECT = "reject"  # as if AUTN had been wrong
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """Policy of a peer; ``methods`` are EAP types in order of preference.

    ``permanent_inside``: every identity request inside of EAP-AKA gets the permanent identity, whatever IDi said.
    ``network_name`` is what the access network is called here (TS 24.302 §8.1.1), ``None`` where that is not known;
    ``reauthentications`` how many may follow one full authentication.
    """

    methods: tuple[EapType, ...] = (EapType.AKA, EapType.AKA_PRIME)
    identity_form: IdentityForm = IdentityForm.NAI
    permanent_inside: bool = False
    privacy: PrivacyPolicy = PrivacyPolicy.LIBERAL
    pseudonyms: bool = True
    fast_reauthentication: bool = True
    reauthentications: int = DEFAULT_REAUTHENTICATIONS
    result_indications: bool = False
    network_name: str | None = None
    network_name_policy: NetworkNamePolicy = NetworkNamePolicy.REJECT
    synchronisation_failures: int = DEFAULT_SYNCHRONISATION_FAILURES

    @property
    def prefers_aka_prime(self) -> bool:
        """Whether EAP-AKA' would rather be used than EAP-AKA (RFC 9048 §4)."""
        order = [method for method in self.methods if method in (EapType.AKA, EapType.AKA_PRIME)]
        return order[:1] == [EapType.AKA_PRIME]

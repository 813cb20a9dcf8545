"""What a session tells the runtime to do; each that is answered names the method of ``Session`` for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.ikev2.events import Answer
from protocols.ikev2.payloads import ConfigurationAttribute, NotifyPayload
from protocols.ikev2.registry import ConfigType
from protocols.path import Address, Path
from protocols.trace.records import JsonValue


@dataclass(frozen=True, kw_only=True)
class SendDer:
    """Ask the AAA server; the answer comes back through ``aaa_answered`` or ``aaa_failed``.

    ``first`` of a session; without ``apn`` the AAA server has to choose. ``device_identity``: IMEI or IMEISV digits.
    """

    eap_payload: bytes
    user_name: str
    apn: str | None
    ue_address: Path
    state: tuple[bytes, ...]
    destination_host: str | None
    first: bool = True
    emergency: bool = False
    device_identity: str | None = None


@dataclass(frozen=True, kw_only=True)
class SendAar:
    """Ask for the present profile; the answer comes back through ``authorisation_answered`` or ``_failed``."""

    user_name: str
    ue_address: Path
    destination_host: str | None


@dataclass(frozen=True, kw_only=True)
class SendStr:
    """Tell the AAA server that the session is over."""

    user_name: str
    termination_cause: int
    destination_host: str | None


@dataclass(frozen=True, kw_only=True)
class AllocateAddress:
    """Find an inner address of each IP version; answer through ``address_allocated``.

    ``wanted``: what the UE had before (handover); ``static``: what the subscription gives it; ``single``: the
    subscription allows one version at a time.
    """

    apn: str
    versions: tuple[int, ...]
    wanted: tuple[Address, ...] = ()
    static: tuple[Address, ...] = ()
    single: bool = False


@dataclass(frozen=True, kw_only=True)
class ReleaseAddress:
    """Give an inner address back."""

    apn: str
    address: Address


@dataclass(frozen=True, kw_only=True)
class AnswerIke:
    """Answer the open question of the IKE SA."""

    answer: Answer


@dataclass(frozen=True, kw_only=True)
class SendConfiguration:
    """Send these attributes to the UE in an exchange of their own; ``ConfigurationExchanged`` tells the outcome."""

    type: ConfigType
    attributes: tuple[ConfigurationAttribute, ...]


@dataclass(frozen=True, kw_only=True)
class DeleteUe:
    """Delete the IKE SA, which ends the session; ``notifies`` go along."""

    why: str
    notifies: tuple[NotifyPayload, ...] = ()


@dataclass(frozen=True)
class GrantTime:
    """The session may last so many seconds from now on (RFC 6733 §8.13); ``None``: without end."""

    seconds: int | None


@dataclass(frozen=True)
class AuthenticateAnew:
    """Have the UE authenticate anew at once (RFC 4478)."""


@dataclass(frozen=True, kw_only=True)
class Tell:
    """An event a person wants to know: its name, one plain sentence, data."""

    name: str
    text: str
    data: dict[str, JsonValue] = field(default_factory=dict)


Command = (
    SendDer
    | SendAar
    | SendStr
    | AllocateAddress
    | ReleaseAddress
    | AnswerIke
    | SendConfiguration
    | DeleteUe
    | GrantTime
    | AuthenticateAnew
    | Tell
)

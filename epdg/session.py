"""A UE's session at the gateway as a pure machine: events in, commands out (TS 33.402 §8.2.2, TS 24.302 §7.4).

It knows neither sockets nor SAs: the runtime carries its commands out and brings the answers back.
Attach::

    IdentityReceived   -> SendDer(EAP-Response/Identity)      EapResponseReceived -> SendDer(packet)
    aaa_answered(DEA)  -> AnswerIke(EapReply | Refusal)       ConfigurationRequested -> AllocateAddress
    address_allocated  -> AnswerIke(ConfigurationReply)       Closed -> SendStr, ReleaseAddress

While it lasts::

    restore_p_cscf     -> SendConfiguration(CFG_REQUEST)      ConfigurationReceived -> AnswerIke(ConfigurationAnswer)

A UE that authenticates by a pre-shared key or a certificate gets its address without SWm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_address

from epdg.pdn.configuration import WORDS, GrantedNetwork, Request, only_allowed, p_cscf, possible, reply, selectors
from epdg.resumption import ResumedSubscriber
from protocols.diameter.dictionary import PdnType
from protocols.diameter.swm import ApnConfiguration, Dea, Result, ResultCode
from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.errors import RemoteError
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    Answer,
    AuthenticationKind,
    Closed,
    ConfigurationAnswer,
    ConfigurationExchanged,
    ConfigurationReceived,
    ConfigurationReply,
    ConfigurationRequested,
    CreateChildSaRefused,
    EapReply,
    EapResponseReceived,
    Established,
    IdentityReceived,
    IkeSaRekeyed,
    PeerRedirected,
    RedirectReply,
    Refusal,
    Refused,
)
from protocols.ikev2.identity import identity_text
from protocols.ikev2.payloads import ConfigurationAttribute, IdrPayload, NotifyPayload
from protocols.ikev2.redirection import Gateway
from protocols.ikev2.registry import ConfigType, NotifyType
from protocols.path import Address, Path
from protocols.threegpp.causes import PrivateNotify, notify_for, words
from protocols.threegpp.identity import Apn, Imsi, Nai

TERMINATION_LOGOUT = 1  # RFC 6733 §8.15
TERMINATION_ADMINISTRATIVE = 4
TERMINATION_LINK_BROKEN = 5
TERMINATION_SESSION_TIMEOUT = 8
PATHS_KEPT = 1000


class SessionState(str, Enum):
    """Where a session is in its life."""

    ATTACHING = "attaching"
    ESTABLISHED = "established"
    CLOSING = "closing"
    CLOSED = "closed"


# --- commands


@dataclass(frozen=True, kw_only=True)
class SendDer:
    """Ask the AAA server; the answer comes back through ``aaa_answered`` or ``aaa_failed``."""

    eap_payload: bytes
    user_name: str
    apn: str | None
    ue_address: Path
    state: tuple[bytes, ...]
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
class Tell:
    """An event a person wants to know: its name, one plain sentence, data."""

    name: str
    text: str
    data: dict[str, str | int | float | bool | None] = field(default_factory=dict)


Command = SendDer | SendStr | AllocateAddress | ReleaseAddress | AnswerIke | SendConfiguration | Tell


@dataclass(kw_only=True)
class PathUse:
    """A path the session has been on; wall-clock seconds."""

    path: Path
    since: float
    why: str
    validated: bool
    until: float | None = None


class Session:
    """One IKE SA's worth of subscriber."""

    def __init__(
        self,
        identifier: str,
        *,
        default_apn: str | None,
        own_names: frozenset[str],
        created: float,
        elsewhere: Gateway | None = None,
    ) -> None:
        """``own_names``: an IDr that names the gateway itself asks for the default APN.

        ``elsewhere``: the gateway that serves the UE in our place once it is authenticated (RFC 5685 §6).
        """
        self.identifier = identifier
        self.state = SessionState.ATTACHING
        self.created = created
        self.established: float | None = None
        self.nai = ""
        self.imsi: str | None = None
        self.apn: str | None = None
        self.inner_addresses: tuple[Address, ...] = ()
        self.paths: list[PathUse] = []
        self.last_error: tuple[str, str] | None = None
        self.apn_configuration: ApnConfiguration | None = None
        self.session_timeout: int | None = None
        self._default_apn = default_apn
        self._own_names = own_names
        self._elsewhere = elsewhere
        self._resumed_addresses: tuple[Address, ...] = ()
        self._path: Path | None = None
        self._aaa_state: tuple[bytes, ...] = ()
        self._aaa_host: str | None = None
        self._aaa_knows = False
        self._aaa_asked = False
        self._user_name: str | None = None
        self._request = Request()
        self._network = GrantedNetwork()
        self._holds_addresses = False
        self._termination_cause = TERMINATION_LOGOUT

    @property
    def subscriber(self) -> str:
        """Whose session it is: as the AAA server says it, since IDi is only what the UE says (RFC 7296 §2.16)."""
        return self._user_name or self.nai

    # --- events of the IKE SA

    def handle(self, event: object, wall: float) -> list[Command]:
        """Take an event of the IKE SA."""
        if isinstance(event, IdentityReceived):
            return self._identity(event)
        if isinstance(event, EapResponseReceived):
            return [self._der(event.packet)]
        if isinstance(event, ConfigurationRequested):
            return self._configure(event, wall)
        if isinstance(event, Established):
            return self._establish(event, wall)
        if isinstance(event, ConfigurationReceived):
            return self._inquired(event)
        if isinstance(event, ConfigurationExchanged):
            return self._restored(event)
        if isinstance(event, AddressesUpdated):
            return self._moved(event, wall)
        if isinstance(event, AddressUpdateFailed):
            return [
                Tell(
                    name="address-update-failed",
                    text=f"The UE stays at {event.old.remote}; {event.new.remote} was not adopted: {event.why}.",
                    data={"old": str(event.old.remote), "new": str(event.new.remote), "why": event.why},
                )
            ]
        if isinstance(event, IkeSaRekeyed):
            return [Tell(name="ike-rekeyed", text=f"The IKE SA of {self.imsi or self.nai} was rekeyed.")]
        if isinstance(event, CreateChildSaRefused):
            cause, who = event.notify.type.name, "the UE" if event.by_peer else "the gateway"
            text = f"For {event.what} of {self.imsi or self.nai} {who} said {cause}."
            return [Tell(name="rekey-refused", text=text, data={"cause": cause})]
        if isinstance(event, Refused):
            return self._refused(event)
        if isinstance(event, PeerRedirected):
            return self._redirected(event)
        if isinstance(event, Closed):
            return self._closed(event, wall)
        return []

    def detach(self) -> None:
        """The operator ends the session; the IKE SA is being deleted."""
        self.state = SessionState.CLOSING
        self._termination_cause = TERMINATION_ADMINISTRATIVE

    def expire(self) -> None:
        """The time the AAA server granted is over; the IKE SA is being deleted (RFC 6733 §8.13)."""
        self.state = SessionState.CLOSING
        self._termination_cause = TERMINATION_SESSION_TIMEOUT

    # --- answers

    def aaa_answered(self, dea: Dea) -> list[Command]:
        """The AAA server's word, translated for the UE."""
        self._aaa_asked = False
        self._aaa_host = dea.origin_host
        self._aaa_state = dea.state
        if self.state is SessionState.CLOSED:
            return self._answered_too_late(dea)
        if dea.result == Result(0, ResultCode.DIAMETER_MULTI_ROUND_AUTH):
            self._aaa_knows = True
            if dea.eap_payload is None:
                return self._refuse(PrivateNotify.NETWORK_FAILURE, "the AAA server goes on without an EAP packet")
            return [AnswerIke(answer=EapReply(packet=dea.eap_payload))]
        if dea.result != Result(0, ResultCode.DIAMETER_SUCCESS):
            self._aaa_knows = False
            notify = notify_for(dea.result.vendor, dea.result.code)
            text = words(notify) or f"the AAA server refused with result {dea.result.code}"
            if dea.error_message:
                text = f"{text}: {dea.error_message}"
            return self._refuse(notify, text, dea.eap_payload)
        self._aaa_knows = True
        if dea.eap_payload is None or dea.master_session_key is None:
            return self._refuse(PrivateNotify.NETWORK_FAILURE, "the AAA server succeeds without EAP packet or MSK")
        self.apn_configuration = dea.apn_configuration
        self.session_timeout = dea.session_timeout
        if dea.user_name:
            self._user_name = dea.user_name
            self.imsi = _imsi(dea.user_name) or self.imsi
        if self.apn is None and dea.apn_configuration is not None:
            self.apn = dea.apn_configuration.service_selection
        return [AnswerIke(answer=EapReply(packet=dea.eap_payload, msk=dea.master_session_key))]

    def aaa_failed(self, why: str) -> list[Command]:
        """No answer came."""
        self._aaa_asked = False
        if self.state is SessionState.CLOSED:
            return self._terminate()
        return self._refuse(PrivateNotify.NETWORK_FAILURE, f"the AAA server cannot be reached: {why}")

    def address_allocated(self, addresses: tuple[Address, ...], network: GrantedNetwork | None) -> list[Command]:
        """The pools' word; ``network`` is ``None`` when this gateway does not serve the APN."""
        if network is None:
            return self._refuse(PrivateNotify.PDN_CONNECTION_REJECTION, f"this gateway does not serve APN {self.apn}")
        request, allowed = self._request, possible(network, self._pdn_type)
        if not set(request.versions) & set(allowed):
            text = f"the UE asks for {WORDS[request.versions]} and may have {WORDS[allowed]} in APN {self.apn}"
            return self._refuse(NotifyType.INTERNAL_ADDRESS_FAILURE, text)
        if not addresses:
            text = f"no inner address is free in APN {self.apn}"
            if request.wanted:
                text = f"the inner address that the UE asks for cannot be had in APN {self.apn}"
            return self._refuse(NotifyType.INTERNAL_ADDRESS_FAILURE, text)
        self.inner_addresses, self._network = addresses, network
        self._holds_addresses = True
        local, remote = selectors(addresses)
        answer = ConfigurationReply(
            attributes=reply(request, addresses, network),
            local_selectors=local,
            remote_selectors=remote,
            notifies=only_allowed(request, addresses, allowed),
            session=self._ticket(addresses),
        )
        return [AnswerIke(answer=answer)]

    def restore_p_cscf(self, servers: tuple[Address, ...]) -> list[Command]:
        """Tell the UE of other P-CSCFs, so that it registers with IMS anew (TS 23.380 §5.6.5, TS 24.302 §7.4).

        Nothing where the UE has asked for no P-CSCF that could be of these.
        """
        versions = {address.version for address in self.inner_addresses}
        attributes = p_cscf(self._request, servers, versions)
        if not attributes or self.state is not SessionState.ESTABLISHED:
            return []
        return [SendConfiguration(type=ConfigType.CFG_REQUEST, attributes=attributes)]

    # --- attach

    def _identity(self, event: IdentityReceived) -> list[Command]:
        self.nai = identity_text(event.identity)
        self.imsi = _imsi(self.nai)
        asked = _apn(event.responder_identity)
        self.apn = self._default_apn if asked is None or asked in self._own_names else asked
        self._path = event.path
        identity = EapPacket(
            code=EapCode.RESPONSE, identifier=0, type=EapType.IDENTITY, data=event.identity.data
        ).encode()
        attach = Tell(
            name="attach-requested",
            text=f"{self.nai} asks for APN {self.apn or '(default)'} from {event.path.remote}.",
            data={
                "nai": self.nai,
                "apn": self.apn,
                "remote": str(event.path.remote),
                "authentication": event.authentication.value,
            },
        )
        if event.authentication is not AuthenticationKind.EAP:
            return [attach]  # it has proved itself to IKE: no AAA server is asked
        return [attach, self._der(identity)]

    def _der(self, packet: bytes) -> SendDer:
        assert self._path is not None
        self._aaa_asked = True
        return SendDer(
            eap_payload=packet,
            user_name=self.nai,
            apn=self.apn,
            ue_address=self._path,
            state=self._aaa_state,
            destination_host=self._aaa_host,
        )

    def inherit(self, former: Session) -> None:
        """The UE resumed a session that was still here: what the AAA server knows of it goes on in this one."""
        self._aaa_knows, self._aaa_host, self._aaa_state = former._aaa_knows, former._aaa_host, former._aaa_state
        self.apn_configuration = former.apn_configuration

    def _ticket(self, addresses: tuple[Address, ...]) -> bytes | None:
        """What a ticket says of the session (RFC 5723 §6.1); the AAA server's time bounds it."""
        if self.apn is None:
            return None
        return ResumedSubscriber(
            nai=self.nai,
            user_name=self._user_name,
            imsi=self.imsi,
            apn=self.apn,
            addresses=tuple(map(str, addresses)),
            until=None if self.session_timeout is None else self.created + self.session_timeout,
        ).encode()

    def _resume(self, octets: bytes, wall: float) -> str | None:
        """Take the session out of a ticket; why it cannot be used."""
        try:
            known = ResumedSubscriber.decode(octets)
        except RemoteError as error:
            return str(error)
        if known.until is not None:
            if known.until <= wall:
                return "the session time granted by the AAA server is over"
            self.session_timeout = max(1, int(known.until - wall))
        self.nai, self._user_name, self.imsi, self.apn = known.nai, known.user_name, known.imsi, known.apn
        self._resumed_addresses = tuple(ip_address(address) for address in known.addresses)
        return None

    @property
    def _pdn_type(self) -> PdnType | None:
        return None if self.apn_configuration is None else self.apn_configuration.pdn_type

    def _configure(self, event: ConfigurationRequested, wall: float) -> list[Command]:
        if event.resumed is not None:
            why = self._resume(event.resumed, wall)
            if why is not None:
                return self._refuse(NotifyType.AUTHENTICATION_FAILED, why)
        elif self._elsewhere is not None and event.redirectable:
            return [AnswerIke(answer=RedirectReply(self._elsewhere))]
        request = Request.of(event.configuration)
        if not request.wanted:
            former = tuple(each for each in self._resumed_addresses if each.version in request.versions)
            request = replace(request, wanted=former)
        self._request = request
        if not request.versions:
            # RFC 7296 §2.19: every UE gets its address here
            return self._refuse(NotifyType.FAILED_CP_REQUIRED, "the UE asks for no inner address")
        if self.apn is None:
            return self._refuse(PrivateNotify.NO_APN_SUBSCRIPTION, "the UE names no APN and none is the default")
        static = () if self.apn_configuration is None else tuple(self.apn_configuration.served_party_addresses)
        return [
            AllocateAddress(
                apn=self.apn,
                versions=request.restricted(self._pdn_type),
                wanted=request.wanted,
                static=static,
                single=self._pdn_type is PdnType.IPv4_OR_IPv6,
            )
        ]

    def _establish(self, event: Established, wall: float) -> list[Command]:
        self.state = SessionState.ESTABLISHED
        self.established = wall
        self.paths.append(PathUse(path=event.path, since=wall, why="attach", validated=True))
        inner = ", ".join(map(str, self.inner_addresses))
        return [
            Tell(
                name="attached",
                text=f"{self.imsi or self.nai} is attached to {self.apn} with {inner} from {event.path.remote}.",
                data={
                    "imsi": self.imsi,
                    "apn": self.apn,
                    "inner_address": inner,
                    "remote": str(event.path.remote),
                    "seconds": round(wall - self.created, 6),
                    "mobike": event.mobike,
                    "nat": event.nat.remote,
                },
            )
        ]

    # --- life

    def _moved(self, event: AddressesUpdated, wall: float) -> list[Command]:
        self._path = event.new
        if not self.paths or self.paths[-1].path != event.new:
            if self.paths:
                self.paths[-1].until = wall
            why = "moved behind a NAT" if event.nat.remote else "moved"
            self.paths.append(PathUse(path=event.new, since=wall, why=why, validated=event.validated))
            del self.paths[:-PATHS_KEPT]
        went = f"moved from {event.old.remote} to {event.new.remote}"
        if event.old == event.new:
            went = f"says again that it is at {event.new.remote}"
        elif event.old.remote == event.new.remote:
            went = f"at {event.new.remote} goes to {event.new.local} now, no longer to {event.old.local}"
        return [
            Tell(
                name="moved",
                text=f"The UE {went}"
                + (" behind a NAT" if event.nat.remote else "")
                + ("; the address was checked." if event.validated else "."),
                data={
                    "old": str(event.old.remote),
                    "new": str(event.new.remote),
                    "nat": event.nat.remote,
                    "validated": event.validated,
                },
            )
        ]

    def _redirected(self, event: PeerRedirected) -> list[Command]:
        return [
            Tell(
                name="redirected",
                text=f"{self.imsi or self.nai} was told to go to the gateway {event.gateway} ({event.stage.value}).",
                data={"gateway": str(event.gateway), "stage": event.stage.value},
            )
        ]

    def _inquired(self, event: ConfigurationReceived) -> list[Command]:
        """The UE asks again for what it was given; nothing of ours can be set (RFC 7296 §3.15.1)."""
        answer = ConfigurationAnswer()
        if event.type is ConfigType.CFG_REQUEST:
            answer = ConfigurationAnswer(
                attributes=reply(Request.of(event.attributes), self.inner_addresses, self._network)
            )
        return [AnswerIke(answer=answer)]

    def _restored(self, event: ConfigurationExchanged) -> list[Command]:
        servers = ", ".join(dict.fromkeys(str(ip_address(attribute.value)) for attribute in event.attributes))
        text = f"{self.imsi or self.nai} was told to use P-CSCF {servers}."
        return [Tell(name="p-cscf-restored", text=text, data={"p_cscf": servers, "confirmed": bool(event.answer)})]

    def _refused(self, event: Refused) -> list[Command]:
        cause = event.notify.type.name if event.notify is not None else "error"
        if event.notify is not None and int(event.notify.type) in PrivateNotify._value2member_map_:
            cause = PrivateNotify(int(event.notify.type)).name
        self.last_error = (cause, event.text)
        who = "The UE refused" if event.by_peer else "Refused"
        return [
            Tell(
                name="refused",
                text=f"{who} {self.imsi or self.nai or 'an unknown UE'}: {event.text.rstrip('.')}.",
                data={"cause": cause, "text": event.text, "by_peer": event.by_peer},
            )
        ]

    def _closed(self, event: Closed, wall: float) -> list[Command]:
        attached = self.established is not None
        administrative = self.state is SessionState.CLOSING
        self.state = SessionState.CLOSED
        commands: list[Command] = []
        if self.paths:
            self.paths[-1].until = wall
        if self.apn is not None and self._holds_addresses:
            self._holds_addresses = False
            commands += [ReleaseAddress(apn=self.apn, address=address) for address in self.inner_addresses]
        if not administrative and not event.by_peer:
            self._termination_cause = TERMINATION_LINK_BROKEN
        if not event.resumed and not self._aaa_asked:
            commands += self._terminate()
        commands.append(
            Tell(
                name="detached" if attached else "attach-ended",
                text=f"{self.imsi or self.nai or 'An unknown UE'} is gone: {event.why}.",
                data={"why": event.why, "by_peer": event.by_peer},
            )
        )
        return commands

    def _answered_too_late(self, dea: Dea) -> list[Command]:
        """The UE has gone meanwhile: what the AAA server holds now is ended there, and only now (RFC 6733 §8.4)."""
        going_on = Result(0, ResultCode.DIAMETER_MULTI_ROUND_AUTH), Result(0, ResultCode.DIAMETER_SUCCESS)
        self._aaa_knows = dea.result in going_on
        return self._terminate()

    def _terminate(self) -> list[Command]:
        """STR, once, if the AAA server has the session."""
        if not self._aaa_knows:
            return []
        self._aaa_knows = False
        cause = self._termination_cause
        return [SendStr(user_name=self.nai, termination_cause=cause, destination_host=self._aaa_host)]

    def _refuse(self, notify: int, text: str, eap_packet: bytes | None = None) -> list[Command]:
        payload = NotifyPayload(type=NotifyType(notify))
        return [AnswerIke(answer=Refusal(notify=payload, text=text, eap_packet=eap_packet))]


def _imsi(text: str) -> str | None:
    """The IMSI in an NAI or standing alone, ``None`` when there is none (a UE that is no 3GPP device)."""
    try:
        imsi = Nai.parse(text).imsi
    except ValueError:
        imsi = None
    if imsi is not None:
        return imsi.digits
    try:
        return Imsi(text).digits
    except ValueError:
        return None


def _apn(identity: IdrPayload | None) -> str | None:
    """The APN's network identifier in IDr, which is ID_FQDN or ID_KEY_ID (TS 24.302 §7.2.2.1)."""
    if identity is None or not identity.data:
        return None
    text = identity.data.decode("utf-8", "replace")
    try:
        return Apn(text).network_identifier
    except ValueError:
        return text.lower()

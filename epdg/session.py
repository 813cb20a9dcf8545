"""A UE's session at the gateway as a pure machine: events in, commands out (TS 33.402 §8.2.2, TS 24.302 §7.4).

It knows neither sockets nor SAs: the runtime carries its commands out and brings the answers back.
Attach::

    IdentityReceived   -> SendDer(EAP-Response/Identity)      EapResponseReceived -> SendDer(packet)
    aaa_answered(DEA)  -> AnswerIke(EapReply | Refusal)       ConfigurationRequested -> AllocateAddress
    address_allocated  -> AnswerIke(ConfigurationReply)       Closed -> SendStr, ReleaseAddress

While it lasts::

    restore_p_cscf     -> SendConfiguration(CFG_REQUEST)      ConfigurationReceived -> AnswerIke(ConfigurationAnswer)
    abort (ASR)        -> DeleteUe | AnswerIke(Refusal)       reauthorise (RAR)      -> SendAar | AuthenticateAnew
    authorisation_answered(AAA) -> GrantTime | DeleteUe

A UE that authenticates by a pre-shared key or a certificate gets its address without SWm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from ipaddress import ip_address

from epdg import telling
from epdg.aaa_session import MULTI_ROUND, SUCCESS, AaaSession
from epdg.authorisation import Authorisation
from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    AuthenticateAnew,
    Command,
    DeleteUe,
    GrantTime,
    ReleaseAddress,
    SendConfiguration,
    SendDer,
    Tell,
)
from epdg.emergency import imei_of
from epdg.identity import apn_of, imsi_of
from epdg.pdn.configuration import (
    WORDS,
    GrantedNetwork,
    Request,
    only_allowed,
    only_possible,
    p_cscf,
    possible,
    reply,
    selectors,
)
from epdg.policy import ServicePolicy
from epdg.refusals import GatewayCause, Verdict
from epdg.resumption import ResumedSubscriber
from epdg.whereabouts import PathUse, Whereabouts
from protocols.diameter.dictionary import PdnType, ReAuthRequestType
from protocols.diameter.swm import (
    VENDOR_3GPP,
    Aaa,
    ApnConfiguration,
    Dea,
    ExperimentalResultCode,
    Result,
    ResultCode,
    TerminationCause,
)
from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.errors import RemoteError
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    AddressUpdateStarted,
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
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.redirection import Gateway
from protocols.ikev2.registry import ConfigType
from protocols.path import Address, Path
from protocols.threegpp.causes import notify_name
from protocols.threegpp.swu import reactivation_notify
from protocols.trace.records import JsonValue

_UNAUTHENTICATED = (
    Result(0, ResultCode.DIAMETER_AUTHENTICATION_REJECTED),
    Result(VENDOR_3GPP, ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN),
)
AAA_RESULT = "aaa-result"  # reason of a refusal that is the AAA server's; GatewayCause has those of our own
_NOT_ADMITTED = Result(0, ResultCode.DIAMETER_AUTHORIZATION_REJECTED)


class SessionState(str, Enum):
    """Where a session is in its life."""

    ATTACHING = "attaching"
    ESTABLISHED = "established"
    CLOSING = "closing"
    CLOSED = "closed"


class Session:
    """One IKE SA's worth of subscriber."""

    def __init__(
        self,
        identifier: str,
        *,
        default_apn: str | None,
        own_names: frozenset[str],
        created: float,
        policy: ServicePolicy,
        elsewhere: Gateway | None = None,
        congested: Callable[[str], bool] = lambda who: False,
    ) -> None:
        """``own_names``: an IDr that names the gateway itself asks for the default APN.

        ``elsewhere``: the gateway that serves the UE in our place once it is authenticated (RFC 5685 §6).
        ``congested`` tells whether there are too many for another one, of somebody who has none.
        """
        self.identifier = identifier
        self.state = SessionState.ATTACHING
        self.created = created
        self.established: float | None = None
        self.nai = ""
        self.imsi: str | None = None
        self.apn: str | None = None
        self.inner_addresses: tuple[Address, ...] = ()
        self.paths = Whereabouts()
        self.aaa = AaaSession()
        self.last_error: tuple[str, str] | None = None
        self.authorisation: Authorisation | None = None
        self.session_timeout: int | None = None
        self.device_identity: str | None = None
        self.emergency = False
        self._default_apn = default_apn
        self._own_names = own_names
        self._policy = policy
        self._elsewhere = elsewhere
        self._congested = congested
        self._question_open = False
        self._aborted = False
        self._back_off: float | None = None
        self._ending = ""
        self.carried: Counter[str] = Counter()  # by its child SAs that are gone
        self._resumed_addresses: tuple[Address, ...] = ()
        self._path: Path | None = None
        self._moving_to: Path | None = None
        self._moving_since = 0.0
        self._request = Request()
        self._network = GrantedNetwork()
        self._holds_addresses = False

    @property
    def subscriber(self) -> str:
        """Whose session it is: as the AAA server says it, since IDi is only what the UE says (RFC 7296 §2.16)."""
        return self.aaa.user_name or self.nai

    @property
    def _who(self) -> str:
        return self.imsi or self.nai

    # --- events of the IKE SA

    def handle(self, event: object, wall: float) -> list[Command]:
        """Take an event of the IKE SA."""
        if isinstance(event, IdentityReceived | EapResponseReceived | ConfigurationRequested):
            self._question_open = True
            if self._aborted:
                return self._refuse(GatewayCause.ABORTED, "the AAA server has ended the session")
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
            return [telling.restored(event, self._who)]
        if isinstance(event, AddressesUpdated):
            return self._moved(event, wall)
        if isinstance(event, AddressUpdateStarted):
            return self._move_begins(event, wall)
        if isinstance(event, AddressUpdateFailed):
            self._moving_to = None
            return [telling.not_moved(event, wall - self._moving_since)]
        if isinstance(event, IkeSaRekeyed):
            return [Tell(name="ike-rekeyed", text=f"The IKE SA of {self._who} was rekeyed.")]
        if isinstance(event, CreateChildSaRefused):
            return [telling.rekey_refused(event, self._who)]
        if isinstance(event, Refused):
            return self._refused(event)
        if isinstance(event, PeerRedirected):
            return [telling.redirected(event, self._who)]
        if isinstance(event, Closed):
            return self._closed(event, wall)
        return []

    def detach(self, ending: str = "operator") -> None:
        """The operator ends the session, or the gateway stops; the IKE SA is being deleted."""
        self.state = SessionState.CLOSING
        self._ending = ending
        self.aaa.termination_cause = TerminationCause.DIAMETER_ADMINISTRATIVE

    def expire(self) -> None:
        """The time the AAA server granted is over; the IKE SA is being deleted (RFC 6733 §8.13)."""
        self.state = SessionState.CLOSING
        self._ending = "session-timeout"
        self.aaa.termination_cause = TerminationCause.DIAMETER_SESSION_TIMEOUT

    def supersede(self) -> None:
        """The UE says by INITIAL_CONTACT that it has lost this session; the IKE SA is gone next."""
        self._ending = "superseded"

    # --- what the AAA server asks for

    def abort(self) -> tuple[ResultCode, list[Command]]:
        """ASR (TS 29.273 §7.1.2.4, RFC 6733 §8.5): detach the UE; STR follows when it is gone."""
        if self.state is SessionState.CLOSED or not self.aaa.held:
            return ResultCode.DIAMETER_UNKNOWN_SESSION_ID, []
        self.aaa.termination_cause = TerminationCause.DIAMETER_ADMINISTRATIVE
        if self.state is SessionState.CLOSING or self._aborted:
            return ResultCode.DIAMETER_SUCCESS, []
        why = "the AAA server has ended the session"
        if self.state is SessionState.ATTACHING:
            self._aborted = True
            return ResultCode.DIAMETER_SUCCESS, self._refuse(GatewayCause.ABORTED, why) if self._question_open else []
        return ResultCode.DIAMETER_SUCCESS, self._dismiss("aborted", why, come_back=self._policy.reactivation)

    def reauthorise(self, kind: int) -> tuple[ResultCode, list[Command]]:
        """RAR (TS 29.273 §7.1.2.5): fetch the present profile, or have the UE authenticate anew (RFC 6733 §8.12)."""
        if self.state in (SessionState.CLOSING, SessionState.CLOSED) or self._aborted or not self.aaa.held:
            return ResultCode.DIAMETER_UNKNOWN_SESSION_ID, []
        if kind not in ReAuthRequestType._value2member_map_:
            return ResultCode.DIAMETER_INVALID_AVP_VALUE, []
        if self.state is SessionState.ATTACHING:
            self.aaa.renewal_due = True  # what is being granted now may be what has changed
            return ResultCode.DIAMETER_SUCCESS, []
        if kind == ReAuthRequestType.AUTHORIZE_AUTHENTICATE:
            return ResultCode.DIAMETER_SUCCESS, [AuthenticateAnew()]
        return ResultCode.DIAMETER_SUCCESS, self._renew()

    def _renew(self) -> list[Command]:
        assert self._path is not None
        return self.aaa.renew(self.nai, self._path)

    def authorisation_answered(self, answer: Aaa, wall: float) -> list[Command]:
        """The profile as it is now, or why there is none (TS 29.273 §7.2.2.1.4)."""
        self.aaa.renewed(answer)
        if self.state is not SessionState.ESTABLISHED:
            return []
        if _decides_nothing(answer.result):
            return self.authorisation_failed(f"result {answer.result.code}")
        if answer.result != SUCCESS:
            return self._authorisation_refused(answer)
        former, self.authorisation = self.authorisation, Authorisation.of(answer, wall)
        obstacle = self.authorisation.obstacle(former, self.apn, self.inner_addresses)
        if self.emergency:
            obstacle = None  # no subscription decides on it
        if obstacle is not None:
            return self._dismiss("authorisation-changed", obstacle, come_back=self._policy.reactivation)
        self.session_timeout = answer.session_timeout
        changes = ", ".join(self.authorisation.changes(former)) or "nothing"
        text = f"The authorisation of {self._who} was renewed; changed: {changes}."
        told = Tell(name="authorisation-renewed", text=text, data={"changes": changes})
        return [GrantTime(answer.session_timeout), told, *self._renew_again()]

    def authorisation_failed(self, why: str) -> list[Command]:
        """No answer came: what was granted before stands."""
        self.aaa.renewed(None)
        if self.state is not SessionState.ESTABLISHED:
            return []
        text = f"The authorisation of {self._who} could not be renewed: {why}."
        return [Tell(name="authorisation-not-renewed", text=text, data={"why": why}), *self._renew_again()]

    def _renew_again(self) -> list[Command]:
        return self._renew() if self.aaa.renewal_due else []

    def _authorisation_refused(self, answer: Aaa) -> list[Command]:
        verdict = self._policy.refusals.of_result(answer.result, answer.error_message)
        return self._dismiss(verdict.name, verdict.text, come_back=False)

    def not_carried(self, why: str) -> list[Command]:
        """What carries ESP refuses a child SA or its move."""
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            return []
        return self._dismiss("esp-not-carried", f"ESP cannot be carried: {why}", come_back=False)

    def _dismiss(self, cause: str, why: str, *, come_back: bool) -> list[Command]:
        """End a session that is up; ``come_back``: the UE is told to attach again."""
        self.state = SessionState.CLOSING
        self._ending = cause
        self.aaa.termination_cause = TerminationCause.DIAMETER_ADMINISTRATIVE
        self.last_error = (cause, why)
        text = f"{self._who} is detached: {why}."
        notifies = (reactivation_notify(),) if come_back else ()
        told = Tell(name="dismissed", text=text, data={"cause": cause, "why": why, "reactivation": come_back})
        return [told, DeleteUe(why=why, notifies=notifies)]

    # --- answers

    def aaa_answered(self, dea: Dea) -> list[Command]:
        """The AAA server's word, translated for the UE."""
        self.aaa.answered(dea)
        if self.state is SessionState.CLOSED:
            # what the AAA server holds now is ended there, and only now (RFC 6733 §8.4)
            return self.aaa.terminate(self.nai)
        if self._aborted:
            return []  # the refusal is on its way to the UE, and the STR follows it
        if dea.result == MULTI_ROUND:
            if dea.eap_payload is None:
                return self._refuse(GatewayCause.AAA_UNUSABLE, "the AAA server goes on without an EAP packet")
            return self._answer(EapReply(packet=dea.eap_payload))
        if dea.result != SUCCESS:
            return self._refused_by_aaa(dea)
        if dea.eap_payload is None or dea.master_session_key is None:
            return self._refuse(GatewayCause.AAA_UNUSABLE, "the AAA server succeeds without EAP packet or MSK")
        self.authorisation = Authorisation.of(dea)
        self.session_timeout = dea.session_timeout
        if dea.user_name:
            self.aaa.user_name = dea.user_name
            self.imsi = imsi_of(dea.user_name) or self.imsi
        if self.apn is None and dea.apn_configuration is not None:
            self.apn = dea.apn_configuration.service_selection
        return self._answer(EapReply(packet=dea.eap_payload, msk=dea.master_session_key))

    def _refused_by_aaa(self, dea: Dea) -> list[Command]:
        emergency = self._policy.emergency
        refused = self.emergency and emergency is not None and not emergency.unauthenticated
        nameless = self.emergency and imei_of(self.nai) is not None and dea.result == _NOT_ADMITTED
        overload = None if dea.overload is None else dea.overload.validity
        facts: dict[str, JsonValue] = {
            "result": dea.result.code,
            "vendor": dea.result.vendor,
            "said": dea.error_message,
            "overload": overload,
        }
        if nameless or (refused and dea.result in _UNAUTHENTICATED):
            text = f"no emergency session without authentication: result {dea.result.code}"
            return self._refuse(GatewayCause.UNAUTHENTICATED_EMERGENCY, text, eap_packet=dea.eap_payload, facts=facts)
        validity = None if overload is None else float(overload)
        verdict = self._policy.refusals.of_result(dea.result, dea.error_message, validity)
        known = {"apn": self.apn, **facts}
        return self._refusal(verdict, eap_packet=dea.eap_payload, reason=AAA_RESULT, facts=known)

    def aaa_failed(self, why: str, cause: GatewayCause = GatewayCause.AAA_UNREACHABLE) -> list[Command]:
        """No answer came, or one that cannot be used (``cause``)."""
        self.aaa.asked = False
        if self.state is SessionState.CLOSED:
            return self.aaa.terminate(self.nai)
        if self._aborted:
            return []
        text = why if cause is GatewayCause.AAA_UNUSABLE else f"the AAA server cannot be reached: {why}"
        return self._refuse(cause, text)

    def address_allocated(self, addresses: tuple[Address, ...], network: GrantedNetwork | None) -> list[Command]:
        """The pools' word; ``network`` is ``None`` when this gateway does not serve the APN."""
        if network is None:
            return self._refuse(GatewayCause.APN_NOT_SERVED, f"this gateway does not serve APN {self.apn}")
        request, allowed = self._request, possible(network, self._pdn_type)
        if not set(request.versions) & set(allowed):
            text = f"the UE asks for {WORDS[request.versions]} and may have {WORDS[allowed]} in APN {self.apn}"
            facts: dict[str, JsonValue] = {"asked": WORDS[request.versions], "allowed": WORDS[allowed]}
            return self._refuse(GatewayCause.PDN_TYPE_NOT_ALLOWED, text, beside=only_possible(allowed), facts=facts)
        if not addresses:
            text = f"no inner address is free in APN {self.apn}"
            if request.wanted:
                text = f"the inner address that the UE asks for cannot be had in APN {self.apn}"
            wanted: list[JsonValue] = [str(address) for address in request.wanted]
            return self._refuse(GatewayCause.NO_ADDRESS_FREE, text, facts={"wanted": wanted})
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
        return self._answer(answer)

    def too_many_connections(self, limit: int) -> list[Command]:
        """The UE has as many PDN connections as it may have."""
        text = f"the UE has {limit} PDN connections already"
        return self._refuse(GatewayCause.TOO_MANY_CONNECTIONS, text, facts={"limit": limit})

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
        self.imsi = imsi_of(self.nai)
        asked = apn_of(event.responder_identity)
        emergency = self._policy.emergency
        self.emergency = emergency is not None and emergency.asked_for(asked, self.nai)
        self.apn = self._default_apn if asked is None or asked in self._own_names else asked
        if self.emergency and emergency is not None:
            self.apn = emergency.apn
        self._path = event.path
        identity = EapPacket(
            code=EapCode.RESPONSE, identifier=0, type=EapType.IDENTITY, data=event.identity.data
        ).encode()
        attach = telling.attach_requested(event, self.nai, self.apn, emergency=self.emergency)
        if event.authentication is not AuthenticationKind.EAP:
            return [attach]  # it has proved itself to IKE: no AAA server is asked
        # who comes under a pseudonym may be somebody who authenticates anew: that is known when it is done
        if self.imsi is not None and not self.emergency and self._congested(self.nai):
            return [attach, *self._refuse_congested()]
        if self.emergency and imei_of(self.nai) is not None:
            self.device_identity = imei_of(self.nai)
            if emergency is None or not emergency.unauthenticated:
                text = "no emergency session without authentication: the UE has no IMSI"
                return [attach, *self._refuse(GatewayCause.UNAUTHENTICATED_EMERGENCY, text)]
        return [attach, self._der(identity)]

    def _refuse_congested(self) -> list[Command]:
        return self._refuse(GatewayCause.CONGESTION, "the gateway has as many sessions as it takes")

    def _der(self, packet: bytes) -> SendDer:
        assert self._path is not None
        return self.aaa.der(
            packet,
            user_name=self.nai,
            apn=None if self.emergency else self.apn,
            ue_address=self._path,
            emergency=self.emergency,
            device_identity=self.device_identity,
        )

    def inherit(self, former: Session) -> None:
        """The UE resumed a session that was still here: what the AAA server knows of it goes on in this one."""
        self.aaa.inherit(former.aaa)
        self.authorisation, self.device_identity = former.authorisation, former.device_identity
        self.emergency = former.emergency

    def _ticket(self, addresses: tuple[Address, ...]) -> bytes | None:
        """What a ticket says of the session (RFC 5723 §6.1); the AAA server's time bounds it."""
        if self.apn is None:
            return None
        return ResumedSubscriber(
            nai=self.nai,
            user_name=self.aaa.user_name,
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
        self.nai, self.aaa.user_name, self.imsi, self.apn = known.nai, known.user_name, known.imsi, known.apn
        self._resumed_addresses = tuple(ip_address(address) for address in known.addresses)
        return None

    @property
    def _profile(self) -> ApnConfiguration | None:
        """What the subscription says of the APN; of an emergency it says nothing."""
        return None if self.authorisation is None or self.emergency else self.authorisation.apn_configuration

    @property
    def _pdn_type(self) -> PdnType | None:
        return None if self._profile is None else self._profile.pdn_type

    def _configure(self, event: ConfigurationRequested, wall: float) -> list[Command]:
        if event.resumed is not None:
            why = self._resume(event.resumed, wall)
            if why is not None:
                return self._refuse(GatewayCause.RESUMPTION_IMPOSSIBLE, why)
        elif self._elsewhere is not None and event.redirectable and not self.emergency:
            return self._answer(RedirectReply(self._elsewhere))
        elif self._policy.require_device_identity and self.device_identity is None:
            return self._refuse(GatewayCause.NO_DEVICE_IDENTITY, "the UE does not tell its IMEI")
        if not self.emergency and self._congested(self.subscriber):
            return self._refuse_congested()
        request = Request.of(event.configuration)
        if not request.wanted:
            former = tuple(each for each in self._resumed_addresses if each.version in request.versions)
            request = replace(request, wanted=former)
        self._request = request
        if not request.versions:
            # RFC 7296 §2.19: every UE gets its address here
            return self._refuse(GatewayCause.NO_ADDRESS_ASKED, "the UE asks for no inner address")
        if self.apn is None:
            return self._refuse(GatewayCause.NO_APN, "the UE names no APN and none is the default")
        static = () if self._profile is None else tuple(self._profile.served_party_addresses)
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
        if self.state is not SessionState.ATTACHING:
            return []  # its child SA is not carried, and it is being deleted
        self.state = SessionState.ESTABLISHED
        self.established = wall
        self._path = event.path
        self.paths.enter(PathUse(path=event.path, since=wall, why="attach", validated=True))
        told = telling.attached(event, self._who, self.imsi, self.apn, self.inner_addresses, wall - self.created)
        return [GrantTime(self.session_timeout), told, *self._renew_again()]

    # --- life

    def _moved(self, event: AddressesUpdated, wall: float) -> list[Command]:
        self._path, self._moving_to = event.new, None
        why = "moved behind a NAT" if event.nat.remote else "moved"
        self.paths.enter(PathUse(path=event.new, since=wall, why=why, validated=event.validated))
        return [telling.moved(event)]

    def _move_begins(self, event: AddressUpdateStarted, wall: float) -> list[Command]:
        """A newer one may come before the address of an older one was checked (RFC 4555 §3.5)."""
        former, self._moving_to = self._moving_to, event.new
        self._moving_since = wall
        if former is None or former == event.new:
            return []
        return [telling.unchecked(former, "a newer move came before the check was answered")]

    def _inquired(self, event: ConfigurationReceived) -> list[Command]:
        """The UE asks again for what it was given; nothing of ours can be set (RFC 7296 §3.15.1)."""
        answer = ConfigurationAnswer()
        if event.type is ConfigType.CFG_REQUEST:
            answer = ConfigurationAnswer(
                attributes=reply(Request.of(event.attributes), self.inner_addresses, self._network)
            )
        return [AnswerIke(answer=answer)]

    def _refused(self, event: Refused) -> list[Command]:
        cause = "error" if event.notify is None else notify_name(int(event.notify.type))
        self.last_error = (cause, event.text)
        return [telling.refused(event, self._who, cause, self._back_off)]

    def _closed(self, event: Closed, wall: float) -> list[Command]:
        attached = self.established is not None
        administrative = self.state is SessionState.CLOSING
        self.state = SessionState.CLOSED
        commands: list[Command] = []
        if self._moving_to is not None:
            commands.append(telling.unchecked(self._moving_to, "the session ended before the check was answered"))
            self._moving_to = None
        self.paths.leave(wall)
        if self.apn is not None and self._holds_addresses:
            self._holds_addresses = False
            commands += [ReleaseAddress(apn=self.apn, address=address) for address in self.inner_addresses]
        if not administrative and not event.by_peer and not self._aborted:
            self.aaa.termination_cause = TerminationCause.DIAMETER_LINK_BROKEN
        if not event.resumed and not self.aaa.asked:
            commands += self.aaa.terminate(self.nai)
        ending = self._ending or ("ue" if event.by_peer else "")
        granted = self.session_timeout if ending == "session-timeout" else None
        commands += telling.dropped(self.carried, self._who)
        commands.append(telling.gone(event, self._who, was_attached=attached, ending=ending, granted=granted))
        return commands

    def _answer(self, answer: EapReply | ConfigurationReply | RedirectReply | Refusal) -> list[Command]:
        """Answer the question that the UE's last message has put."""
        self._question_open = False
        return [AnswerIke(answer=answer)]

    def _refuse(
        self,
        cause: GatewayCause,
        text: str,
        *,
        eap_packet: bytes | None = None,
        beside: tuple[NotifyPayload, ...] = (),
        facts: Mapping[str, JsonValue] | None = None,
    ) -> list[Command]:
        """Refuse for a reason of our own, as the policy file has it."""
        verdict = self._policy.refusals.of_cause(cause, text)
        known: dict[str, JsonValue] = {"apn": self.apn, "what": text, **(facts or {})}
        return self._refusal(verdict, eap_packet=eap_packet, beside=beside, reason=cause.value, facts=known)

    def _refusal(
        self,
        verdict: Verdict,
        *,
        eap_packet: bytes | None = None,
        beside: tuple[NotifyPayload, ...] = (),
        reason: str = "",
        facts: Mapping[str, JsonValue] | None = None,
    ) -> list[Command]:
        self._back_off = verdict.back_off
        refusal = Refusal(
            notify=verdict.payload,
            text=verdict.text,
            eap_packet=eap_packet,
            beside=(*verdict.beside, *beside),
            reason=reason,
            facts=facts or {},
        )
        return self._answer(refusal)


def _decides_nothing(result: Result) -> bool:
    """A protocol error, or one that passes (RFC 6733 §7.1.3, §7.1.4): it says nothing about the user."""
    return result.vendor == 0 and (result.code // 1000 == 3 or result.code == ResultCode.DIAMETER_OUT_OF_SPACE)

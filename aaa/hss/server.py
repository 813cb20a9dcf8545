"""The HSS on SWx (TS 29.273 §8): MAR and SAR of AAA servers answered, RTR and PPR sent to them.

The procedures are ``aaa.hss.procedures``, on the thread of the database; a failure of it is
DIAMETER_UNABLE_TO_COMPLY, and the node serves on.
"""

from __future__ import annotations

from collections.abc import Callable

from aaa.hss.in_process import Bridge
from aaa.hss.port import HssRefusal, SubscriberProfile, VectorRequest
from aaa.hss.procedures import HssProcedures
from aaa.hss.registration import ServingServer
from protocols.diameter.codec import DiameterMessage, RequestError, Result
from protocols.diameter.commands import SessionIdSource
from protocols.diameter.dictionary import (
    SWX_APPLICATION,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
    ServerAssignmentType,
)
from protocols.diameter.profile import Non3gppUserData
from protocols.diameter.swx import (
    EAP_AKA,
    EAP_AKA_PRIME,
    AuthItem,
    DeregistrationReason,
    Maa,
    Mar,
    Ppa,
    Ppr,
    Rta,
    Rtr,
    Saa,
    Sar,
)
from protocols.eap.aka.server import Resynchronisation
from protocols.eap.packet import EapType
from protocols.errors import AuthenticationError, BackendError, DecodeError
from protocols.io.diameter import DiameterNode
from protocols.io.diameter.answers import Handler
from protocols.threegpp.identity import Imsi

_SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
_METHODS = {EAP_AKA: EapType.AKA, EAP_AKA_PRIME: EapType.AKA_PRIME}

_DEREGISTRATIONS = frozenset(
    {
        ServerAssignmentType.TIMEOUT_DEREGISTRATION,
        ServerAssignmentType.USER_DEREGISTRATION,
        ServerAssignmentType.ADMINISTRATIVE_DEREGISTRATION,
        ServerAssignmentType.AUTHENTICATION_FAILURE,
        ServerAssignmentType.AUTHENTICATION_TIMEOUT,
        ServerAssignmentType.DEREGISTRATION_TOO_MUCH_DATA,
    }
)


class SwxServer:
    """The HSS behind its own Diameter node."""

    def __init__(
        self,
        node: DiameterNode,
        procedures: HssProcedures,
        bridge: Bridge,
        *,
        wall: Callable[[], float],
        timeout: float,
        wrap: Callable[[Handler], Handler] | None = None,
    ) -> None:
        """``timeout`` is how long an AAA server may take to answer RTR and PPR; ``wrap`` is put around handlers."""
        self._node = node
        self._procedures = procedures
        self._bridge = bridge
        self._timeout = timeout
        self._session_ids = SessionIdSource(node.identity.host, wall=wall())
        for command, handler in (
            (CommandCode.MULTIMEDIA_AUTH, self._multimedia_auth),
            (CommandCode.SERVER_ASSIGNMENT, self._server_assignment),
        ):
            node.on_request(SWX_APPLICATION, command, handler if wrap is None else wrap(handler))

    # --- what AAA servers ask -----------------------------------------------------------------------

    async def _multimedia_auth(self, message: DiameterMessage) -> DiameterMessage:
        mar = Mar.from_message(message)
        result, items, text, server = _SUCCESS, tuple[AuthItem, ...](), None, None
        try:
            request = _vector_request(mar)
            vectors = await self._bridge.run(
                lambda: self._procedures.authenticate(
                    request, server=ServingServer(mar.origin_host, mar.origin_realm), count=mar.number_of_items
                )
            )
            items = tuple(
                AuthItem(
                    rand=vector.rand, autn=vector.autn, xres=vector.xres, ck=vector.ck, ik=vector.ik, scheme=mar.scheme
                )
                for vector in vectors
            )
        except HssRefusal as refusal:
            result, text, server = refusal.result, refusal.text, refusal.serving_server
        except AuthenticationError as error:  # AUTS: no vector can be made of it
            result = Result.of(ExperimentalResultCode.DIAMETER_AUTHENTICATION_DATA_UNAVAILABLE)
            text = str(error)
        return Maa(
            session_id=mar.session_id,
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            result=result,
            user_name=mar.user_name,
            items=items,
            server_name=server,
            error_message=text,
        ).to_message(message)

    async def _server_assignment(self, message: DiameterMessage) -> DiameterMessage:
        sar = Sar.from_message(message)
        result, profile, text, server = _SUCCESS, None, None, None
        try:
            profile = await self._bridge.run(lambda: self._assign(sar, message))
        except HssRefusal as refusal:
            result, text, server = refusal.result, refusal.text, refusal.serving_server
        return Saa(
            session_id=sar.session_id,
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            result=result,
            user_name=sar.user_name,
            user_data=None if profile is None else profile.user_data,
            server_name=server,
            error_message=text,
        ).to_message(message)

    def _assign(self, sar: Sar, message: DiameterMessage) -> SubscriberProfile | None:
        """What the Server-Assignment-Type says (TS 29.273 §8.1.2.2.2.2), on the thread of the database."""
        imsi, server = _imsi(sar.user_name), ServingServer(sar.origin_host, sar.origin_realm)
        kind = sar.server_assignment_type
        device = None if sar.terminal_information is None else sar.terminal_information.imei
        match kind:
            case ServerAssignmentType.REGISTRATION:
                self._procedures.check_device(imsi, device)
                return self._procedures.register(imsi, server=server)
            case ServerAssignmentType.AAA_USER_DATA_REQUEST:
                if device is not None:  # it names none where no device attaches
                    self._procedures.check_device(imsi, device)
                return self._procedures.user_data(imsi, server=server)
            case ServerAssignmentType.RESTORATION:
                return self._procedures.restore(imsi, server=server)
            case ServerAssignmentType.PGW_UPDATE:
                if sar.service_selection is None:
                    raise RequestError(ResultCode.DIAMETER_MISSING_AVP, "PGW_UPDATE without Service-Selection")
                self._procedures.update_pgw(imsi, sar.service_selection, sar.pgw, server=server)
            case _ if kind in _DEREGISTRATIONS:
                self._procedures.deregister(imsi, server=server)
            case _:
                raise RequestError(
                    ResultCode.DIAMETER_INVALID_AVP_VALUE,
                    f"{kind.name} is no assignment of SWx",
                    message.find("Server-Assignment-Type"),
                )
        return None

    # --- what AAA servers are told ------------------------------------------------------------------

    async def terminate_registration(self, server: ServingServer, imsi: Imsi, reason: int, text: str) -> Result:
        """RTR --> ; <-- RTA; ``BackendError`` when ``server`` does not answer."""
        rtr = Rtr(
            session_id=self._session_ids.next(),
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            destination_host=server.host,
            destination_realm=server.realm,
            user_name=str(imsi),
            deregistration_reason=DeregistrationReason(reason, text),
        )
        return await self._told(server, rtr, Rta)

    async def push_profile(self, server: ServingServer, imsi: Imsi, profile: Non3gppUserData) -> Result:
        """PPR --> ; <-- PPA; ``BackendError`` when ``server`` does not answer."""
        ppr = Ppr(
            session_id=self._session_ids.next(),
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            destination_host=server.host,
            destination_realm=server.realm,
            user_name=str(imsi),
            user_data=profile,
        )
        return await self._told(server, ppr, Ppa)

    async def _told(self, server: ServingServer, request: Rtr | Ppr, answer_type: type[Rta] | type[Ppa]) -> Result:
        """The server's result; an agent's or another node's word that it cannot be reached is none of its own."""
        answer = await self._node.request(request.to_message(), self._timeout)
        try:
            result = answer_type.from_message(answer).result
        except DecodeError as error:
            raise BackendError(f"the {answer.name} of {server.host} cannot be read: {error}") from error
        if result.is_protocol_error:
            raise BackendError(f"{server.host} cannot be reached: {result}")
        return result


def _vector_request(mar: Mar) -> VectorRequest:
    method = _METHODS.get(mar.scheme)
    if method is None:
        raise HssRefusal(
            Result.of(ExperimentalResultCode.DIAMETER_ERROR_AUTH_SCHEME_NOT_SUPPORTED),
            f"Vectors are for EAP-AKA and EAP-AKA', not for {mar.scheme}.",
        )
    anid = mar.access_network_identity
    return VectorRequest(
        imsi=_imsi(mar.user_name),
        method=method,
        network_name=None if anid is None else anid.encode(),
        resynchronisation=None if mar.resynchronisation is None else Resynchronisation(*mar.resynchronisation),
        visited_network=mar.visited_network,
        rat_type=mar.rat_type,
        replaces_failed_server=mar.aaa_failure_indication is not None,
    )


def _imsi(name: str) -> Imsi:
    """User-Name is the IMSI; a name that is none belongs to nobody (TS 29.273 §8.1.2.1.2)."""
    try:
        return Imsi(name)
    except ValueError:
        raise HssRefusal(
            Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN), "User-Name is no IMSI."
        ) from None

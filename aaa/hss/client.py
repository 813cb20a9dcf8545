"""An HSS elsewhere, asked over Diameter (SWx, TS 29.273 §8), and what it pushes: RTR and PPR.

No answer in time and no connection are ``BackendError``, as is an answer that cannot be read; every result
but success is ``HssRefusal``. A user's requests go to whichever HSS the routing finds, and after its first
answer to that one (Destination-Host, RFC 6733 §6.1), until it cannot be reached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from aaa.hss.in_process import known
from aaa.hss.port import SERVED, HssListener, HssRefusal, SubscriberProfile, VectorRequest
from aaa.subscribers.subscriber import is_host
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import DiameterMessage, RequestError, Result
from protocols.diameter.commands import SessionIdSource
from protocols.diameter.dictionary import (
    SWX_APPLICATION,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
    ServerAssignmentType,
)
from protocols.diameter.profile import TerminalInformation
from protocols.diameter.swx import EAP_AKA, EAP_AKA_PRIME, Maa, Mar, Ppa, Ppr, Rta, Rtr, Saa, Sar
from protocols.eap.packet import EapType
from protocols.errors import AuthenticationError, BackendError, DecodeError
from protocols.io.diameter import DiameterNode
from protocols.threegpp.identity import Imsi
from protocols.trace.spans.span import optional_part

SERVING_LIMIT = 100_000  # users of whom it is remembered which HSS answered

_SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
_SCHEMES = {EapType.AKA: EAP_AKA, EapType.AKA_PRIME: EAP_AKA_PRIME}


class SwxClient:
    """The port over the AAA server's Diameter node; ``realm`` is the HSS's."""

    def __init__(
        self,
        node: DiameterNode,
        *,
        realm: str,
        timeout: float,
        wall: Callable[[], float],
        listener: HssListener,
        traced: bool = False,
    ) -> None:
        """``traced``: Session-Ids name the trace (``protocols.trace.spans``) of the SWm session they are for."""
        self._node = node
        self._realm = realm
        self._timeout = timeout
        self._listener = listener
        self._traced = traced
        self._session_ids = SessionIdSource(node.identity.host, wall=wall())
        self._serving: OrderedDict[Imsi, str] = OrderedDict()
        node.on_request(SWX_APPLICATION, CommandCode.REGISTRATION_TERMINATION, self._registration_termination)
        node.on_request(SWX_APPLICATION, CommandCode.PUSH_PROFILE, self._push_profile)

    def _session_id(self) -> str:
        session = SERVED.get()
        return self._session_ids.next(optional_part(session) if self._traced and session is not None else "")

    # --- what is asked ------------------------------------------------------------------------------

    async def authentication_vector(self, request: VectorRequest) -> AkaVector:
        """MAR --> ; <-- MAA"""
        resynchronisation = request.resynchronisation
        mar = Mar(
            session_id=self._session_id(),
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            destination_realm=self._realm,
            user_name=str(request.imsi),
            scheme=_SCHEMES[request.method],
            resynchronisation=None if resynchronisation is None else (resynchronisation.rand, resynchronisation.auts),
            rat_type=request.rat_type,
            access_network_identity=None if request.network_name is None else request.network_name.decode(),
            visited_network=request.visited_network,
            aaa_failure_indication=1 if request.replaces_failed_server else None,
        )
        answer = await self._request(mar, request.imsi)
        try:
            maa = Maa.from_message(answer)
        except DecodeError as error:
            raise BackendError(f"the MAA of {_origin(answer)} cannot be read: {error}") from error
        if maa.result != _SUCCESS:
            if resynchronisation is not None and maa.result == Result.of(
                ExperimentalResultCode.DIAMETER_AUTHENTICATION_DATA_UNAVAILABLE
            ):
                raise AuthenticationError(maa.error_message or "the HSS does not accept AUTS")
            raise self._refusal(request.imsi, maa.result, maa.error_message, maa.server_name)
        if not maa.items or maa.items[0].scheme != mar.scheme:
            raise BackendError(f"the MAA of {maa.origin_host} holds no vector of {mar.scheme}")
        self._remember(request.imsi, maa.origin_host)
        item = maa.items[0]
        return AkaVector(rand=item.rand, autn=item.autn, xres=item.xres, ck=item.ck, ik=item.ik)

    async def register(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """SAR [ REGISTRATION, Terminal-Information ] --> ; <-- SAA [ Non-3GPP-User-Data ]"""
        return _profile(imsi, await self._assign(imsi, ServerAssignmentType.REGISTRATION, imei=imei))

    async def user_data(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """SAR [ AAA_USER_DATA_REQUEST, Terminal-Information ] --> ; <-- SAA [ Non-3GPP-User-Data ]"""
        return _profile(imsi, await self._assign(imsi, ServerAssignmentType.AAA_USER_DATA_REQUEST, imei=imei))

    async def deregister(self, imsi: Imsi, why: ServerAssignmentType) -> None:
        """SAR [ USER_DEREGISTRATION ] --> ; <-- SAA"""
        await self._assign(imsi, why)
        self._serving.pop(imsi, None)

    async def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None) -> None:
        """SAR [ PGW_UPDATE, Service-Selection, MIP6-Agent-Info ] --> ; <-- SAA"""
        await self._assign(imsi, ServerAssignmentType.PGW_UPDATE, apn=apn, pgw=pgw)

    async def _assign(
        self,
        imsi: Imsi,
        kind: ServerAssignmentType,
        *,
        apn: str | None = None,
        pgw: str | None = None,
        imei: str | None = None,
    ) -> Saa:
        sar = Sar(
            session_id=self._session_id(),
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            destination_realm=self._realm,
            user_name=str(imsi),
            server_assignment_type=kind,
            service_selection=apn,
            pgw=pgw,
            terminal_information=None if imei is None else TerminalInformation(imei),
        )
        answer = await self._request(sar, imsi)
        try:
            saa = Saa.from_message(answer)
        except DecodeError as error:
            raise BackendError(f"the SAA of {_origin(answer)} cannot be read: {error}") from error
        if saa.result != _SUCCESS:
            raise self._refusal(imsi, saa.result, saa.error_message, saa.server_name)
        self._remember(imsi, saa.origin_host)
        return saa

    async def _request(self, request: Mar | Sar, imsi: Imsi) -> DiameterMessage:
        """The answer of the user's HSS; of any other one when that one cannot be reached, in the time that is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        serving = self._serving.pop(imsi, None)
        if serving is not None:
            try:
                answer = await self._node.request(
                    replace(request, destination_host=serving).to_message(), self._timeout
                )
            except BackendError:
                if loop.time() >= deadline:
                    raise
            else:
                if not answer.error:
                    return answer
        return await self._node.request(request.to_message(), deadline - loop.time())

    def _refusal(self, imsi: Imsi, result: Result, text: str | None, server: str | None) -> HssRefusal:
        elsewhere = Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED)
        if server is not None and not is_host(server):  # nowhere to send a gateway to
            server = None
        return HssRefusal(
            result,
            text or f"The HSS refuses subscriber {imsi}: {result}.",
            serving_server=server if result == elsewhere else None,
        )

    def _remember(self, imsi: Imsi, host: str) -> None:
        self._serving[imsi] = host
        self._serving.move_to_end(imsi)
        if len(self._serving) > SERVING_LIMIT:
            self._serving.popitem(last=False)

    # --- what is pushed -----------------------------------------------------------------------------

    async def _registration_termination(self, message: DiameterMessage) -> DiameterMessage:
        rtr = Rtr.from_message(message)
        imsi = _user(message, rtr.user_name)
        reason = rtr.deregistration_reason
        self._serving.pop(imsi, None)
        is_known = self._listener.deregistered(imsi, reason.code, reason.text or "the HSS ended the registration")
        return Rta(
            session_id=rtr.session_id,
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            result=known(is_known),
        ).to_message(message)

    async def _push_profile(self, message: DiameterMessage) -> DiameterMessage:
        ppr = Ppr.from_message(message)
        imsi = _user(message, ppr.user_name)
        profile = None if ppr.user_data is None else SubscriberProfile(imsi=imsi, user_data=ppr.user_data)
        is_known = self._listener.profile_changed(imsi, profile)
        return Ppa(
            session_id=ppr.session_id,
            origin_host=self._node.identity.host,
            origin_realm=self._node.identity.realm,
            result=known(is_known),
        ).to_message(message)


def _user(message: DiameterMessage, name: str) -> Imsi:
    """User-Name of a request of the HSS, which is an IMSI (TS 29.273 §8.2.3)."""
    try:
        return Imsi(name)
    except ValueError:
        raise RequestError(
            ResultCode.DIAMETER_INVALID_AVP_VALUE, "User-Name is no IMSI", message.find("User-Name")
        ) from None


def _profile(imsi: Imsi, saa: Saa) -> SubscriberProfile:
    if saa.user_data is None:
        raise BackendError(f"the SAA of {saa.origin_host} holds no profile")
    return SubscriberProfile(imsi=imsi, user_data=saa.user_data)


def _origin(answer: DiameterMessage) -> str:
    try:
        return answer.text("Origin-Host") or "the HSS"
    except RequestError:
        return "the HSS"

"""Control methods that do something to one session, named by ``id``; each answers once it has begun.

Those of ``questions`` answer once the UE has.
"""

from __future__ import annotations

from collections.abc import Mapping

from epdg.config import RedirectSection
from epdg.control.which import established_session, live_session
from epdg.session import SessionState
from epdg.sessions import Sessions
from epdg.swu import Swu
from protocols.errors import LocalError
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import LIFETIME_MAXIMUM, AuthenticationLifetime
from protocols.ikev2.tasks.redirect import RedirectPeer
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.control import ControlError, Handler, Params
from protocols.io.parameters import addresses, number, text, unfit
from protocols.threegpp.swu import GatewaySwu, reactivation_notify
from protocols.trace.records import JsonValue

REACTIVATE = "reactivate"
DETACH_CAUSES = ("operator", REACTIVATE)


class SessionActions:
    """By what the session says, or straight by an exchange of its IKE SA."""

    def __init__(self, sessions: Sessions, swu: Swu) -> None:
        self._sessions = sessions
        self._swu = swu

    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "sessions.detach": self.detach,
            "sessions.rekey-ike": self.rekey_ike,
            "sessions.rekey-child": self.rekey_child,
            "sessions.reauthenticate": self.reauthenticate,
            "sessions.redirect": self.redirect,
            "sessions.restore-pcscf": self.restore_p_cscf,
        }

    async def detach(self, params: Params) -> JsonValue:
        """DELETE to the UE, STR to the AAA server; ``reactivate``: the UE is to come again (TS 24.302 §8.1.2.3)."""
        live = live_session(self._sessions, params)
        cause = text(params, "cause") or DETACH_CAUSES[0]
        if cause not in DETACH_CAUSES:
            raise unfit(f"cause is {' or '.join(DETACH_CAUSES)}")
        notifies = (reactivation_notify(),) if cause == REACTIVATE else ()
        if live.session.state is not SessionState.CLOSING:
            live.session.detach()
            why = "detached by the operator, to come again" if notifies else "detached by the operator"
            self._swu.initiate(live.sa, DeleteIkeSa(why, notifies))
        return {"id": live.session.identifier, "state": live.session.state.value}

    async def rekey_ike(self, params: Params) -> JsonValue:
        """RFC 7296 §1.3.2."""
        live = established_session(self._sessions, params)
        self._swu.initiate(live.sa, RekeyIke())
        return {"id": live.session.identifier}

    async def rekey_child(self, params: Params) -> JsonValue:
        """RFC 7296 §1.3.3: the child SA with this inbound SPI, without one all of them."""
        live = established_session(self._sessions, params)
        wanted = text(params, "inbound_spi")
        spis = [spi for spi, child in live.sa.children.items() if not child.replaced and wanted in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"no child SA {wanted} in session {live.session.identifier}")
        for spi in spis:
            self._swu.initiate(live.sa, RekeyChild(spi))
        return {"id": live.session.identifier, "inbound_spis": [spi.hex() for spi in spis]}

    async def reauthenticate(self, params: Params) -> JsonValue:
        """RFC 4478 §2: the UE has so many seconds to authenticate anew, none: it is to begin at once."""
        live = established_session(self._sessions, params)
        expected = f"lifetime is a number of seconds from 0 to {LIFETIME_MAXIMUM}"
        lifetime = number(params, "lifetime", expected) or 0.0
        if not 0 <= lifetime <= LIFETIME_MAXIMUM:
            raise unfit(expected)
        self._swu.initiate(live.sa, AuthenticationLifetime(lifetime))
        return {"id": live.session.identifier}

    async def redirect(self, params: Params) -> JsonValue:
        """RFC 5685 §5: the UE is told to go to another gateway, and deletes the session itself."""
        live = live_session(self._sessions, params)
        try:
            target = RedirectSection.model_validate({"gateway": params.get("gateway")}).gateway
        except ValueError:
            raise unfit("gateway is an address or a domain name") from None
        if live.session.state is not SessionState.ESTABLISHED:
            raise ControlError("not-possible", f"the session is {live.session.state.value}")
        try:
            task = RedirectPeer(live.sa, target)
        except LocalError as error:
            raise ControlError("not-possible", str(error)) from error
        self._swu.initiate(live.sa, task)
        return {"id": live.session.identifier, "gateway": str(target)}

    async def restore_p_cscf(self, params: Params) -> JsonValue:
        """P-CSCF restoration by its extended mechanism (TS 23.380 §5.6.5): other addresses, no new tunnel."""
        live = live_session(self._sessions, params)
        swu = live.sa.extension
        if not (isinstance(swu, GatewaySwu) and swu.p_cscf_reselection):
            raise ControlError("not-possible", "the UE did not announce P_CSCF_RESELECTION_SUPPORT")
        servers = addresses(params, "addresses")
        if not servers:
            raise unfit("addresses is a list of IP addresses, of at least one")
        commands = live.session.restore_p_cscf(servers)
        if not commands:
            raise ControlError("not-possible", "the UE is not attached, or asked for no P-CSCF of these IP versions")
        self._sessions.carry_out(live, commands)
        return {"id": live.session.identifier, "state": live.session.state.value}

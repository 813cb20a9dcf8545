"""Control methods about the gateway's own addresses: more, lost, had again, preferred (RFC 4555 §3.6)."""

from __future__ import annotations

from collections.abc import Mapping

from epdg.addresses import GatewayAddresses
from epdg.control.which import live_session
from epdg.sessions import Sessions
from epdg.swu import Swu
from protocols.errors import BackendError
from protocols.io.control import ControlError, Handler, Params
from protocols.io.parameters import address as address_of
from protocols.io.parameters import flag
from protocols.path import Address
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue


class AddressMethods:
    """Every answer is the list as it is then."""

    def __init__(self, addresses: GatewayAddresses, sessions: Sessions, swu: Swu, recorder: Recorder) -> None:
        self._addresses = addresses
        self._sessions = sessions
        self._swu = swu
        self._recorder = recorder

    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "addresses.list": self.list,
            "addresses.add": self.add,
            "addresses.remove": self.remove,
            "addresses.withdraw": self.withdraw,
            "addresses.restore": self.restore,
            "addresses.prefer": self.prefer,
        }

    async def list(self, params: Params) -> JsonValue:
        """Those configured and those added since, and whether they are there."""
        del params
        return self._addresses.view()

    async def add(self, params: Params) -> JsonValue:
        """Serve UEs at another address of this machine's; UEs are told. ``BackendError``: it is not this machine's."""
        address = self._addresses.addable(address_of(params, "address"))
        try:
            self._swu.open_ports(address)
        except BackendError:
            self._swu.close_ports(address)
            raise
        self._addresses.add(address)
        text = f"The gateway has {address} too."
        self._recorder.event("address-added", text, {"address": str(address)})
        self._tell_everybody()
        return self._addresses.view()

    async def remove(self, params: Params) -> JsonValue:
        """Serve UEs no more at an address that was added; UEs are told."""
        address = self._addresses.removable(address_of(params, "address"))
        self._addresses.remove(address)
        self._swu.close_ports(address)
        text = f"The gateway has {address} no more."
        self._recorder.event("address-removed", text, {"address": str(address)})
        self._tell_everybody()
        return self._addresses.view()

    async def withdraw(self, params: Params) -> JsonValue:
        """Lose an address: its ports close; UEs are told, or with ``silently`` have to find out."""
        address, silently = self._named(params), flag(params, "silently")
        self._addresses.withdraw(address)
        self._swu.close_ports(address)
        text = f"The gateway has lost {address}{' without a word' if silently else ''}."
        self._recorder.event("address-withdrawn", text, {"address": str(address), "silently": silently})
        if not silently:
            self._tell_everybody()
        return self._addresses.view()

    async def restore(self, params: Params) -> JsonValue:
        """Have an address again."""
        address = self._named(params)
        if address in self._addresses.withdrawn:
            self._swu.open_ports(address)
            self._addresses.restore(address)
            text = f"The gateway has {address} again."
            self._recorder.event("address-restored", text, {"address": str(address)})
            self._tell_everybody()
        return self._addresses.view()

    async def prefer(self, params: Params) -> JsonValue:
        """Ask one session, or all of them, to use an address."""
        address = self._named(params)
        if address in self._addresses.withdrawn:
            raise ControlError("not-found", f"the gateway has lost {address}")
        one = params.get("id") is not None
        chosen = [live_session(self._sessions, params)] if one else [*self._sessions.live.values()]
        for live in chosen:
            self._swu.tell_addresses(live.sa, prefer=address)
        self._swu.pump()
        return self._addresses.view()

    def _named(self, params: Params) -> Address:
        return self._addresses.known(address_of(params, "address"))

    def _tell_everybody(self) -> None:
        for live in [*self._sessions.live.values()]:
            self._swu.tell_addresses(live.sa)
        self._swu.pump()

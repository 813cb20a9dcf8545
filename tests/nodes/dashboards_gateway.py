"""What the gateway of ``dashboards_world`` lets an operator do: answers as ``epdg.control`` has them, from a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from epdg.addresses import GatewayAddresses
from protocols.io.control import ControlError
from protocols.io.parameters import address, addresses

Find = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class GatewayActions:
    """``done``: method and session of each that was carried out; addresses are kept as by the real gateway."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._addresses = GatewayAddresses((ip_address("127.0.1.1"),))
        self.done: list[tuple[str, str]] = []

    def methods(self) -> dict[str, Any]:
        """By name."""
        sessions = {
            "rekey-ike": lambda session, params: {},
            "rekey-child": lambda session, params: {
                "inbound_spis": [child["inbound_spi"] for child in session["child_sas"]]
            },
            "reauthenticate": lambda session, params: {},
            "redirect": lambda session, params: {"gateway": params["gateway"]},
            "restore-pcscf": self._restored,
            "liveness": self._answered,
            "check-path": self._answered,
        }
        return {f"sessions.{name}": self._session(name, answer) for name, answer in sessions.items()} | {
            "addresses.list": self._list,
            "addresses.add": self._add,
            "addresses.remove": self._remove,
            "addresses.withdraw": self._withdraw,
            "addresses.restore": self._restore,
            "addresses.prefer": self._prefer,
        }

    def _session(self, name: str, answer: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]) -> Any:
        async def carried_out(params: dict[str, Any]) -> dict[str, Any]:
            session = await self._find(params)
            if session["state"] != "established":
                raise ControlError("not-now", f"session {session['id']} is {session['state']}")
            told = answer(session, params)
            self.done.append((name, session["id"]))
            return {"id": session["id"], **told}

        return carried_out

    @staticmethod
    def _answered(session: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
        return {"answered": True, "seconds": 0.02, "path": session["ike"]["path"]}

    @staticmethod
    def _restored(session: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        assert addresses(params, "addresses")
        return {"state": session["state"]}

    async def _list(self, _: dict[str, Any]) -> Any:
        return self._addresses.view()

    async def _add(self, params: dict[str, Any]) -> Any:
        self._addresses.add(self._addresses.addable(address(params, "address")))
        return self._addresses.view()

    async def _remove(self, params: dict[str, Any]) -> Any:
        self._addresses.remove(self._addresses.removable(address(params, "address")))
        return self._addresses.view()

    async def _withdraw(self, params: dict[str, Any]) -> Any:
        self._addresses.withdraw(self._addresses.known(address(params, "address")))
        return self._addresses.view()

    async def _restore(self, params: dict[str, Any]) -> Any:
        self._addresses.restore(self._addresses.known(address(params, "address")))
        return self._addresses.view()

    async def _prefer(self, params: dict[str, Any]) -> Any:
        self._addresses.known(address(params, "address"))
        if "id" in params:
            await self._find(params)
        return self._addresses.view()

"""The gateway's own addresses and which of them it has now: for fail-over at run time (RFC 4555 §3.6)."""

from __future__ import annotations

from protocols.io.control import ControlError
from protocols.path import Address
from protocols.trace.records import JsonValue


class GatewayAddresses:
    """The configured addresses in order, less those that were withdrawn."""

    def __init__(self, configured: tuple[Address, ...]) -> None:
        self._configured = configured
        self.withdrawn: set[Address] = set()

    @property
    def usable(self) -> tuple[Address, ...]:
        """Those that a UE can be told of: a wildcard is none."""
        return tuple(address for address in self._configured if not address.is_unspecified)

    def present(self, first: Address | None = None) -> list[Address]:
        """Those that are there now, ``first`` first."""
        there = [address for address in self.usable if address not in self.withdrawn]
        return sorted(there, key=lambda address: address != first)

    def configured(self, address: Address) -> Address:
        """An address that is one of the gateway's, there or not; ``ControlError`` when it is none."""
        if address not in self.usable:
            raise ControlError("not-found", f"{address} is none of {', '.join(map(str, self.usable))}")
        return address

    def withdraw(self, address: Address) -> None:
        """An address is lost; ``ControlError`` when it is the last one."""
        if self.present() == [address]:
            raise ControlError("refused", f"{address} is the last address")
        self.withdrawn.add(address)

    def restore(self, address: Address) -> None:
        """An address is back."""
        self.withdrawn.discard(address)

    def view(self) -> JsonValue:
        """For the control socket."""
        return {
            "addresses": [
                {"address": str(address), "present": address not in self.withdrawn} for address in self.usable
            ]
        }

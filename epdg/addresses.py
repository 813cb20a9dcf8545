"""The gateway's own addresses and which of them it has now: fail-over, and others at run time (RFC 4555 §3.6)."""

from __future__ import annotations

from protocols.ikev2.tasks.mobike.mobility import ADDRESSES_MAXIMUM, usable
from protocols.io.control import ControlError
from protocols.path import Address
from protocols.trace.records import JsonValue


class GatewayAddresses:
    """The configured addresses in order, those added since, less those that were withdrawn."""

    def __init__(self, configured: tuple[Address, ...]) -> None:
        self._configured = configured
        self._added: list[Address] = []
        self.withdrawn: set[Address] = set()

    @property
    def usable(self) -> tuple[Address, ...]:
        """Those that a UE can be told of: a wildcard is none."""
        return (*(address for address in self._configured if not address.is_unspecified), *self._added)

    @property
    def changed(self) -> bool:
        """Whether there are others than those configured."""
        return bool(self.withdrawn or self._added)

    def present(self, first: Address | None = None) -> list[Address]:
        """Those that are there now, ``first`` first."""
        there = [address for address in self.usable if address not in self.withdrawn]
        return sorted(there, key=lambda address: address != first)

    def known(self, address: Address) -> Address:
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

    def addable(self, address: Address) -> Address:
        """An address that the gateway may have besides; ``ControlError`` says why not."""
        if any(each.is_unspecified for each in self._configured):
            raise ControlError("refused", "the gateway listens on every address of its machine")
        if not usable(address):
            raise ControlError("refused", f"{address} is no address that a UE can send to")
        if address in self.usable:
            raise ControlError("exists", f"{address} is one of the gateway's already")
        if len(self.usable) >= ADDRESSES_MAXIMUM:
            raise ControlError("refused", f"the gateway has {ADDRESSES_MAXIMUM} addresses, and no more can be told")
        return address

    def add(self, address: Address) -> None:
        """Have another address from now on, one that is ``addable``."""
        self._added.append(address)

    def removable(self, address: Address) -> Address:
        """One that was added, and is not the last one there; ``ControlError`` says why not."""
        if self.known(address) not in self._added:
            raise ControlError("refused", f"{address} stands in the configuration: it can be withdrawn")
        if self.present() == [address]:
            raise ControlError("refused", f"{address} is the last address")
        return address

    def remove(self, address: Address) -> None:
        """Forget an address that was added."""
        self._added.remove(address)
        self.withdrawn.discard(address)

    def view(self) -> JsonValue:
        """For the control socket."""
        return {
            "addresses": [
                {
                    "address": str(address),
                    "present": address not in self.withdrawn,
                    "configured": address not in self._added,
                }
                for address in self.usable
            ]
        }

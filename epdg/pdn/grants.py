"""Which inner addresses a session gets: from the pools of its APN, by subscription, or those it had before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_network

from epdg.commands import AllocateAddress, Command, ReleaseAddress
from epdg.config import EpdgConfiguration, RequestedAddress
from epdg.core import Core
from epdg.live import Live, SubscriberSessions
from epdg.pdn.configuration import GrantedNetwork
from epdg.pdn.pool import AddressPools, ForeignAddresses
from epdg.session import SessionState
from protocols.errors import BackendError
from protocols.path import Address

_log = logging.getLogger(__name__)


class Grants:
    """``core``: the network that packets to a static address have to be led from."""

    def __init__(self, configuration: EpdgConfiguration, core: Core, subscribers: SubscriberSessions) -> None:
        self._configuration = configuration
        self._core = core
        self._subscribers = subscribers
        self.pools: Mapping[str, AddressPools] = _pools(configuration)

    def use(self, configuration: EpdgConfiguration) -> None:
        """Grant by another configuration from now on; the pools stay."""
        self._configuration = configuration

    def grant(self, live: Live, command: AllocateAddress) -> list[Command]:
        """Find addresses; what the session says to them, or to being one too many."""
        limit = self._configuration.limits.connections_per_ue
        if limit is not None and not live.session.emergency and self._connections_beside(live, command) >= limit:
            return live.session.too_many_connections(limit)
        addresses, network = self._allocate(live, command)
        return live.session.address_allocated(addresses, network)

    def release(self, live: Live, command: ReleaseAddress) -> None:
        """An address is free again, unless another session of the subscriber's has it now."""
        pool = self.pools.get(command.apn)
        if pool is not None and not self._held_by_another(live, command.apn, (command.address,)):
            pool.release(command.address)
            self._core.dismiss(command.address)

    def _connections_beside(self, live: Live, command: AllocateAddress) -> int:
        """Other PDN connections of the subscriber; not those whose addresses this one asks for, to take their place."""
        others = [each.session for each in self._subscribers.beside(live)]
        return sum(
            other.state is SessionState.ESTABLISHED and not set(other.inner_addresses) & set(command.wanted)
            for other in others
        )

    def _held_by_another(self, live: Live, apn: str, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Which of these addresses another session of the same subscriber has, one that is authenticated anew."""
        held: set[Address] = set()
        for other in self._subscribers.beside(live):
            session = other.session
            if session.apn == apn and session.state is not SessionState.CLOSED:
                held.update(session.inner_addresses)
        return tuple(address for address in addresses if address in held)

    def _allocate(self, live: Live, command: AllocateAddress) -> tuple[tuple[Address, ...], GrantedNetwork | None]:
        apn = self._configuration.apns.get(command.apn)
        if apn is None:
            return (), None
        ike, pools = self._configuration.ike, self.pools[command.apn]
        network = GrantedNetwork(
            versions=pools.versions,
            dns=apn.dns,
            p_cscf=apn.p_cscf,
            application_version=ike.application_version,
            liveness_period=ike.ue_liveness_period,
        )
        addresses = pools.allocate(
            command.versions,
            wanted=command.wanted,
            static=command.static,
            # these go with the newer of the two sessions (RFC 7296 §2.8.3)
            held=self._held_by_another(live, command.apn, (*command.static, *command.wanted)),
            who=live.session.subscriber,
            single=command.single,
            other=apn.requested_address is RequestedAddress.PREFERRED,
        )
        return self._admitted(command.apn, addresses), network

    def _admitted(self, apn: str, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Those that packets can be led to: a static address outside the pools may be another host's."""
        admitted = []
        for address in addresses:
            try:
                if self.pools[apn].is_outside(address):
                    self._core.admit(apn, address)
            except BackendError as error:
                _log.warning("the static address %s cannot be had: %s", address, error)
                self.pools[apn].release(address)
            else:
                admitted.append(address)
        return tuple(admitted)


def _pools(configuration: EpdgConfiguration) -> dict[str, AddressPools]:
    """The pools by APN; no static address is another APN's or the gateway's own."""
    own = (*configuration.listen.addresses, *configuration.data_plane.hosts)
    networks = [network for apn in configuration.apns.values() for network in apn.networks]
    foreign = ForeignAddresses((*networks, *(ip_network(address) for address in own)))
    return {
        name: AddressPools(apn.networks, excluded=apn.excluded, stable=apn.stable_addresses, foreign=foreign)
        for name, apn in configuration.apns.items()
    }

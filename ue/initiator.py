"""What the IKE SAs of a PDN connection are begun with: from where to where, as whom, asking for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import AuthenticationKind
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload
from protocols.ikev2.registry import ConfigAttributeType
from protocols.path import Address, Endpoint, Path
from ue.commands import AccessPorts, Connect, ConnectSuccessor
from ue.config import UeConfiguration
from ue.profile import identification


class Initiator:
    """``gateway``: the one last connected to, or configured."""

    def __init__(self, configuration: UeConfiguration, ike_config: InitiatorConfig) -> None:
        gateway = configuration.gateway
        self._configuration = configuration
        self.ike_config = ike_config
        self.gateway = None if gateway.address is None else Endpoint(gateway.address, gateway.ike_port)
        self._names = configuration.gateway_names

    def first(self, command: Connect, ports: AccessPorts, *, alone: bool) -> tuple[InitiatorConfig, Path]:
        """For the SA of an attach; ``alone``: the UE has no other (RFC 7296 §2.4: INITIAL_CONTACT)."""
        gateway = self._configuration.gateway
        self.gateway = self._way_to_gateway(command.gateway or gateway.address, ports.ike)
        # Names that were configured hold for every gateway
        self._names = gateway.names or command.names or self._configuration.gateway_names
        config = replace(
            self.ike_config,
            gateway_names=self._names,
            init_patience=command.patience,
            nat_traversal_port=ports.nat_traversal.port,
            initial_contact=alone,  # another PDN connection is to stay
            configuration_request=self._asking_for(command.previous_addresses),
            identity=self._own_identity(command.identity),
            redirected=command.trail,
            session=command.session,
            initial_paths=() if command.gateway is not None else self._alternatives(ports.ike),
        )
        return config, Path(ports.ike, self.gateway)

    def successor(self, command: ConnectSuccessor, ports: AccessPorts) -> tuple[InitiatorConfig, Path]:
        """RFC 7296 §2.8.3: from scratch, and beside the present one, so without INITIAL_CONTACT."""
        config = replace(
            self.ike_config,
            gateway_names=self._names,
            nat_traversal_port=ports.nat_traversal.port,
            identity=self._own_identity(command.identity),
            initial_contact=False,
            configuration_request=self._asking_for(command.addresses),
        )
        return config, Path(ports.ike, Endpoint(command.gateway, self._configuration.gateway.ike_port))

    def _way_to_gateway(self, address: Address | None, local: Endpoint) -> Endpoint:
        """Its address of the access's IP version: the configuration has one for every access."""
        gateway = self._configuration.gateway
        if address is None or address.version != local.address.version:
            address = next(each for each in gateway.addresses if each.version == local.address.version)
        return Endpoint(address, gateway.ike_port)

    def _alternatives(self, local: Endpoint) -> tuple[Path, ...]:
        """Where the first request is tried as well (RFC 4555 §3.1)."""
        gateway = self._configuration.gateway
        fitting = [each for each in gateway.alternatives if each.version == local.address.version]
        return tuple(Path(local, Endpoint(each, gateway.ike_port)) for each in fitting)

    def _asking_for(self, addresses: tuple[Address, ...]) -> tuple[ConfigurationAttribute, ...]:
        """CFG_REQUEST with these inner addresses; those of other versions are left to the gateway."""
        wanted: dict[int, Address] = {address.version: address for address in addresses}
        return tuple(
            replace(attribute, value=_requested(wanted.get(_INNER_ADDRESS[attribute.type])))
            if attribute.type in _INNER_ADDRESS
            else attribute
            for attribute in self.ike_config.configuration_request
        )

    def _own_identity(self, identity: str) -> IdiPayload:
        """IDi: what EAP begins with, where EAP is how the UE proves itself."""
        by_eap = self._configuration.authentication is AuthenticationKind.EAP
        return identification(identity) if by_eap else self.ike_config.identity


_INNER_ADDRESS: Mapping[ConfigAttributeType | int, int] = {
    ConfigAttributeType.INTERNAL_IP4_ADDRESS: 4,
    ConfigAttributeType.INTERNAL_IP6_ADDRESS: 6,
}
_PREFIX_LENGTH = bytes([64])  # RFC 7296 §3.15.1: an IPv6 address is asked for with one


def _requested(address: Address | None) -> bytes:
    """An address to ask for; nothing leaves it to the gateway."""
    if address is None:
        return b""
    return address.packed if address.version == 4 else address.packed + _PREFIX_LENGTH

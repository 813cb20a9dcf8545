"""What the gateway says of itself and accepts on SWu: the configuration as IKE has it."""

from __future__ import annotations

from epdg.authentication import own_credentials, ue_verifier
from epdg.config import DataPlaneKind, EpdgConfiguration, Reactivation, RedirectPoint, UnauthenticatedEmergency
from epdg.emergency import EmergencyPolicy
from epdg.policy import ServicePolicy
from epdg.qcd import read_secrets
from epdg.refusals import read_refusals
from epdg.resumption import ticket_office
from protocols.dataplane.choice import Needs
from protocols.entropy import Entropy
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.payloads import IdrPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.redirection import InitialRedirect
from protocols.ikev2.registry import IdType
from protocols.io.lifetime import machine_lifetime
from protocols.io.platform import Clock
from protocols.path import Address


def service_policy(configuration: EpdgConfiguration) -> ServicePolicy:
    """How sessions are treated; ``ConfigurationError`` when the file of refusals is wrong."""
    emergency = configuration.emergency
    return ServicePolicy(
        refusals=read_refusals(configuration.refusals),
        emergency=None
        if emergency is None
        else EmergencyPolicy(
            apn=emergency.apn, unauthenticated=emergency.unauthenticated is UnauthenticatedEmergency.ALLOW
        ),
        require_device_identity=configuration.ike.require_device_identity,
        reactivation=configuration.aaa_initiated.reactivation is Reactivation.ALWAYS,
    )


def data_plane_needs(configuration: EpdgConfiguration) -> Needs:
    """What the gateway asks of whatever carries ESP."""
    section = configuration.data_plane
    in_process = section.kind is DataPlaneKind.IN_PROCESS
    return Needs(
        suites=EspPolicy.of(configuration.ike.esp_suites).suites,
        policy=section.policy(),
        only_python="data_plane.kind is in-process" if in_process else None,
    )


def responder_config(
    configuration: EpdgConfiguration,
    *,
    fqdn: str,
    addresses: tuple[Address, ...],
    force_encapsulation: bool,
    clock: Clock,
    entropy: Entropy,
) -> ResponderConfig:
    """Identity, algorithms, limits and timers; ``addresses`` are those that UEs are told of."""
    ike = configuration.ike
    authentication = configuration.authentication
    redirect, resumption = ike.redirect, ike.resumption
    initial = None
    if redirect is not None and (redirect.stage is RedirectPoint.INIT or redirect.anycast):
        threshold = redirect.threshold if redirect.stage is RedirectPoint.INIT else None
        initial = InitialRedirect(gateway=redirect.gateway, threshold=threshold, anycast=frozenset(redirect.anycast))
    tickets = None
    if resumption is not None:
        tickets = ticket_office(resumption.secret_file, resumption.lifetime, resumption.key_interval, clock.wall)
    return ResponderConfig(
        ike_policy=IkePolicy.of(ike.suites),
        esp_policy=EspPolicy.of(ike.esp_suites),
        retransmission=ike.retransmission.policy(),
        mobike=ike.mobike,
        fragmentation=ike.fragmentation,
        fragment_size=ike.fragment_size,
        window_size=ike.window_size,
        force_encapsulation=force_encapsulation,
        beet=ike.allow_beet,
        offers_child_sas=True,
        nat_traversal_port=configuration.listen.nat_traversal_port,
        remote_nat_traversal_port=configuration.listen.nat_traversal_port,
        liveness_interval=ike.liveness_interval,
        keepalive_interval=ike.keepalive_interval,
        child_lifetime=machine_lifetime(ike.child_lifetime),
        ike_lifetime=machine_lifetime(ike.ike_lifetime),
        additional_children=ike.additional_children,
        replay_window=configuration.data_plane.replay_window,
        credentials=own_credentials(configuration),
        authentications=frozenset(authentication.methods),
        shared_keys=authentication.psk,
        verifier=ue_verifier(authentication, clock.moment),
        own_authentication=authentication.gateway,
        identity=IdrPayload(id_type=IdType.ID_FQDN, data=fqdn.encode()),
        eap_only=ike.eap_only,
        additional_addresses=addresses,
        acceptable_addresses=ike.acceptable_addresses,
        follow_esp=ike.follow_esp,
        move_by_rekey=ike.move_by_rekey,
        hold_lifetime=ike.hold_lifetime,
        return_routability=ike.return_routability,
        return_routability_interval=ike.return_routability_interval,
        half_open_lifetime=ike.half_open_lifetime,
        cookie_threshold=ike.cookie_threshold,
        cookie_rate=ike.cookie_rate,
        half_open_limit=ike.half_open_limit,
        authentication_lifetime=ike.authentication_lifetime,
        half_open_limit_per_source=ike.half_open_limit_per_source,
        unprotected_rate=ike.unprotected_rate,
        crash_secrets=() if ike.qcd_secret is None else read_secrets(ike.qcd_secret, entropy),
        childless=ike.childless,
        redirect=initial,
        redirected_lifetime=ike.redirected_lifetime,
        tickets=tickets,
    )

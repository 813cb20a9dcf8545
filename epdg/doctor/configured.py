"""Checks of what a configuration names: certificates, Diameter peers, interfaces."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from epdg.authentication import own_credentials
from epdg.config import EpdgConfiguration
from epdg.doctor.finding import Finding, Situation
from protocols.diameter.uri import Transport
from protocols.errors import ConfigurationError
from protocols.io.certificates import read_certificates
from protocols.io.diameter.configuration import PeerSection
from protocols.io.diameter.sctp import sctp_socket
from protocols.io.diameter.tls import TlsContexts, certified_names, failure_of
from protocols.threegpp.identity import Plmn, epdg_fqdn

CONNECT_INTERVAL = 3.0  # for each peer
TLS_PORT, PLAIN_PORT = 5658, 3868  # RFC 6733 §11.4


def certificates(situation: Situation) -> Iterator[Finding]:
    """Whether UEs will accept what the gateway shows: dates, key, and the names that they look for."""
    configuration = situation.configuration
    if configuration is None:
        return
    if configuration.certificate is None:
        yield Finding.good("certificate", "none is configured and none is needed (ike.eap_only, or no EAP)")
        return
    try:
        own_credentials(configuration)
    except ConfigurationError as error:
        yield Finding.bad("certificate", str(error), "Make certificates with `epdg pki init`, or name the right files")
        return
    for section in (configuration.certificate, *configuration.further_certificates):
        own = x509.load_der_x509_certificate(read_certificates(section.chain, "certificate.chain")[0])
        yield _dates("certificate", str(section.chain), own)
    plmn = Plmn(configuration.plmn.mcc, configuration.plmn.mnc)
    yield from _names(configuration, epdg_fqdn(plmn))


def _dates(check: str, file: str, certificate: x509.Certificate) -> Finding:
    now = datetime.now(UTC)
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < since:
        why = f"{file} is valid from {since:%Y-%m-%d %H:%M} UTC on only"
        return Finding.bad(check, why, "Set the clock, or wait")
    if now > until:
        why = f"{file} has ended on {until:%Y-%m-%d %H:%M} UTC"
        return Finding.bad(check, why, "Make a new one (`epdg pki init` in another directory)")
    return Finding.good(check, f"{file} is valid until {until:%Y-%m-%d}, {(until - now).days} days")


def _names(configuration: EpdgConfiguration, fqdn: str) -> Iterator[Finding]:
    assert configuration.certificate is not None
    chain = configuration.certificate.chain
    names = certified_names(read_certificates(chain, "certificate.chain")[0])
    if fqdn in names:
        yield Finding.good("certificate", f"{chain} names {fqdn}")
    else:
        there = ", ".join(sorted(names)) or "no DNS name"
        remedy = (
            "UEs look for the ePDG FQDN: make a certificate with the mcc and mnc of plmn (`epdg pki init --mcc --mnc`)"
        )
        yield Finding.bad("certificate", f"{chain} does not name {fqdn} but {there}", remedy)
    unnamed = [apn for apn in configuration.apns if apn.lower() not in names]
    if unnamed:
        remedy = "strongSwan's clients look for the APN: `epdg pki init --apn` for each of them"
        yield Finding.bad("certificate", f"{chain} does not name the APN {', '.join(unnamed)}", remedy, needed=False)


def diameter_tls(situation: Situation) -> Iterator[Finding]:
    """Whether the certificate for TLS under Diameter is one, and names this node (RFC 6733 §13.1)."""
    configuration = situation.configuration
    if configuration is None or configuration.diameter.tls is None:
        return
    tls = configuration.diameter.tls
    try:
        TlsContexts.load(chain=tls.chain, key=tls.key, authority=tls.authority)
        octets = read_certificates(tls.chain, "diameter.tls.chain")[0]
    except ConfigurationError as error:
        yield Finding.bad("diameter-tls", str(error), "`epdg pki issue --diameter` makes one")
        return
    yield _dates("diameter-tls", str(tls.chain), x509.load_der_x509_certificate(octets))
    if configuration.diameter.host not in certified_names(octets):
        why = f"{tls.chain} does not name diameter.host {configuration.diameter.host}"
        yield Finding.bad("diameter-tls", why, "Peers look for it: `epdg pki issue --diameter` with this name")


def diameter_peers(situation: Situation) -> Iterator[Finding]:
    """Whether somebody accepts connections where the AAA server is said to be; nothing is said to it."""
    configuration = situation.configuration
    if configuration is None:
        return
    for peer in configuration.diameter.peers:
        yield _peer(peer, configuration)


def _peer(peer: PeerSection, configuration: EpdgConfiguration) -> Finding:
    port = peer.port or (TLS_PORT if peer.transport is Transport.TLS else PLAIN_PORT)
    where = f"{peer.host} at {peer.address} port {port} ({peer.transport.value})"
    needed = not peer.on_demand
    try:
        if peer.transport is Transport.SCTP:
            with sctp_socket(peer.address) as opened:
                opened.settimeout(CONNECT_INTERVAL)
                opened.connect((str(peer.address), port))
        else:
            with socket.create_connection((str(peer.address), port), CONNECT_INTERVAL) as opened:
                if peer.transport is Transport.TLS and configuration.diameter.tls is not None:
                    tls = configuration.diameter.tls
                    client = TlsContexts.load(chain=tls.chain, key=tls.key, authority=tls.authority).client
                    client.wrap_socket(opened, server_hostname=peer.host).close()
    except (ConfigurationError, ssl.SSLError) as error:
        why = error if isinstance(error, ConfigurationError) else failure_of(error)
        return Finding.bad("diameter", f"no TLS with {where}: {why}", "Check the certificates of both", needed=needed)
    except OSError as error:
        remedy = "Start the AAA server, check the address and port under diameter.peers, routes and packet filters"
        why = error.strerror or "no answer in time"
        return Finding.bad("diameter", f"{where} cannot be reached: {why}", remedy, needed=needed)
    return Finding.good("diameter", f"{where} accepts connections")


def egress(situation: Situation) -> Iterator[Finding]:
    """Whether the interfaces that APNs leave by are there, and how each APN's packets go on."""
    configuration = situation.configuration
    if configuration is None or not situation.needs_tun:
        return
    there = {name for _, name in socket.if_nameindex()}
    for name, apn in configuration.apns.items():
        interface = apn.egress_interface
        if interface is not None and interface not in there:
            remedy = f"Make it, or name one of {', '.join(sorted(there))}"
            yield Finding.bad("egress", f"APN {name} leaves by {interface}, which is not there", remedy)
            continue
        way = f"by {interface}" if interface is not None else "as the routes of this machine say"
        words = {"none": "go nowhere", "routed": f"go on {way}", "masqueraded": f"go on {way}, masqueraded"}
        yield Finding.good("egress", f"packets of APN {name} {words[apn.egress.value]}")

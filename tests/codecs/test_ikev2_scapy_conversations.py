"""Scapy's contrib.ikev2 dissects every message of whole conversations and builds it again, octet for octet.

The messages are those of machines: decrypted from their datagrams, taken apart by Scapy, and put together from
Scapy's fields alone, with every cache cleared and every length, count and SPI size left for Scapy to compute.
What Scapy 2.8 cannot say is in ``LACKING``, by field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from ipaddress import IPv6Address

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from scapy.contrib import ikev2 as scapy
from scapy.packet import Packet, Raw

from protocols.entropy import SeededEntropy
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import (
    AuthenticationKind,
    ConfigurationReply,
    Event,
    IkeKeysDerived,
    TicketReceived,
)
from protocols.ikev2.fragment import find_encrypted
from protocols.ikev2.message import HEADER_LENGTH, decode_header, decode_message
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload
from protocols.ikev2.protection import protection_of
from protocols.ikev2.redirection import InitialRedirect, RedirectObedience
from protocols.ikev2.registry import (
    INITIAL_EXCHANGES,
    ConfigAttributeType,
    ConfigType,
    ExchangeType,
    IdType,
    PayloadType,
)
from protocols.ikev2.revocation import Revocation, RevocationPolicy
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import DeleteChildSa, DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.ikev2.ticket import TicketOffice, TicketPolicy
from protocols.path import Endpoint
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.harness.certificates import MOMENT, Authority
from tests.harness.pair import (
    ACCESS_B,
    Pair,
    answer_as_gateway,
    initiator_config,
    responder_config,
)

ROOT = Authority("root")
GATEWAY_CERTIFICATE = ROOT.issue()
UE_CERTIFICATE = ROOT.issue(["ue@example.org"], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
SECRET = Secret(bytes(range(32)))
KEY = Secret(b"a key that both ends know")
INNER_6 = IPv6Address("2001:db8:45::2")
WANTED = tuple(
    ConfigurationAttribute(type=ConfigAttributeType.of(kind))
    for kind in (1, 2, 3, 7, 8, 10, 14, 20, 21, 16384, 16386, 16389, 16390)
)


def granting(event: Event) -> object:
    """Attributes of both families and of every width beside the script's address."""
    reply = answer_as_gateway(event)
    if not isinstance(reply, ConfigurationReply):
        return reply
    more = {
        2: bytes([255, 255, 255, 255]),
        3: bytes([8, 8, 8, 8]),
        7: b"gateway 1",
        8: INNER_6.packed + bytes([64]),
        10: INNER_6.packed,
        14: bytes.fromhex("0001000800140015"),
        20: bytes([192, 0, 2, 20]),
        21: INNER_6.packed,
        16384: bytes([192, 0, 2, 20]),
        16390: INNER_6.packed,
    }
    attributes = [ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=more[kind]) for kind in more]
    return replace(
        reply,
        attributes=(*reply.attributes, *attributes),
        local_selectors=(*reply.local_selectors, TrafficSelector.network("::/0")),
        remote_selectors=(*reply.remote_selectors, TrafficSelector.network("2001:db8:45::/64")),
    )


def ue(kind: AuthenticationKind, **changes: object) -> InitiatorConfig:
    families = tuple(map(TrafficSelector.network, ("0.0.0.0/0", "::/0")))
    revocation = Revocation(RevocationPolicy.IF_PRESENT)
    values: dict[str, object] = {
        "identity": IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=b"ue@example.org"),
        "authentication": kind,
        "psk": KEY if kind is AuthenticationKind.PSK else None,
        "credentials": (UE_CERTIFICATE.credential(),) if kind is AuthenticationKind.CERTIFICATE else (),
        "verifier": CertificateVerifier((ROOT.der,), lambda: MOMENT, revocation=revocation),
        "configuration_request": WANTED,
        "local_selectors": families,
        "remote_selectors": families,
        "redirect": RedirectObedience.ANY,
        "resumption": True,
        "crash_secrets": (SECRET,),
        "window_size": 4,
        "fragmentation": False,
        "additional_addresses": (ACCESS_B.address, INNER_6),
        "update_cookie": True,
    }
    return initiator_config(**{**values, **changes})


def pair_of(kind: AuthenticationKind, ue_changes: dict[str, object] | None = None, **changes: object) -> Pair:
    values: dict[str, object] = {
        "credentials": (GATEWAY_CERTIFICATE.credential(ocsp_responses=(ROOT.ocsp(GATEWAY_CERTIFICATE.certificate),)),),
        "authentications": frozenset(AuthenticationKind),
        "shared_keys": {"ue@example.org": KEY},
        "verifier": CertificateVerifier((ROOT.der,), lambda: MOMENT),
        "tickets": TicketOffice(TicketPolicy(secret=SECRET, wall=lambda: 1.8e9)),
        "crash_secrets": (SECRET,),
        "window_size": 4,
        "fragmentation": False,
        "additional_addresses": (IPv6Address("2001:db8::1"), Endpoint.of("203.0.113.2", 500).address),
        "cookie_threshold": 0,
        "authentication_lifetime": 3600.0,
    }
    pair = Pair(ue(kind, **(ue_changes or {})), responder_config(**{**values, **changes}))
    pair.epdg.answers = granting
    return pair


# -- the conversations


def a_full_life() -> Pair:
    """EAP, then everything that an SA lives through, started by each end."""
    pair = pair_of(AuthenticationKind.EAP).attach()
    for node in (pair.ue, pair.epdg):
        sa = node.live
        spi, child = next(iter(sa.children.items()))
        selectors = (child.spec.local_selectors, child.spec.remote_selectors)
        for task in (Liveness(), RekeyChild(spi), CreateChild(*selectors)):
            node.endpoint.initiate(sa, task, pair.now)
            pair.run(1.0)
        node.endpoint.initiate(sa, DeleteChildSa(list(sa.children)[-1]), pair.now)
        pair.run(1.0)
        node.endpoint.set_addresses(sa, (sa.path.local, Endpoint.of("2001:db8::77", 4500)), pair.now)
        pair.run(1.0)
        node.endpoint.set_addresses(sa, (sa.path.local,), pair.now)
        pair.run(1.0)
        node.endpoint.initiate(sa, RekeyIke(), pair.now)
        pair.run(1.0)
    pair.roam(ACCESS_B)
    pair.run(2.0)
    pair.epdg.endpoint.initiate(pair.epdg.live, ExchangeConfiguration(ConfigType.CFG_SET, WANTED[:1]), pair.now)
    pair.run(1.0)
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    return pair


def shared_key() -> Pair:
    return pair_of(AuthenticationKind.PSK).attach()


def certificates() -> Pair:
    """Chains, CERTREQ of two kinds, an OCSP response."""
    return pair_of(AuthenticationKind.CERTIFICATE).attach()


def resumption() -> Pair:
    pair = pair_of(AuthenticationKind.EAP).attach()
    session = pair.ue.take(TicketReceived).session
    pair.ue.endpoint.close(pair.ue.live, "lost", pair.now)
    pair.ue_config = replace(pair.ue_config, session=session)
    pair.attach()
    return pair


def redirected_at_once() -> Pair:
    pair = pair_of(
        AuthenticationKind.EAP, redirect=InitialRedirect(gateway=IPv6Address("2001:db8::9")), cookie_threshold=64
    )
    return pair.attach()


def refused() -> Pair:
    """A key that is not the gateway's."""
    return pair_of(AuthenticationKind.PSK, shared_keys={"ue@example.org": SECRET}).attach()


CONVERSATIONS: tuple[Callable[[], Pair], ...] = (
    a_full_life,
    shared_key,
    certificates,
    resumption,
    redirected_at_once,
    refused,
)


def clear_messages(pair: Pair) -> Iterator[tuple[str, bytes]]:
    """Every message that was sent, as it would be without its SK payload, with its description."""
    keys = {(each.spi_i, each.spi_r): each for each in pair.keys}
    for _, datagram in pair.seen:
        octets = datagram.payload
        if octets == b"\xff":
            continue
        header = decode_header(octets)
        if header.exchange in INITIAL_EXCHANGES:
            yield header.exchange.name, octets
            continue
        yield header.exchange.name, opened(keys[header.spi_i, header.spi_r], octets)


def opened(derived: IkeKeysDerived, octets: bytes) -> bytes:
    header = decode_header(octets)
    protection = protection_of(derived.suite, derived.keys, not header.original_initiator, SeededEntropy(1))
    kind, first, start = find_encrypted(octets, header.next_payload)
    assert (kind, start) == (PayloadType.SK, HEADER_LENGTH + 4)
    padded = protection.unprotect(octets, start)
    plaintext = padded[: -1 - padded[-1]]
    length = HEADER_LENGTH + len(plaintext)
    return octets[:16] + bytes((first,)) + octets[17:24] + length.to_bytes(4, "big") + plaintext


# -- Scapy

# Scapy does not count transforms (IKEv2_Proposal.trans_nb) nor the SPIs of a DELETE (IKEv2_Delete.SPInum): these are
# plain fields there, whose values stay. Of those that it computes, it makes these wrong:
LACKING = {
    (scapy.IKEv2_Transform, "length"): "constant 8, which is what says whether there is a key length",
    (scapy.IPv6TrafficSelector, "length"): "constant 20, for two addresses of 16 octets",
    (scapy.ConfigurationAttribute, "length"): "that of an address as text: 9 for 10.45.0.2",
}


def computed(packet: Packet) -> None:
    """Forget what Scapy can compute: lengths, counts, sizes, in the packet and in all that it holds."""
    for name in ("length", "SPIsize", "number_of_TSs", "gw_id_len"):
        if name in packet.fields and (type(packet), name) not in LACKING:
            del packet.fields[name]
    for value in packet.fields.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Packet):
                computed(each)
    if packet.payload:
        computed(packet.payload)


def from_fields(packet: Packet) -> bytes:
    packet.clear_cache()
    computed(packet)
    return bytes(packet)


@cache
def said() -> dict[str, list[tuple[str, bytes]]]:
    return {conversation.__name__: list(clear_messages(conversation())) for conversation in CONVERSATIONS}


@pytest.mark.parametrize("name", [conversation.__name__ for conversation in CONVERSATIONS])
def test_scapy_builds_every_message_again(name: str) -> None:
    messages = said()[name]
    assert messages
    for exchange, octets in messages:
        dissected = scapy.IKEv2(octets)
        assert not dissected.haslayer(Raw)
        assert from_fields(dissected) == octets, f"{exchange}\n{dissected.show(dump=True)}"


def test_what_is_built_is_the_fields() -> None:
    """No cache is left between the fields and the octets."""
    octets = next(octets for _, octets in said()["shared_key"] if octets[18] == ExchangeType.IKE_AUTH)
    dissected = scapy.IKEv2(octets)
    dissected[scapy.ConfigurationAttribute].type = 25
    dissected[scapy.IPv4TrafficSelector].end_port = 1
    built = from_fields(dissected)
    assert len(built) == len(octets)
    assert sum(before != after for before, after in zip(octets, built, strict=True)) == 3


def test_the_conversations_are_rich() -> None:
    """Every payload that the machine writes, and most of what it notifies."""
    messages = [decode_message(octets) for pairs in said().values() for _, octets in pairs]
    words = {word for message in messages for word in message.summary().split("[")[1].strip(" ]").split(", ")}
    assert words >= {
        *("IDi", "IDr", "CERT", "CERTREQ", "AUTH", "EAP", "SAi1", "SAr2", "SA", "KEi", "KEr", "Ni", "Nr", "TSi", "TSr"),
        *("D", "CP(CFG_REQUEST)", "CP(CFG_REPLY)", "CP(CFG_SET)", "CP(CFG_ACK)"),
        *("N(REKEY_SA)", "N(COOKIE)", "N(COOKIE2)", "N(UPDATE_SA_ADDRESSES)", "N(NO_ADDITIONAL_ADDRESSES)"),
        *("N(ADDITIONAL_IP4_ADDRESS)", "N(ADDITIONAL_IP6_ADDRESS)", "N(MOBIKE_SUPPORTED)", "N(SET_WINDOW_SIZE)"),
        *("N(REDIRECT)", "N(TICKET_LT_OPAQUE)", "N(TICKET_OPAQUE)", "N(QUICK_CRASH_DETECTION)", "N(AUTH_LIFETIME)"),
        *("N(AUTHENTICATION_FAILED)", "N(INITIAL_CONTACT)", "N(SIGNATURE_HASH_ALGORITHMS)"),
    }

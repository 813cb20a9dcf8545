"""Why it failed: child SAs, inner addresses, the device's identity, rekeys; each provoked through the nodes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from lab.virtual.world import VirtualWorld
from protocols.errors import StackError
from protocols.trace.explanation.catalogue import explain
from protocols.trace.records import JsonValue
from tests.dataplane.pairs import ue_spec
from tests.harness.explanations import Case, Deed, attach, check, played, records, the_finding
from ue.commands import InstallChildSa


async def rekey_child(world: VirtualWorld) -> None:
    await world.ue.call("ue.attach", access="wifi-a")
    with contextlib.suppress(StackError):
        await world.ue.call("ue.rekey-child")


async def both_rekey(world: VirtualWorld) -> None:
    """The UE its IKE SA and the gateway the child SA, each before it hears of the other's (RFC 7296 §2.25.2)."""
    await world.ue.call("ue.attach", access="wifi-a")
    (live,) = world.epdg_node.sessions.live.values()
    await asyncio.gather(
        world.epdg.call("sessions.rekey-child", id=live.session.identifier), world.ue.call("ue.rekey-ike")
    )


CASES = [
    Case(
        cause="no-esp-proposal",
        changes={"ue": {"algorithms": {"esp": ["aes192-sha256"]}}},
        says=(
            "Child SA: no common ESP proposal: for encryption the UE offers only ENCR_AES_CBC-192 and the gateway"
            " allows ENCR_AES_GCM_16-128, ENCR_AES_GCM_16-256",
        ),
    ),
    Case(
        cause="ts-unacceptable",
        changes={"ue": {"child_sa": {"local_networks": ["192.168.7.0/24"]}}},
        says=("the UE asks for 192.168.7.0-192.168.7.255, and the gateway allows 10.45.0.2",),
    ),
    Case(
        cause="no-address-asked",
        changes={"ue": {"request": {"inner_addresses": False}}},
        says=("The UE sent no CP(CFG_REQUEST) with an inner address: FAILED_CP_REQUIRED", "APN internet"),
    ),
    Case(
        cause="no-address-free",
        changes={"epdg": {"apns": {"internet": {"excluded": ["10.45.0.0/24"]}}}},
        says=("No inner address is free in APN internet: its pool is exhausted.",),
    ),
    Case(
        cause="pdn-type-not-allowed",
        changes={"ue": {"pdn_type": "ipv6"}},
        says=("PDN type: the UE asks for IPv6 and may have IPv4 in APN internet.",),
    ),
    Case(
        cause="no-device-identity",
        changes={"ue": {"imei": None}, "epdg": {"ike": {"require_device_identity": True}}},
        says=("requires it, and the UE did not tell its IMEI.",),
    ),
    Case(
        cause="device-identity-not-told",
        changes={"ue": {"imei": None}, "epdg": {"ike": {"request_device_identity": True}}},
        says=("asked for the device's identity (DEVICE_IDENTITY), and the UE did not tell",),
    ),
    Case(
        cause="child-rekey-refused",
        changes={
            "ue": {"algorithms": {"esp": ["aes128gcm16"]}},
            "epdg": {"ike": {"esp_suites": ["aes128gcm16-ecp384"]}},
        },
        deed=rekey_child,
        says=(
            "The gateway refused the rekey of child SA ",
            "NO_PROPOSAL_CHOSEN, for the key exchange the UE offers none and the gateway allows group 20 (ECP_384).",
        ),
    ),
    Case(
        cause="ike-rekey-refused",
        deed=both_rekey,
        says=("The gateway refused the rekey of the IKE SA: TEMPORARY_FAILURE", "it is tried again."),
        beside=("child-rekey-refused",),
    ),
]
PROVOKED = {*(case.cause for case in CASES), "esp-not-carried"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_provoked_is_explained(case: Case) -> None:
    check(case)


def test_an_inner_address_that_cannot_be_kept() -> None:
    wanted: JsonValue = {"previous_addresses": ["10.99.0.77"]}
    case = Case(
        cause="no-address-free",
        changes={"ue": {"request": wanted}, "epdg": {"apns": {"internet": {"requested_address": "required"}}}},
        says=("The inner address 10.99.0.77 that the UE asks for cannot be had in APN internet.",),
    )
    check(case)


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        ("no-esp-proposal", "takes nothing of ENCR_AES_CBC-192"),
        ("ts-unacceptable", "none of the traffic selectors"),
    ],
)
def test_a_refused_child_sa_by_the_ues_trace_alone(cause: str, says: str) -> None:
    (case,) = [case for case in CASES if case.cause == cause]
    (finding,) = explain(records(played(case), "ue"))
    assert finding.cause.name == cause
    assert says in finding.sentence


def inbound_spi(node: str) -> bytes:
    """Which SPI a node gives to its first child SA in a world of the seed that all these have."""
    found: list[bytes] = []

    async def deed(world: VirtualWorld) -> None:
        await attach(world)
        connection = world.ue_node.pdn().device.connection
        assert connection is not None
        (sa,) = world.epdg_node.swu.endpoint.sas.values()
        found.extend(sa.children if node == "epdg" else connection.children)

    played(Case(cause="none", says=(), deed=deed))
    (spi,) = found
    return spi


def taken(node: str, spi: bytes) -> Deed:
    """The SPI is another SA's in the data plane, as another program's is in the kernel."""
    spec = replace(ue_spec(), inbound_spi=spi)

    async def deed(world: VirtualWorld) -> None:
        if node == "epdg":
            world.epdg_node.child_sas.data_plane.install(spec)
        else:
            world.ue_node.pdn().tunnel.install(InstallChildSa(spec=spec, replaces=None))
        await attach(world)

    return deed


@pytest.mark.parametrize(("node", "who"), [("epdg", "gateway"), ("ue", "UE")])
def test_a_child_sa_that_the_data_plane_does_not_carry(node: str, who: str) -> None:
    spi = inbound_spi(node)
    says = (f"The {who}'s data plane cannot carry the child SA: SA {spi.hex()} is installed already.",)
    world = played(Case(cause="esp-not-carried", says=says, deed=taken(node, spi)))
    assert the_finding(explain(records(world)), "esp-not-carried").sentence == says[0]

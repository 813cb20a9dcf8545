"""Why it failed: IKE_SA_INIT, silence, redirects, signatures; each provoked through the nodes."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from lab.virtual.world import GATEWAY, VirtualWorld
from protocols.trace.explanation.catalogue import explain
from protocols.trace.records import JsonValue
from tests.harness.explanations import (
    IKE_AUTH,
    IKE_SA_INIT,
    Case,
    Changes,
    attach,
    check,
    editing,
    ike,
    is_message,
    losing,
    played,
    records,
    with_payload,
)

OTHER = ip_address("203.0.113.2")
BOTH: dict[str, object] = {"gateways": (GATEWAY, OTHER)}
FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
VENDOR_ID, UNKNOWN_PAYLOAD = 43, 200


async def a_dead_gateway(world: VirtualWorld) -> None:
    world.network.set_host(GATEWAY, up=False)
    await attach(world)


async def two_at_once(world: VirtualWorld) -> None:
    """The first attach begins and does not go on, so that the second finds it half open."""
    dead = True
    world.network.losses.append(lambda octets, access: dead and is_message(octets, IKE_AUTH, response=False))
    first = asyncio.ensure_future(attach(world))
    await world.advance(1)
    await world.ue.call("ue.detach")
    await first
    await world.advance(20)
    dead = False
    await attach(world)


def redirect(**section: JsonValue) -> JsonValue:
    return {"redirect": {"gateway": str(OTHER), **section}}


CASES = [
    Case(
        cause="no-ike-proposal",
        changes={"ue": {"algorithms": {"ike": ["aes128-sha256-modp1024"]}}},
        says=(
            "No common IKE proposal: for the key exchange the UE offers only group 2 (MODP_1024) and the gateway"
            " allows group 31 (CURVE25519), group 19 (ECP_256)",
        ),
    ),
    Case(
        cause="ke-group-not-agreed",
        changes={
            "ue": {
                "ike": {"invalid_ke": "every-proposal"},
                "algorithms": {"ike": ["aes128-sha256-modp2048", "aes256gcm16-prfsha384-ecp384"]},
            },
            "epdg": {"ike": {"suites": ["aes256gcm16-prfsha384-ecp384"]}},
        },
        says=(
            "wants group 20 (ECP_384) for the key exchange, the UE sent group 14 (MODP_2048)",
            "(ike.invalid_ke: every-proposal)",
        ),
    ),
    Case(
        cause="cookie-not-returned",
        changes={"epdg": {"ike": {"cookie_threshold": 0}}},
        deed=losing(lambda octets: is_message(octets, IKE_SA_INIT, response=True) and len(octets) < 200),
        says=("0 half-open IKE SAs, demanded a COOKIE 6 times and none came back: its responses did not reach the UE",),
    ),
    Case(
        cause="cookie-not-accepted",
        changes={"epdg": {"ike": {"cookie_threshold": 0}}},
        # the COOKIE is the first payload
        deed=editing(
            lambda octets: octets[:36] + bytes([octets[36] ^ 1]) + octets[37:] if octets[16] == 41 else octets
        ),
        says=("The UE at 10.1.0.2:500 returned a COOKIE", "that is not the gateway's"),
    ),
    Case(
        cause="major-version",
        deed=editing(lambda octets: octets[:17] + b"\x30" + octets[18:]),
        says=("The UE speaks version 3 of IKE, the gateway speaks version 2 only.",),
    ),
    Case(
        cause="malformed-request",
        deed=editing(lambda octets: octets[:30] + b"\xff\xff" + octets[32:]),
        says=("The UE's IKE_SA_INIT request does not parse: ", "octets needed"),
    ),
    Case(
        cause="critical-payload",
        deed=editing(lambda octets: with_payload(octets, UNKNOWN_PAYLOAD, b"1234", critical=True)),
        says=("has a payload of type 200 that is critical",),
    ),
    Case(
        cause="half-open-limit",
        changes={"epdg": {"ike": {"half_open_limit": 1, "half_open_lifetime": 60}}},
        deed=two_at_once,
        says=("dropped the IKE_SA_INIT request of 10.1.0.2:500: it takes no more than 1 half-open at a time.",),
        beside=("ue-stopped-answering",),
        afterwards=60,
    ),
    Case(
        cause="gateway-silent",
        deed=a_dead_gateway,
        says=(
            "No response from the gateway 203.0.113.1:500: the IKE_SA_INIT request was sent 6 times on wifi-a,"
            " and never arrived there.",
        ),
    ),
    Case(
        cause="gateway-fell-silent",
        deed=losing(lambda octets: is_message(octets, IKE_AUTH, response=True) and ike(octets)[23] == 2),
        says=("fell silent during the attach: IKE_AUTH request 2 [ EAP ] on wifi-a was repeated 5 times without"),
    ),
    Case(
        cause="ue-stopped-answering",
        deed=losing(lambda octets: is_message(octets, IKE_AUTH, response=False) and ike(octets)[23] == 2),
        says=("The UE stopped answering in the middle of EAP: EAP-Request/AKA-Challenge",),
        beside=("gateway-fell-silent",),
        afterwards=40,
    ),
    Case(
        cause="redirected-in-ike-sa-init",
        changes={
            "ue": {"redirect": {"obey": "any"}},
            "epdg": {"ike": redirect(threshold=1000, anycast=[str(GATEWAY)])},
        },
        world=BOTH,
        says=("answered IKE_SA_INIT by sending the UE to the gateway 203.0.113.2.",),
    ),
    Case(
        cause="redirect-not-obeyed",
        changes={
            "ue": {"redirect": {"obey": "authenticated"}},
            "epdg": {"ike": redirect(threshold=1000, anycast=[str(GATEWAY)])},
        },
        world=BOTH,
        says=("sends the UE to 203.0.113.2, and the UE does not go there: it is not authenticated.",),
    ),
    Case(
        cause="redirect-loop",
        changes={"ue": {"redirect": {"obey": "any"}}, "epdg": {"ike": redirect()}},
        world=BOTH,
        says=("The UE gave up after 5 redirects, the last one to 203.0.113.2 (IKE_SA_INIT)",),
    ),
    Case(
        cause="gateway-signature-wrong",
        deed=editing(lambda octets: with_payload(octets, VENDOR_ID, b"1234"), response=True),
        says=("the IKE_SA_INIT response that it covers is not the one that the gateway sent.",),
    ),
    Case(
        cause="auth-from-msk-wrong",
        deed=editing(lambda octets: with_payload(octets, VENDOR_ID, b"1234")),
        says=("AUTH of the UE does not verify with the MSK: IKE_SA_INIT, which it covers, was altered on the way.",),
    ),
]
SILENT = "No response from the gateway 203.0.113.1:500: the IKE_SA_INIT request was sent 6 times on wifi-a"
PROVOKED = {
    *(case.cause for case in CASES),
    "redirected-in-ike-auth",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_provoked_is_explained(case: Case) -> None:
    check(case)


def test_a_ue_that_was_redirected_and_detaches_has_not_failed() -> None:
    (case,) = [case for case in CASES if case.cause == "redirected-in-ike-sa-init"]
    world = check(case)
    names = [record.body.get("name") for record in records(world, "ue")]
    assert "attached" in names
    assert "refused" not in names


def test_a_redirect_after_authentication() -> None:
    """The gateway that the UE is sent to sends it on as well; each of them knows its own redirect only."""
    case = Case(
        cause="redirect-loop",
        changes={"ue": {"redirect": {"obey": "any"}}, "epdg": {"ike": redirect(stage="authentication")}},
        world=BOTH,
        says=("(IKE_AUTH)",),
    )
    world = check(case)
    found = explain(records(world, "epdg", "aaa"))
    assert {each.cause.name for each in found} == {"redirected-in-ike-auth"}
    assert found[0].sentence.endswith("the gateway sent it to the gateway 203.0.113.2.")


def test_algorithms_that_are_allowed_one_by_one_and_not_together() -> None:
    changes: Changes = {
        "ue": {"algorithms": {"ike": ["aes256-sha256-ecp384"]}},
        "epdg": {"ike": {"suites": ["aes128-sha256-modp2048", "aes256-sha384-ecp384"]}},
    }
    says = ("each algorithm that is offered is allowed, but not together as they are offered.",)
    check(Case(cause="no-ike-proposal", changes=changes, says=says))


def test_a_group_that_is_never_changed_by_the_gateways_trace_alone() -> None:
    (case,) = [case for case in CASES if case.cause == "ke-group-not-agreed"]
    (finding,) = explain(records(check(case), "epdg", "aaa"))
    assert finding.cause.name == "ke-group-not-agreed"
    assert finding.sentence == (
        "The gateway asked 3 times for group 20 for the key exchange, and the UE goes on sending MODP_2048."
    )


def test_a_group_that_the_ue_changes_to_is_nothing_to_speak_of() -> None:
    changes: Changes = {"epdg": {"ike": {"suites": ["aes256-sha256-ecp256"]}}}
    world = played(Case(cause="none", changes=changes, says=()))
    assert [record for record in records(world, "ue") if "INVALID_KE_PAYLOAD" in str(record.body.get("summary"))]
    assert explain(records(world)) == explain(records(world, "epdg", "aaa")) == ()


def test_an_attempt_without_a_common_group_by_the_ues_trace_alone() -> None:
    world = check(CASES[0])
    (finding,) = explain(records(world, "ue"))
    assert finding.cause.name == "no-ike-proposal"
    assert "takes nothing of ENCR_AES_CBC-128, AUTH_HMAC_SHA2_256_128" in finding.sentence
    assert finding.sentence.endswith("PRF_HMAC_SHA2_256, MODP_1024.")


@pytest.mark.parametrize(
    ("response", "where"),
    [(False, "and never arrived there."), (True, "it arrived there, and no response came back.")],
)
def test_silence_says_which_way_was_closed(response: bool, where: str) -> None:
    """An attach that works later on changes nothing about it."""
    closed = True

    async def deed(world: VirtualWorld) -> None:
        nonlocal closed
        closed = True
        world.network.losses.append(
            lambda octets, access: closed and is_message(octets, IKE_SA_INIT, response=response)
        )
        await attach(world)
        closed = False
        await attach(world)

    beside = ("ue-stopped-answering",) if response else ()
    check(Case(cause="gateway-silent", deed=deed, says=(SILENT, where), beside=beside))


def another_msk(octets: bytes) -> bytes:
    """A DEA whose EAP-Master-Session-Key (RFC 4072 §4.1.3: AVP 464) has another first octet."""
    at = octets.find((464).to_bytes(4, "big"))
    return octets if at < 0 else octets[: at + 8] + bytes([octets[at + 8] ^ 1]) + octets[at + 9 :]


def test_another_msk_at_the_gateway() -> None:
    async def deed(world: VirtualWorld) -> None:
        world.streams.edits.append(another_msk)
        await attach(world)

    says = ("AUTH of the UE does not verify with the MSK: the two ends have different values of the MSK.",)
    check(Case(cause="auth-from-msk-wrong", says=says, deed=deed))


def test_an_altered_request_by_the_gateways_trace_alone() -> None:
    (case,) = [case for case in CASES if case.cause == "auth-from-msk-wrong"]
    (finding,) = explain(records(check(case), "epdg", "aaa"))
    assert finding.sentence.endswith("different values of the MSK, or IKE_SA_INIT was altered on the way.")

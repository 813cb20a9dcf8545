"""Why it failed: EAP-AKA and EAP-AKA', identities; each provoked through UE, gateway, AAA server and HSS."""

from __future__ import annotations

import contextlib

import pytest

from lab.virtual.world import VirtualWorld
from protocols.errors import StackError
from protocols.trace.explanation.catalogue import explain
from protocols.trace.records import JsonValue
from tests.harness.explanations import Case, Changes, attach, check, played, records

PRIME: JsonValue = {"methods": ["aka-prime"]}
PSEUDONYMS_ALONE: Changes = {"aaa": {"eap": {"reauthentication": False, "temporary": {"rollovers_kept": 0}}}}


def fault(**action: JsonValue) -> JsonValue:
    return [{"name": "fault", "action": action}]


async def twice(world: VirtualWorld) -> None:
    await world.ue.call("ue.attach", access="wifi-a")
    await world.ue.call("ue.detach")
    await world.advance(60)
    await attach(world)


async def with_other_keys(world: VirtualWorld) -> None:
    """The AAA server begins with new keys of temporary identities, and keeps none."""
    await world.ue.call("ue.attach", access="wifi-a")
    await world.ue.call("ue.detach")
    await world.aaa.call("eap.roll-key")
    with contextlib.suppress(StackError):
        await world.ue.call("ue.attach", access="wifi-a")


CASES = [
    Case(
        cause="autn-rejected",
        changes={"ue": {"usim": {"k": "0" * 32}}},
        says=("AUTN rejected by the UE: K or OPc in its USIM differ",),
    ),
    Case(
        cause="amf-separation-bit",
        changes={"ue": {"eap": PRIME}, "aaa": {"eap": PRIME, "faults": fault(clear_amf_bit=True)}},
        says=("the AMF separation bit in AUTN is 0",),
    ),
    Case(
        cause="network-name-differs",
        changes={"ue": {"eap": PRIME}, "aaa": {"eap": {"methods": ["aka-prime"], "network_name": "HRPD"}}},
        says=("the server names the access network 'HRPD', this is 'WLAN'.",),
    ),
    Case(
        cause="network-name-accepted",
        changes={
            "ue": {"eap": {"methods": ["aka-prime"], "network_name_mismatch": "warn"}},
            "aaa": {"eap": {"methods": ["aka-prime"], "network_name": "HRPD"}},
        },
        says=("names the access network HRPD, the UE expected WLAN and went on.",),
    ),
    Case(
        cause="sqn-resynchronised",
        changes={"aaa": {"faults": fault(old_sqn=True)}},
        says=("SQN out of range, re-synchronised: the USIM of 001010000000001",),
    ),
    Case(
        cause="resynchronisation-failed",
        changes={"aaa": {"faults": fault(old_sqn=True), "eap": {"resynchronisations": 0}}},
        says=("SQN out of range, and resynchronisation did not help: the USIM still refuses",),
    ),
    Case(
        cause="wrong-res",
        changes={"ue": {"usim": {"res_length": 4}}},
        says=("RES is not the XRES of the vector (32 bits, XRES has 64).",),
    ),
    Case(
        cause="eap-mac-wrong",
        changes={"aaa": {"faults": fault(wrong_keys=True)}},
        says=("AT_MAC of EAP-Request/AKA-Challenge does not verify, so that the AAA server's CK and IK",),
    ),
    Case(
        cause="eap-method-refused",
        changes={"ue": {"eap": {"methods": ["aka"]}}, "aaa": {"eap": PRIME}},
        says=("No common EAP method: the peer refuses EAP-AKA'; types wanted: 23.",),
    ),
    Case(
        cause="permanent-identity-withheld",
        changes={"ue": {"eap": {"privacy": "conservative"}}, **PSEUDONYMS_ALONE},
        deed=with_other_keys,
        says=("The UE keeps its permanent identity to itself",),
        beside=("pseudonym-unknown",),
    ),
    Case(
        cause="pseudonym-unknown",
        changes=PSEUDONYMS_ALONE,
        deed=with_other_keys,
        says=("does not know the pseudonym 2", "asked for another identity and got 0001010000000001@nai.epc"),
    ),
    Case(
        cause="reauthentication-unknown",
        changes={"aaa": {"eap": {"temporary": {"lifetime": 10}}}},
        deed=twice,
        says=("no context for the fast re-authentication identity 4", "a full authentication followed."),
    ),
    Case(
        cause="identity-unusable",
        changes={"ue": {"identity": "somebody@wlan.example.org"}},
        says=("IDi 'somebody@wlan.example.org' is no NAI of an IMSI", "and got 0001010000000001@nai.epc"),
    ),
]
PROVOKED = {"refused-otherwise", *(case.cause for case in CASES), "eap-client-error"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_provoked_is_explained(case: Case) -> None:
    check(case)


def named(cause: str) -> Case:
    (case,) = [case for case in CASES if case.cause == cause]
    return case


def test_a_client_error_is_told_even_where_the_ue_is_not_traced() -> None:
    rule, finding = explain(records(check(named("eap-mac-wrong")), "epdg", "aaa"))
    assert (rule.cause.name, finding.cause.name) == ("fault-rule", "eap-client-error")
    assert finding.sentence.startswith("The UE could not process the AAA server's EAP request")


def test_a_cleared_separation_bit_is_seen_in_autn_where_the_ue_is_not_traced() -> None:
    found = explain(records(check(named("amf-separation-bit")), "epdg", "aaa"))
    assert [each.cause.name for each in found] == ["fault-rule", "amf-separation-bit"]


def test_a_refusal_that_no_cause_explains_has_the_words_of_who_refused() -> None:
    """The AAA server is not traced, so nothing tells of its fault rule."""
    world = played(Case(cause="refused-otherwise", changes={"aaa": {"faults": fault(eap_failure=True)}}, says=()))
    (finding,) = explain(records(world, "ue", "epdg"))
    assert finding.cause.name == "refused-otherwise"
    says = "The attach to internet on wifi-a failed: authentication rejected by the network"
    assert finding.sentence.startswith(says)
    assert [each.cause.name for each in explain(records(world))] == ["fault-rule"]


def test_a_wrong_k_is_told_by_the_ue_alone() -> None:
    (finding,) = explain(records(check(named("autn-rejected")), "ue"))
    assert finding.cause.name == "autn-rejected"


def test_a_fast_re_authentication_that_works_is_nothing_to_speak_of() -> None:
    world = played(Case(cause="none", deed=twice, says=()))
    names = [record.body.get("name") for record in records(world, "aaa")]
    assert "EAP-Request/AKA-Reauthentication" in names
    assert explain(records(world)) == ()

"""Which gateway a UE tries, in which order and why (TS 23.402 §4.5.4, TS 23.003 §19.4.2.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

import pytest

from protocols.names import RecordKind, Resolution
from protocols.threegpp.identity import (
    Plmn,
    epdg_fqdn,
    epdg_location_area_fqdn,
    epdg_plmn,
    epdg_tracking_area_fqdn,
    epdg_visited_country_fqdn,
)
from ue.commands import Resolve, Tell
from ue.selection import (
    CANDIDATES_MAXIMUM,
    Barred,
    ConfiguredUse,
    FqdnKind,
    PreferredPlmn,
    Selection,
    SelectionCommand,
    SelectionPolicy,
)

HOME = Plmn("001", "01")
VISITED = Plmn("345", "012")
OTHER = Plmn("345", "77")
ABROAD = "epdg.epc.mcc345.visited-country.pub.3gppnetwork.org"
HOME_NAME = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
VISITED_NAME = "epdg.epc.mnc012.mcc345.pub.3gppnetwork.org"
OTHER_NAME = "epdg.epc.mnc077.mcc345.pub.3gppnetwork.org"
TAI_NAME = f"tac-lb34.tac-hb12.tac.{HOME_NAME}"
TIMEOUT = "no answer from DNS within 5 s"

Zone = Mapping[str, Sequence[str] | str]
"""By name: addresses, or replacement names; a text is a failure, an absent name does not exist."""


def answer(zone: Zone, question: Resolve) -> Resolution:
    found = zone.get(question.name, ())
    if isinstance(found, str):
        return Resolution(name=question.name, failure=found)
    if RecordKind.NAPTR in question.kinds:
        return Resolution(name=question.name, replacements=tuple(found))
    return Resolution(name=question.name, addresses=tuple(ip_address(each) for each in found))


def walk(
    policy: SelectionPolicy, zone: Zone, *, version: int = 4, barred: Barred | None = None
) -> tuple[Selection, list[str]]:
    """What is asked (``?name``) and tried, in order, when no gateway serves."""
    selection, steps = Selection(policy, version, barred), list[str]()
    commands: list[SelectionCommand] = selection.begin()
    while True:
        questions = [command for command in commands if isinstance(command, Resolve)]
        if questions:
            (question,) = questions
            steps.append(f"?{question.name}")
            commands = selection.resolved(answer(zone, question))
        elif selection.candidate is not None:
            steps.append(str(selection.candidate.address))
            commands = selection.failed("no response")
        else:
            assert selection.over
            return selection, steps


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (epdg_fqdn(HOME), HOME_NAME),
        (epdg_fqdn(HOME, emergency=True), f"sos.{HOME_NAME}"),
        (epdg_tracking_area_fqdn(HOME, 0x1234), TAI_NAME),
        (epdg_tracking_area_fqdn(HOME, 0xB, emergency=True), f"tac-lb0b.tac-hb00.tac.sos.{HOME_NAME}"),
        (
            epdg_tracking_area_fqdn(HOME, 0x0B1A21, fifth_generation=True),
            f"tac-lb21.tac-mb1a.tac-hb0b.5gstac.{HOME_NAME}",
        ),
        (epdg_location_area_fqdn(HOME, 0x1AB), f"lac01ab.{HOME_NAME}"),
        (epdg_location_area_fqdn(HOME, 0x1AB, emergency=True), f"lac01ab.sos.{HOME_NAME}"),
        (epdg_visited_country_fqdn("345"), ABROAD),
        (epdg_visited_country_fqdn("345", emergency=True), f"sos.{ABROAD}"),
    ],
)
def test_names_of_gateways(name: str, expected: str) -> None:
    """TS 23.003 §19.4.2.9.2 to .4, §19.4.2.9A."""
    assert name == expected


@pytest.mark.parametrize("code", [-1, 1 << 16])
def test_area_codes_have_16_bits(code: int) -> None:
    with pytest.raises(ValueError, match="16 bits"):
        epdg_tracking_area_fqdn(HOME, code)
    with pytest.raises(ValueError, match="16 bits"):
        epdg_location_area_fqdn(HOME, code)


def test_a_network_is_read_out_of_its_gateways_name() -> None:
    assert epdg_plmn(VISITED_NAME) == VISITED
    assert epdg_plmn(f"SOS.{VISITED_NAME.upper()}.") == VISITED
    for name in ("evil.example", f"x.{VISITED_NAME}", ABROAD, VISITED_NAME.replace("pub.", "")):
        assert epdg_plmn(name) is None


# --- the order --------------------------------------------------------------------------------------

BOTH_HOME = {HOME_NAME: ["192.0.2.1", "192.0.2.2"]}
LOCATION = PreferredPlmn(plmn=HOME, fqdn=FqdnKind.LOCATION)
MANDATORY = {ABROAD: [OTHER_NAME, VISITED_NAME], OTHER_NAME: ["192.0.2.7"], VISITED_NAME: ["192.0.2.12"], **BOTH_HOME}
FREE = {VISITED_NAME: ["192.0.2.12"], OTHER_NAME: ["192.0.2.7"], **BOTH_HOME}
PREFERS = (
    PreferredPlmn(plmn=VISITED, priority=2),
    PreferredPlmn(plmn=OTHER, priority=1),
    PreferredPlmn(plmn=HOME, priority=3),
)

TABLE = [
    ("at home, nothing configured: §4.5.4.4 2", {}, BOTH_HOME, [f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"]),
    (
        "at home, the home ePDG identifiers come first",
        {"configured": (ip_address("192.0.2.9"), "gw.example")},
        {"gw.example": ["192.0.2.8"], **BOTH_HOME},
        ["192.0.2.9", "?gw.example", "192.0.2.8", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "configured and nothing else",
        {"configured": ("gw.example",), "configured_use": ConfiguredUse.ONLY, "registered": VISITED},
        {"gw.example": ["192.0.2.8"], **MANDATORY},
        ["?gw.example", "192.0.2.8"],
    ),
    (
        "by tracking area, which the selection information wants: then by operator, §4.5.4.3",
        {"preferred": (LOCATION,), "registered": HOME, "tracking_area": 0x1234},
        {TAI_NAME: ["192.0.2.3"], **BOTH_HOME},
        [f"?{TAI_NAME}", "192.0.2.3", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "by tracking area, which DNS does not know",
        {"preferred": (LOCATION,), "registered": HOME, "tracking_area": 0x1234},
        BOTH_HOME,
        [f"?{TAI_NAME}", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "by location area where that is what the UE knows",
        {"preferred": (LOCATION,), "registered": HOME, "location_area": 0x1AB},
        {},
        [f"?lac01ab.{HOME_NAME}", f"?{HOME_NAME}"],
    ),
    (
        "not by area in a network that the UE is not registered in",
        {"preferred": (LOCATION,), "country": "001", "tracking_area": 0x1234},
        {},
        [f"?{HOME_NAME}"],
    ),
    (
        "not by area where the operator FQDN is wanted",
        {"preferred": (PreferredPlmn(plmn=HOME),), "registered": HOME, "tracking_area": 0x1234},
        {},
        [f"?{HOME_NAME}"],
    ),
    (
        "registered in another network at home: the home network's gateway all the same",
        {"registered": Plmn("001", "02")},
        {},
        [f"?{HOME_NAME}"],
    ),
    ("a country with several MCCs", {"registered": Plmn("002", "02"), "home_mccs": ("002",)}, {}, [f"?{HOME_NAME}"]),
    (
        "abroad, the network registered in is preferred: §4.5.4.4 3a, then §4.5.4.5",
        {"registered": VISITED, "preferred": PREFERS},
        FREE,
        [f"?{VISITED_NAME}", "192.0.2.12", f"?{ABROAD}", f"?{OTHER_NAME}", "192.0.2.7", f"?{VISITED_NAME}"]
        + [f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "abroad, any network is preferred",
        {"registered": VISITED, "preferred": (PreferredPlmn(plmn=None),)},
        FREE,
        [f"?{VISITED_NAME}", "192.0.2.12", f"?{ABROAD}", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "abroad, nothing is preferred and nothing demanded: home, §4.5.4.5 2b",
        {"registered": VISITED},
        FREE,
        [f"?{ABROAD}", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "abroad without 3GPP access, networks of the country by priority: §4.5.4.5 2a",
        {"country": "345", "preferred": PREFERS},
        FREE,
        [f"?{ABROAD}", f"?{OTHER_NAME}", "192.0.2.7", f"?{VISITED_NAME}", "192.0.2.12"]
        + [f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "abroad, the country demands: the network registered in first, never home: §4.5.4.5 3a",
        {"registered": VISITED},
        MANDATORY,
        [f"?{ABROAD}", f"?{VISITED_NAME}", "192.0.2.12", f"?{OTHER_NAME}", "192.0.2.7"],
    ),
    (
        "abroad, the country demands, not registered: by priority: §4.5.4.5 3b",
        {"country": "345", "preferred": (PreferredPlmn(plmn=VISITED),)},
        MANDATORY,
        [f"?{ABROAD}", f"?{VISITED_NAME}", "192.0.2.12", f"?{OTHER_NAME}", "192.0.2.7"],
    ),
    (
        "abroad, the country demands, nothing is known: in the order of the records",
        {"country": "345"},
        MANDATORY,
        [f"?{ABROAD}", f"?{OTHER_NAME}", "192.0.2.7", f"?{VISITED_NAME}", "192.0.2.12"],
    ),
    (
        "abroad, a network registered in that is not among those demanded",
        {"registered": Plmn("345", "99")},
        {ABROAD: [VISITED_NAME], VISITED_NAME: ["192.0.2.12"]},
        [f"?{ABROAD}", f"?{VISITED_NAME}", "192.0.2.12"],
    ),
    ("abroad, no answer about the country: the end, §4.5.4.5 4", {"country": "345"}, {ABROAD: TIMEOUT}, [f"?{ABROAD}"]),
    (
        "names that are none of the country's are not followed",
        {"country": "345"},
        {ABROAD: ["evil.example", HOME_NAME, VISITED_NAME], "evil.example": ["192.0.2.66"], **FREE},
        [f"?{ABROAD}", f"?{VISITED_NAME}", "192.0.2.12"],
    ),
    (
        "home identifiers come in the home network's place abroad",
        {"country": "345", "configured": (ip_address("192.0.2.9"),)},
        FREE,
        [f"?{ABROAD}", "192.0.2.9", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "or before all else",
        {"country": "345", "configured": (ip_address("192.0.2.9"),), "configured_use": ConfiguredUse.FIRST},
        FREE,
        ["192.0.2.9", f"?{ABROAD}", f"?{HOME_NAME}", "192.0.2.1", "192.0.2.2"],
    ),
    (
        "an emergency at home",
        {"emergency": True},
        {f"sos.{HOME_NAME}": ["192.0.2.112"]},
        [f"?sos.{HOME_NAME}", "192.0.2.112"],
    ),
    (
        "an emergency abroad: the network registered in first, preferred or not: §4.5.4a",
        {"emergency": True, "registered": VISITED},
        {f"sos.{VISITED_NAME}": ["192.0.2.112"]},
        [f"?sos.{VISITED_NAME}", "192.0.2.112", f"?sos.{ABROAD}", f"?sos.{HOME_NAME}"],
    ),
    (
        "the same address is tried once",
        {"configured": ("gw.example",)},
        {"gw.example": ["192.0.2.2"], **BOTH_HOME},
        ["?gw.example", "192.0.2.2", f"?{HOME_NAME}", "192.0.2.1"],
    ),
]


@pytest.mark.parametrize(("known", "zone", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_order(known: dict[str, object], zone: Zone, expected: list[str]) -> None:
    _, steps = walk(SelectionPolicy(home=HOME, **known), zone)  # type: ignore[arg-type]
    assert steps == expected


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "kind"), [(4, RecordKind.A), (6, RecordKind.AAAA)])
def test_the_access_says_which_records_are_asked_for(version: int, kind: RecordKind) -> None:
    policy = SelectionPolicy(home=HOME, configured=(ip_address("192.0.2.9"), ip_address("2001:db8::9")))
    selection = Selection(policy, version)
    selection.begin()
    assert selection.candidate is not None
    assert selection.candidate.address.version == version
    *_, question = selection.failed("no response")
    assert question == Resolve(name=HOME_NAME, kinds=(kind,))


def test_reasons_are_told() -> None:
    selection = Selection(SelectionPolicy(home=HOME, configured=("gw.example",)), 4)
    told = [*selection.begin(), *selection.resolved(Resolution(name="gw.example", failure=TIMEOUT))]
    told += selection.resolved(Resolution(name=HOME_NAME, addresses=(ip_address("192.0.2.1"),)))
    told += selection.failed("no response")
    assert [command.text for command in told if isinstance(command, Tell)] == [
        f"A gateway is being selected at home (MCC 001): gw.example, {HOME_NAME}.",
        f"The gateway gw.example is not used: {TIMEOUT}.",
        f"{HOME_NAME} has 192.0.2.1.",
        f"The gateway 192.0.2.1 ({HOME_NAME}) is tried: the home network.",
        f"The gateway 192.0.2.1 ({HOME_NAME}) is not used: no response.",
    ]
    assert selection.over
    assert selection.verdict == (
        f"no gateway is left to try: gw.example: {TIMEOUT}; 192.0.2.1 ({HOME_NAME}): no response"
    )


def test_a_late_answer_means_nothing() -> None:
    selection = Selection(SelectionPolicy(home=HOME), 4)
    selection.begin()
    assert selection.resolved(Resolution(name="other.example", addresses=(ip_address("192.0.2.66"),))) == []
    selection.resolved(Resolution(name=HOME_NAME, addresses=(ip_address("192.0.2.1"),)))
    assert selection.resolved(Resolution(name=HOME_NAME, addresses=(ip_address("192.0.2.66"),))) == []
    assert selection.candidate is not None
    assert str(selection.candidate.address) == "192.0.2.1"


def test_what_dns_says_does_not_keep_the_ue_busy_for_ever() -> None:
    names = tuple(f"gw{number}.example" for number in range(100))
    zone = {name: [f"192.0.{number}.{host}" for host in range(8)] for number, name in enumerate(names)}
    _, steps = walk(SelectionPolicy(home=HOME, configured=names), zone)
    assert len([step for step in steps if not step.startswith("?")]) == CANDIDATES_MAXIMUM
    _, steps = walk(SelectionPolicy(home=HOME, configured=names), {})
    assert len(steps) == 32


# --- who has turned the UE away (TS 24.302 §7.2.2.2) -------------------------------------------------


def test_a_barred_network_is_not_asked_in_any_form() -> None:
    barred = Barred()
    barred.bar_network(Plmn("345", "12"), "USER_UNKNOWN")  # two digits, as a configuration may write it
    _, steps = walk(SelectionPolicy(home=HOME, country="345"), MANDATORY, barred=barred)
    assert steps == [f"?{ABROAD}", f"?{OTHER_NAME}", "192.0.2.7"]


def test_a_barred_gateway_leaves_its_sisters() -> None:
    barred = Barred(gateways={ip_address("192.0.2.1"): "PDN_CONNECTION_REJECTION"})
    selection, steps = walk(SelectionPolicy(home=HOME), BOTH_HOME, barred=barred)
    assert steps == [f"?{HOME_NAME}", "192.0.2.2"]
    assert "not asked again until the UE is switched off and on (PDN_CONNECTION_REJECTION)" in selection.verdict


@pytest.mark.parametrize("zone", [BOTH_HOME, {HOME_NAME: TIMEOUT}, {}], ids=["no response", "no answer", "no name"])
def test_another_attempt_may_fare_better_unless_everybody_has_barred_the_ue(zone: Zone) -> None:
    barred = Barred()
    selection, _ = walk(SelectionPolicy(home=HOME), zone, barred=barred)
    assert selection.temporary
    barred.bar_network(HOME, "USER_UNKNOWN")
    assert not selection.temporary

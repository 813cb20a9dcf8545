"""The ladder: several nodes' records as one drawing."""

from __future__ import annotations

import json

import pytest

from protocols.io.tap import NAT_KEEPALIVE, DatagramTap
from protocols.path import Endpoint, Path
from protocols.trace.ladder import Entry, Ladder, build_ladder, render_text
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord

UE, EPDG = Endpoint.of("192.0.2.1", 4500), Endpoint.of("198.51.100.1", 4500)
ESP = bytes.fromhex("0102030400000001") + bytes(24)
SA_INIT = "IKE_SA_INIT request 0 [ SAi1, KEi, Ni ]"


class World:
    """Nodes that share one wall clock, which a test moves."""

    def __init__(self) -> None:
        self.wall = 1000.0
        self.nodes: dict[str, Recorder] = {}

    def node(self, name: str, skew: float = 0.0) -> Recorder:
        if name not in self.nodes:
            self.nodes[name] = Recorder(name, monotonic=lambda: 0.0, wall=lambda: self.wall + skew)
        return self.nodes[name]

    def message(
        self,
        name: str,
        direction: str,
        summary: str,
        *,
        interface: str = "SWu",
        peer: str = "",
        retransmission: bool = False,
        session: str | None = None,
        **detail: JsonValue,
    ) -> None:
        body: dict[str, JsonValue] = {
            "protocol": "ikev2" if interface == "SWu" else "diameter",
            "direction": direction,
            "interface": interface,
            "peer": peer,
            "name": summary.split(" [")[0],
            "summary": summary,
            "detail": detail,
            "retransmission": retransmission,
        }
        self.node(name).record(Kind.MESSAGE, body, session)

    @property
    def records(self) -> list[TraceRecord]:
        return [record for recorder in self.nodes.values() for record in recorder.since(0)]

    def ladder(self) -> Ladder:
        return build_ladder(self.records)


def drawn(entry: Entry) -> tuple[str, str | None, str]:
    return entry.source, entry.destination, entry.summary


def test_what_both_ends_saw_is_one_arrow_even_within_one_instant() -> None:
    world = World()
    world.message("ue", "out", SA_INIT, session="ue-1", message_id=0)
    world.message("epdg", "in", SA_INIT, message_id=0, cookie="absent")
    world.message("epdg", "out", "DER", interface="SWm", peer="aaa.example")
    world.message("aaa", "in", "DER", interface="SWm", peer="epdg.example")
    world.message("aaa", "out", "DEA", interface="SWm", peer="epdg.example")
    world.message("epdg", "in", "DEA", interface="SWm", peer="aaa.example")
    world.message("epdg", "out", "IKE_SA_INIT response 0 [ SAr1, KEr, Nr ]")
    world.message("ue", "in", "IKE_SA_INIT response 0 [ SAr1, KEr, Nr ]")
    world.node("ue").event("attached", "ue is attached.")
    ladder = world.ladder()
    assert [column.name for column in ladder.columns] == ["ue", "epdg", "aaa"]
    assert [drawn(entry) for entry in ladder.entries] == [
        ("ue", "epdg", SA_INIT),
        ("epdg", "aaa", "DER"),
        ("aaa", "epdg", "DEA"),
        ("epdg", "ue", "IKE_SA_INIT response 0 [ SAr1, KEr, Nr ]"),
        ("ue", None, "ue is attached."),
    ]
    first = ladder.entries[0]
    assert (first.seen_by, first.session) == (("ue", "epdg"), "ue-1")
    assert first.detail == {"message_id": 0, "cookie": "absent"}


def test_a_receiver_whose_clock_is_behind_still_comes_second() -> None:
    world = World()
    world.node("epdg", skew=-0.02)
    world.message("ue", "out", SA_INIT)
    world.wall += 0.01
    world.message("epdg", "in", SA_INIT)
    world.message("epdg", "out", "IKE_SA_INIT response 0 [ N(COOKIE) ]")
    ladder = world.ladder()
    assert [entry.source for entry in ladder.entries] == ["ue", "epdg"]
    assert ladder.entries[0].seen_by == ("ue", "epdg")


def test_of_retransmissions_the_lost_one_is_the_one_nobody_reported() -> None:
    world = World()
    world.message("ue", "out", SA_INIT, message_id=0)
    world.wall += 0.5
    world.message("ue", "out", SA_INIT, retransmission=True, message_id=0)
    world.wall += 0.01
    world.message("epdg", "in", SA_INIT, message_id=0)
    first, second = world.ladder().entries
    assert (first.retransmission, first.seen_by) == (False, ("ue",))
    assert (second.retransmission, second.seen_by) == (True, ("ue", "epdg"))
    assert (second.at, second.destination) == (0.5, "epdg")


def test_two_ues_with_equal_messages_are_told_apart_by_details() -> None:
    world = World()
    world.message("ue-1", "out", SA_INIT, peer="198.51.100.1:500", spi_i="aa")
    world.message("ue-2", "out", SA_INIT, peer="198.51.100.1:500", spi_i="bb")
    world.wall += 0.01
    world.message("epdg", "in", SA_INIT, peer="192.0.2.2:500", spi_i="bb")
    world.message("epdg", "in", SA_INIT, peer="192.0.2.1:500", spi_i="aa")
    world.message("epdg", "out", "INFORMATIONAL request 0 [ D ]", peer="192.0.2.2:500", spi_i="bb")
    ladder = world.ladder()
    assert [(entry.source, entry.destination, entry.detail["spi_i"]) for entry in ladder.entries] == [
        ("ue-1", "epdg", "aa"),
        ("ue-2", "epdg", "bb"),
        ("epdg", "ue-2", "bb"),  # nobody reported it; whom that address belongs to was learnt above
    ]


def test_diameter_sessions_with_equal_messages_are_told_apart() -> None:
    world = World()
    for session in ("s;1", "s;2"):
        world.message("epdg", "out", "DER", interface="SWm", peer="aaa", **{"Session-Id": session})
    world.wall += 0.01
    for session in ("s;1", "s;2"):
        world.message("aaa", "in", "DER", interface="SWm", peer="epdg", **{"Session-Id": session, "at": session})
    assert [(entry.detail["Session-Id"], entry.detail["at"]) for entry in world.ladder().entries] == [
        ("s;1", "s;1"),
        ("s;2", "s;2"),
    ]


def test_peers_that_are_not_traced_get_their_role_as_a_column() -> None:
    world = World()
    world.message("epdg", "in", SA_INIT, peer="192.0.2.1:500")
    world.message("epdg", "out", "DER", interface="SWm", peer="aaa.example")
    ladder = world.ladder()
    assert [(column.name, column.traced) for column in ladder.columns] == [
        ("ue", False),
        ("epdg", True),
        ("aaa", False),
    ]
    assert [drawn(entry) for entry in ladder.entries] == [("ue", "epdg", SA_INIT), ("epdg", "aaa", "DER")]


@pytest.mark.parametrize("is_traced", [True, False], ids=["two processes", "one process"])
def test_the_hss_stands_to_the_right_of_the_aaa_server(*, is_traced: bool) -> None:
    world = World()
    world.message("aaa", "in", "DER", interface="SWm", peer="epdg.example")
    world.message("aaa", "out", "MAR", interface="SWx", peer="hss.example")
    if is_traced:
        world.message("hss", "in", "MAR", interface="SWx", peer="aaa.example")
        world.message("hss", "out", "MAA", interface="SWx", peer="aaa.example")
    world.message("aaa", "in", "MAA", interface="SWx", peer="hss.example")
    ladder = world.ladder()
    assert [(column.kind, column.traced) for column in ladder.columns] == [
        ("epdg", False),
        ("aaa", True),
        ("hss", is_traced),
    ]
    hss = ladder.columns[-1].name
    assert [drawn(entry) for entry in ladder.entries[1:]] == [("aaa", hss, "MAR"), (hss, "aaa", "MAA")]


def test_traffic_is_counted_in_runs_between_messages() -> None:
    world = World()
    ue, epdg = DatagramTap(world.node("ue")), DatagramTap(world.node("epdg"))
    there, back = Path(UE, EPDG), Path(EPDG, UE)
    for number in range(3):
        octets = ESP + bytes([number])
        ue.udp("out", there, octets, encapsulating=True)
        epdg.udp("in", back, octets, encapsulating=True)
        epdg.udp("out", back, octets + b"!", encapsulating=True)
        ue.udp("in", there, octets + b"!", encapsulating=True)
    ue.udp("out", there, NAT_KEEPALIVE, encapsulating=True)
    world.node("ue").event("moved", "ue moved.")
    ue.udp("out", there, ESP + b"after", encapsulating=True)
    ue.udp("out", there, b"garbage", encapsulating=True)
    assert [(entry.protocol, entry.count, *drawn(entry)) for entry in world.ladder().entries] == [
        ("esp", 3, "ue", "epdg", "ESP, 3 packets, 99 octets"),
        ("esp", 3, "epdg", "ue", "ESP, 3 packets, 102 octets"),
        ("keepalive", 1, "ue", "epdg", "NAT-keepalive, 1 packet, 1 octets"),
        ("", 1, "ue", None, "ue moved."),
        ("esp", 1, "ue", "epdg", "ESP, 1 packet, 37 octets"),
        ("unknown", 1, "ue", "epdg", "7 octets that do not parse"),
    ]


def test_the_text_shows_arrows_and_what_went_missing() -> None:
    world = World()
    world.message("ue", "out", SA_INIT)
    world.wall += 0.5
    world.message("ue", "out", SA_INIT, retransmission=True, message_id=0)
    world.message("epdg", "in", SA_INIT)
    world.message("epdg", "out", "DER", interface="SWm", peer="aaa")
    world.message("aaa", "in", "DER", interface="SWm", peer="epdg")
    world.message("aaa", "out", "DEA", interface="SWm", peer="epdg")
    world.node("epdg").event("refused", "The UE was refused.")
    assert render_text(world.ladder(), details=True) == (
        "   seconds  ue            epdg          aaa\n"
        "    +0.000  |------------>|             |  IKE_SA_INIT request 0 [ SAi1, KEi, Ni ]"
        "  (not reported by epdg)\n"
        "    +0.500  |-- -- -- -- >|             |  IKE_SA_INIT request 0 [ SAi1, KEi, Ni ]"
        "  (retransmission)\n"
        "            |             |             |    message_id: 0\n"
        "    +0.500  |             |------------>|  DER\n"
        "    +0.500  |             |<------------|  DEA  (not reported by epdg)\n"
        "    +0.500  |             *             |  The UE was refused.\n"
    )


def test_json_and_nothing() -> None:
    world = World()
    world.message("ue", "out", SA_INIT, message_id=0)
    value = world.ladder().to_json()
    assert json.loads(json.dumps(value)) == value
    empty = build_ladder([])
    assert (empty.columns, empty.entries, render_text(empty)) == ((), (), "")


def test_eap_goes_from_end_to_end_past_a_gateway_that_has_no_record_of_it() -> None:
    """RFC 3748 §2.3: what the UE and the AAA server saw is one arrow; nobody is missing it."""
    world = World()
    for name, direction, interface, peer in (
        ("aaa", "out", "SWm", "epdg.example"),
        ("ue", "in", "SWu", "198.51.100.1:4500"),
    ):
        body: dict[str, JsonValue] = {
            "protocol": "eap",
            "direction": direction,
            "interface": interface,
            "peer": peer,
            "name": "EAP-Success",
            "summary": "EAP-Success",
            "detail": {"identifier": 1},
            "retransmission": False,
        }
        world.node(name).record(Kind.MESSAGE, body)
    world.message("epdg", "out", "DER", interface="SWm", peer="aaa.example")
    world.message("aaa", "in", "DER", interface="SWm", peer="epdg.example")
    ladder = world.ladder()
    assert drawn(ladder.entries[0]) == ("aaa", "ue", "EAP-Success")
    assert drawn(ladder.entries[1]) == ("epdg", "aaa", "DER")
    assert len(ladder.entries) == 2
    assert not any(ladder.is_unreported(entry) for entry in ladder.entries)


def test_kinds_put_nodes_of_any_name_into_their_places() -> None:
    world = World()
    world.message("oslo", "in", SA_INIT, peer="192.0.2.1:500")
    world.message("bergen", "out", SA_INIT, peer="198.51.100.1:500")
    ladder = build_ladder(world.records, {"oslo": "epdg", "bergen": "ue"})
    assert [(column.name, column.kind) for column in ladder.columns] == [("bergen", "ue"), ("oslo", "epdg")]

"""The bundle of evidence made of a real session: what is in it, and that no secret is where none may be."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from lab.virtual.world import VirtualWorld, run
from protocols.io.control import ControlError
from protocols.trace.bundle import NOTHING_FOUND, bundle, zipped
from protocols.trace.explanation.catalogue import explain
from protocols.trace.jsonl import decode_lines
from protocols.trace.ladder import build_ladder
from protocols.trace.records import JsonValue, Kind, TraceRecord
from protocols.trace.selection import records_of
from tests.harness.evidence_story import told

WITHOUT_KEYS = {
    "README.txt",
    "result.json",
    "capture.pcapng",
    "wireshark-profile/decode_as_entries",
    "wireshark-profile/preferences",
    "ladder.svg",
    "ladder.mmd",
    "ladder.txt",
    "trace.jsonl",
    "configuration/ue.json",
    "configuration/epdg.json",
    "configuration/aaa.json",
}
WITH_KEYS = WITHOUT_KEYS | {
    "decrypted.pcapng",
    "wireshark-profile/ikev2_decryption_table",
    "wireshark-profile/esp_sa",
}


def holding(files: dict[str, bytes], secrets: set[bytes]) -> set[str]:
    """Which files hold a secret, as octets or in hexadecimal."""
    return {
        name
        for name, content in files.items()
        for secret in secrets
        if secret in content or secret.hex().encode() in content.lower()
    }


def test_with_keys_everything_is_there() -> None:
    files = told(export_keys=True).files(with_keys=True)
    assert set(files) == WITH_KEYS
    assert "KEYS" in files["README.txt"].decode()
    result = json.loads(files["result.json"])
    assert (result["sentence"], result["findings"]) == (NOTHING_FOUND, [])
    assert result["session"]["imsi"] == told(export_keys=True).session["imsi"]
    records = list(decode_lines(files["trace.jsonl"].decode().splitlines(keepends=True)))
    assert {record.kind for record in records} >= {Kind.DATAGRAM, Kind.MESSAGE, Kind.KEYS, Kind.STATE, Kind.EVENT}
    assert {record.node for record in records} == {"ue", "epdg", "aaa"}


def test_no_secret_leaves_without_key_export() -> None:
    """The same keys as in the run that exports them, where the search finds them."""
    exporting, silent = told(export_keys=True), told(export_keys=False)
    secrets = exporting.secrets()
    assert len(secrets) >= 11  # K, OPc; SK_e and SK_a of both ends; two of ESP; MSK, CK, IK
    assert holding(exporting.files(with_keys=True), secrets) == {
        "wireshark-profile/ikev2_decryption_table",
        "wireshark-profile/esp_sa",
        "trace.jsonl",
        "capture.pcapng",
        "decrypted.pcapng",
    }
    assert holding(exporting.files(with_keys=True), set(exporting.card)) == set()  # K and OPc in no case
    for files in (silent.files(with_keys=True), silent.files(with_keys=False), exporting.files(with_keys=False)):
        assert set(files) == WITHOUT_KEYS
        assert holding(files, secrets) == set()
        assert "No keys" in files["README.txt"].decode()


def test_configurations_are_whole_but_for_their_secrets() -> None:
    files = told(export_keys=False).files(with_keys=False)
    ue, epdg, aaa = (json.loads(files[f"configuration/{node}.json"]) for node in ("ue", "epdg", "aaa"))
    assert (ue["usim"]["k"], ue["usim"]["opc"]) == ("…", "…")
    assert epdg["ike"]["return_routability"] == "before-update"  # a default that no file names
    assert aaa["database"].startswith("sqlite:///")


def test_the_records_are_those_of_one_session() -> None:
    """What went before it (capabilities, watchdogs) and the UE's beginning stay out, all of its own datagrams in."""
    run = told(export_keys=True)
    chosen = records_of(run.records, run.session)
    left = [record for record in run.records if record not in chosen]
    assert {str(record.body["protocol"]) for record in left if record.kind is Kind.DATAGRAM} == {"diameter"}
    assert {str(record.body["name"]) for record in left if record.kind is Kind.MESSAGE} <= {"CER", "CEA", "DPR", "DPA"}
    assert {str(record.body["name"]) for record in left if record.kind is Kind.EVENT} <= {
        "started",
        "peer-up",
        "peer-down",
    }
    assert records_of(run.records, {"id": "0123456789abcdef"}) == []


def test_the_drawing_has_every_entry_of_the_ladder() -> None:
    files = told(export_keys=True).files(with_keys=True)
    records = list(decode_lines(files["trace.jsonl"].decode().splitlines(keepends=True)))
    ladder = build_ladder(records)
    retransmitted = sum(entry.retransmission for entry in ladder.entries)
    lost = sum(ladder.is_unreported(entry) for entry in ladder.entries)
    assert retransmitted
    assert lost
    root = ElementTree.fromstring(files["ladder.svg"])
    text = [" ".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for title in ("UE", "ePDG", "AAA", "HSS"):
        assert title in text
    assert sum(each[-2:] == " s" and each[0] == "+" for each in text) == len(ladder.entries)
    svg, mermaid = files["ladder.svg"].decode(), files["ladder.mmd"].decode()
    assert svg.count("no record of it at") == lost
    assert svg.count('stroke-dasharray="6 4"') == retransmitted
    assert mermaid.count("\n") == 1 + len(ladder.columns) + len(ladder.entries)
    assert sum("-x" in line.partition(":")[0] for line in mermaid.splitlines()) == lost


def test_the_same_records_make_the_same_archive() -> None:
    run = told(export_keys=True)
    once, again = (zipped(bundle(run.records, session=run.session, with_keys=True), wall=1e9) for _ in range(2))
    assert once == again
    assert zipped({}, wall=0.0) != b""  # before 1980, which ZIP does not know


def test_a_session_of_which_nothing_is_kept_has_a_bundle_all_the_same() -> None:
    files = bundle([], session={"id": "0123456789abcdef", "last_error": {"cause": "peer", "text": "It was refused."}})
    assert json.loads(files["result.json"])["sentence"] == "It was refused."
    assert ElementTree.fromstring(files["ladder.svg"]) is not None


def test_the_result_of_a_refused_attach_says_why() -> None:
    """A UE with another OPc than its subscription: the sentence, its clause and what to try, wherever one looks."""

    async def story(world: VirtualWorld) -> tuple[list[TraceRecord], dict[str, JsonValue]]:
        with pytest.raises(ControlError):
            await world.ue.call("ue.attach")
        await world.advance(2)
        listed = await world.epdg.call("sessions.list")
        assert isinstance(listed, dict)
        assert isinstance(listed["sessions"], list)
        (session,) = listed["sessions"]
        assert isinstance(session, dict)
        return [record for node in (world.ue, world.epdg, world.aaa) for record in node.trace], session

    records, session = run(story, changes={"ue": {"usim": {"opc": "00" * 16}}})
    own = records_of(records, session)
    (finding, *_) = found = explain(own)
    files = bundle(own, session=session, findings=found)
    result = json.loads(files["result.json"])
    assert result["sentence"] == found[-1].sentence
    assert (result["clause"], result["advice"]) == (found[-1].cause.clause, found[-1].cause.advice)
    assert result["findings"][0]["cause"] == finding.cause.name
    readme = files["README.txt"].decode()
    assert readme.startswith(found[-1].sentence)
    assert found[-1].cause.advice in readme
    title = ElementTree.fromstring(files["ladder.svg"]).findtext("{http://www.w3.org/2000/svg}title")
    assert title == found[-1].sentence

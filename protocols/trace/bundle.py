"""The evidence of one session as files: capture, keys, decrypted view, ladder, trace, configuration, result.

Made of records and of what nodes said of themselves, nothing else. Without ``with_keys`` no key leaves: key records
are left out, secret AVPs in Diameter octets are zeroed, and there is no decrypted view.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from protocols.diameter.codec import redact
from protocols.trace import jsonl
from protocols.trace.clear import encode_clear
from protocols.trace.drawing import render_svg
from protocols.trace.explanation.cause import Finding, main_finding
from protocols.trace.keys import WiresharkProfile
from protocols.trace.ladder import build_ladder, render_text
from protocols.trace.mermaid import render_mermaid
from protocols.trace.order import text_of
from protocols.trace.pcap import encode_capture
from protocols.trace.readme import readme
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord
from protocols.trace.steps import Steps, names_of

CAPTURE, CLEAR, PROFILE = "capture.pcapng", "decrypted.pcapng", "wireshark-profile"
KEY_TABLES = ("ikev2_decryption_table", "esp_sa")
NOTHING_FOUND = "Nothing out of the ordinary was found in the session's records."

_FIRST_ZIP_YEAR = 1980
_FILE_MODE = 0o600 << 16  # for the owner alone, in a ZIP entry's external attributes


def bundle(
    records: Iterable[TraceRecord],
    *,
    kinds: Mapping[str, str] | None = None,
    session: Mapping[str, JsonValue] | None = None,
    findings: Sequence[Finding] = (),
    configurations: Mapping[str, JsonValue] | None = None,
    with_keys: bool = False,
    absent: Sequence[str] = (),
) -> dict[str, bytes]:
    """The files by name, from the records of one session (``selection.records_of``) of all nodes.

    ``kinds``: node name → ``ue``, ``epdg``, ``aaa`` or ``hss``; ``session``: as ``sessions.get`` of the gateway
    describes it; ``findings``: why it failed (``explanation``); ``configurations``: node name → what
    ``node.configuration`` answers. ``with_keys``: the reader may have the keys that the records hold. ``absent``: nodes
    that could not be asked.
    """
    taken = [record if with_keys else _without_keys(record) for record in jsonl.in_order(records)]
    kept = [record for record in taken if with_keys or record.kind is not Kind.KEYS]
    has_keys = any(record.kind is Kind.KEYS for record in kept)
    result = result_of(session or {}, findings)
    ladder = build_ladder(kept, kinds)
    steps = Steps(kept, session)
    profile = WiresharkProfile(kept)
    files = {
        CAPTURE: encode_capture(kept, comment=steps.comment, names=names_of(kept)),
        **{
            f"{PROFILE}/{name}": text.encode()
            for name, text in profile.files().items()
            if has_keys or name not in KEY_TABLES
        },
        "ladder.svg": render_svg(ladder, title=str(result["sentence"]), subtitle=_subtitle(session or {})).encode(),
        "ladder.mmd": render_mermaid(ladder).encode(),
        "ladder.txt": render_text(ladder).encode("utf-8", "replace"),
        "trace.jsonl": "".join(map(jsonl.encode_line, kept)).encode(),
        "result.json": _json(result),
        **{
            f"configuration/{_file_name(node)}.json": _json(configuration)
            for node, configuration in (configurations or {}).items()
        },
    }
    if has_keys:
        files[CLEAR] = encode_clear(kept, steps.comment)
    notices = [f"{node} could not be asked: what it recorded is not here." for node in absent]
    notices += [text_of(record, "text") for record in kept if text_of(record, "name") == "records-dropped"]
    nodes = sorted({record.node for record in kept})
    text = readme(files, result, nodes=nodes, has_keys=has_keys, left_out=profile.omitted, notices=notices)
    return {"README.txt": text.encode("utf-8", "replace"), **files}


def result_of(session: Mapping[str, JsonValue], findings: Sequence[Finding]) -> dict[str, JsonValue]:
    """The result sentence with its clause and advice: why it failed, else the last remark, what the gateway says."""
    last = main_finding(findings) or (findings[-1] if findings else None)
    error = session.get("last_error")
    told = error.get("text") if isinstance(error, dict) else None
    return {
        "sentence": last.sentence if last else told if isinstance(told, str) and told else NOTHING_FOUND,
        "clause": last.cause.clause if last else None,
        "advice": last.cause.advice if last else None,
        "session": dict(session),
        "findings": [finding.to_json() for finding in findings],
    }


def zipped(files: Mapping[str, bytes], *, directory: str = "evidence", wall: float = 0.0) -> bytes:
    """A ZIP archive of the files below one directory, the same octets for the same files and ``wall``."""
    moment = datetime.fromtimestamp(max(wall, 0.0), UTC)
    stamp = (max(moment.year, _FIRST_ZIP_YEAR), *moment.timetuple()[1:6])
    octets = io.BytesIO()
    with zipfile.ZipFile(octets, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"{_file_name(directory)}/{name}", date_time=stamp)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whose mode bits these are
            entry.external_attr = _FILE_MODE
            archive.writestr(entry, content)
    return octets.getvalue()


def _without_keys(record: TraceRecord) -> TraceRecord:
    """A Diameter datagram with the data of secret AVPs zeroed; a node that exports keys has not done so itself."""
    body = record.body
    payload = body.get("payload")
    if record.kind is not Kind.DATAGRAM or body.get("transport") not in STREAMS or not isinstance(payload, str):
        return record
    try:
        octets = redact(bytes.fromhex(payload))
    except ValueError:
        return replace(record, body={**body, "payload": ""})
    return replace(record, body={**body, "payload": octets.hex()})


def _subtitle(session: Mapping[str, JsonValue]) -> list[str]:
    labels = {"imsi": "IMSI", "apn": "APN", "state": "state", "id": "session"}
    known = [f"{label} {session[key]}" for key, label in labels.items() if isinstance(session.get(key), str)]
    return [", ".join(known)] if known else []


def _json(value: JsonValue) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _file_name(node: str) -> str:
    """A name that is one in every file system: what a node calls itself is its configuration's affair."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", node).lstrip(".") or "node"

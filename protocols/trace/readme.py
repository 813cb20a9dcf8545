"""The text that goes with a bundle of evidence: what each file is, and how to open it."""

from __future__ import annotations

from collections.abc import Container, Sequence

from protocols.trace.records import JsonValue

_FILES = (
    ("result.json", "what came of the session: the sentence, its clause, what to try, all findings, the session"),
    ("capture.pcapng", "what crossed the wire, each packet with a comment: who, which step, who saw it, lost or not"),
    ("wireshark-profile/", "Wireshark's configuration for it: ports, and the keys of IKE and ESP where they are here"),
    ("decrypted.pcapng", "IKE and Diameter messages in the clear and the packets inside ESP; opens without keys"),
    ("ladder.svg", "the messages between the nodes as a drawing; any browser shows it"),
    ("ladder.mmd", "the same as a Mermaid sequence diagram"),
    ("ladder.txt", "the same as text"),
    ("trace.jsonl", "all records of the session, one JSON object a line"),
    ("configuration/", "the nodes' validated configurations; secrets are blanked"),
)
_KEYS = """\
This bundle holds KEYS: whoever has it can read the session's traffic. Give it only to whom that concerns.
"""
_NO_KEYS = """\
No keys are in this bundle, so the capture's IKE and ESP stay encrypted, and there is no decrypted view: the nodes
did not export keys (trace.export_keys), or whoever asked for the bundle may not have them. IKE messages stand decoded
in trace.jsonl all the same.
"""
_OPEN = "WIRESHARK_CONFIG_DIR=$PWD/wireshark-profile wireshark capture.pcapng"


def readme(
    files: Container[str],
    result: dict[str, JsonValue],
    *,
    nodes: Sequence[str],
    has_keys: bool,
    left_out: Sequence[str],
    notices: Sequence[str],
) -> str:
    """``left_out``: why Wireshark cannot use some keys; ``notices``: what nodes said of records they had no more."""
    lines = [str(result["sentence"])]
    lines += [f"{label}: {result[key]}" for key, label in (("clause", "Clause"), ("advice", "Try")) if result[key]]
    lines += ["", f"Records of: {', '.join(nodes) or 'no node'}", *notices]
    lines += ["", "To open the capture, in this directory:", "", f"    {_OPEN}", ""]
    lines += [f"{name:<20} {what}" for name, what in _FILES if name.endswith("/") or name in files]
    lines += ["", (_KEYS if has_keys else _NO_KEYS).rstrip("\n")]
    lines += [f"Not opened by the profile: {why}." for why in left_out]
    return "\n".join(lines) + "\n"

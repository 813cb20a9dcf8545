"""What a person at a terminal sees of an attach: messages as arrows, events as sentences."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.text import Text

from protocols.errors import printable
from protocols.trace.records import JsonValue, Kind, TraceRecord

_EVENT_STYLES = {
    "attached": "bold green",
    "moved": "bold green",
    "p-cscf-changed": "bold",
    "refused": "bold red",
    "move-failed": "bold red",
    "connection-lost": "bold red",
    "reactivating": "bold",
}


class Narrator:
    """Prints records as they come; plain text where the output is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(soft_wrap=True, highlight=False)
        self._first: float | None = None

    def take(self, record: TraceRecord) -> None:
        """Print a message or an event; other records are for machines."""
        if self._first is None:
            self._first = record.monotonic
        at = f"{record.monotonic - self._first:8.3f}  "
        if record.kind is Kind.MESSAGE:
            arrow = "-->" if record.body.get("direction") == "out" else "<--"
            again = "  (again)" if record.body.get("retransmission") is True else ""
            inner = record.body.get("protocol") == "eap"
            indent, style = ("      ", "dim") if inner else ("", "")
            self._print(f"{at}{arrow} {indent}{record.body.get('summary')}{again}", style)
        elif record.kind is Kind.EVENT:
            name = str(record.body.get("name"))
            self._print(f"{at}*   {record.body.get('text')}", _EVENT_STYLES.get(name, ""))

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._print(text)

    def session(self, session: JsonValue) -> None:
        """Print what a connection is made of."""
        if not isinstance(session, dict):
            return
        ike = session.get("ike")
        rows: list[tuple[str, object]] = [
            ("state", session.get("state")),
            ("IMSI", session.get("imsi")),
            ("APN", session.get("apn")),
            ("access", session.get("access")),
            ("EAP", _eap(session.get("eap"))),
            ("inner address", _joined(session.get("inner_addresses"))),
            ("device", _device(session.get("device"))),
            ("DNS", _joined(session.get("dns"))),
            ("P-CSCF", _joined(session.get("p_cscf"))),
            ("gateway is", session.get("application_version")),
            ("liveness", _seconds(session.get("liveness_period"))),
        ]
        if isinstance(ike, dict):
            path = ike.get("path")
            rows.append(("IKE SA", f"{ike.get('spi_i')} {ike.get('spi_r')}  {ike.get('suite')}"))
            if isinstance(path, dict):
                rows.append(("path", f"{path.get('local')} <-> {path.get('remote')}"))
        children = session.get("child_sas")
        for child in children if isinstance(children, list) else []:
            if isinstance(child, dict):
                rows.append(
                    ("ESP", f"{child.get('inbound_spi')} in, {child.get('outbound_spi')} out  {child.get('suite')}")
                )
        error = session.get("last_error")
        if isinstance(error, dict):
            rows.append(("last error", error.get("text")))
        back_off = session.get("back_off")
        if isinstance(back_off, dict):
            rows.append(("stays away", f"until {_moment(back_off.get('until'))} because of {back_off.get('cause')}"))
        for label, value in rows:
            if value:
                self._print(str(value), label=f"  {label + ':':15}")

    def _print(self, text: str, style: str = "", *, label: str = "") -> None:
        """One line, whatever the gateway wrote of it."""
        self._console.print(Text.assemble((label, "bold"), (printable(text), style)), soft_wrap=True)


def _eap(value: JsonValue) -> str:
    if not isinstance(value, dict):
        return ""
    return f"{value.get('method')}, {value.get('kind')}, as {value.get('identity')}"


def _device(value: JsonValue) -> str:
    if not isinstance(value, dict):
        return ""
    namespace = value.get("namespace")
    return f"{value.get('name')}" + (f" in network namespace {namespace}" if namespace else "")


def _seconds(value: JsonValue) -> str:
    return "" if value is None else f"asked for after {value} s of silence"


def _moment(value: JsonValue) -> str:
    if not isinstance(value, int | float):
        return "it is switched off and on"
    return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _joined(value: JsonValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ""

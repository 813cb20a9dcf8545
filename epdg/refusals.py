"""What a refused UE is told: the policy file that turns results and the gateway's own findings into Notify types.

The standard's choices (TS 24.302 §7.4.1, §8.1.2) are ``refusals.yaml`` beside this module; ``refusals: FILE`` in the
configuration puts another in its place. Base Result-Codes (RFC 6733) and Experimental-Result codes of vendor 10415 are
two number spaces and two sections; an entry is named by the code's name or number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from protocols.diameter.swm import VENDOR_3GPP, ExperimentalResultCode, Result, ResultCode
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.io.configuration import ConfigurationModel, load
from protocols.threegpp.backoff import DEACTIVATED, MAXIMUM, backoff_notify
from protocols.threegpp.causes import notify_name, notify_named, words

SHIPPED = Path(__file__).with_name("refusals.yaml")
WITHOUT_END = "deactivated"
_BASE = 0
_CODE_MAXIMUM = 0xFFFFFFFF


class GatewayCause(str, Enum):
    """What the gateway itself finds wrong."""

    NO_APN = "no-apn"
    APN_NOT_SERVED = "apn-not-served"
    NO_ADDRESS_ASKED = "no-address-asked"
    NO_ADDRESS_FREE = "no-address-free"
    PDN_TYPE_NOT_ALLOWED = "pdn-type-not-allowed"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    CONGESTION = "congestion"
    AAA_UNREACHABLE = "aaa-unreachable"
    AAA_UNUSABLE = "aaa-unusable"
    NO_DEVICE_IDENTITY = "no-device-identity"
    UNAUTHENTICATED_EMERGENCY = "unauthenticated-emergency"
    ABORTED = "aborted"
    RESUMPTION_IMPOSSIBLE = "resumption-impossible"


def _notify(value: object) -> object:
    refusal = PydanticCustomError("notify", "an error Notify type, such as NO_APN_SUBSCRIPTION or 9002")
    number = notify_named(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 16:
        raise refusal
    if not NotifyType.of(number).is_error:
        raise refusal
    return number


def _back_off(value: object) -> object:
    if value is None or value == WITHOUT_END:
        return DEACTIVATED if value else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAXIMUM:
        expected = f"a number of seconds from 0 to {MAXIMUM}, {WITHOUT_END}, or null"
        raise PydanticCustomError("back_off", "{expected}", {"expected": expected})
    return float(value)


class Entry(ConfigurationModel):
    """What a UE is told: an error Notify, perhaps how long it is to wait (BACKOFF_TIMER), and words for people."""

    notify: Annotated[int, BeforeValidator(_notify)]
    back_off: Annotated[float | None, BeforeValidator(_back_off)] = None
    text: str | None = Field(default=None, min_length=1)


def _text_keys(value: object) -> object:
    """A code may stand as the number it is."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, Mapping) else value


def _numbered(names: type[IntEnum], entries: dict[str, Entry]) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for key, entry in entries.items():
        code = int(key) if key.isascii() and key.isdigit() else names.__members__.get(key)
        if code is None or not 1000 <= code <= _CODE_MAXIMUM:
            expected = f"results such as {next(reversed(names.__members__))} or their codes, not {key}"
            raise PydanticCustomError("result", "{expected}", {"expected": expected})
        if int(code) in found:
            raise PydanticCustomError("result", "{expected}", {"expected": f"every result once, but {key} comes twice"})
        found[int(code)] = entry
    return found


def _every_cause(entries: dict[GatewayCause, Entry]) -> dict[GatewayCause, Entry]:
    missing = [cause.value for cause in GatewayCause if cause not in entries]
    if missing:
        raise PydanticCustomError("gateway", "{expected}", {"expected": f"an entry for {', '.join(missing)} too"})
    return entries


def _base_results(entries: dict[str, Entry]) -> dict[str, Entry]:
    _numbered(ResultCode, entries)
    return entries


def _experimental_results(entries: dict[str, Entry]) -> dict[str, Entry]:
    _numbered(ExperimentalResultCode, entries)
    return entries


class RefusalFile(ConfigurationModel):
    """The file as it is written; ``default`` is for results that no section names."""

    default: Entry
    results: Annotated[dict[str, Entry], BeforeValidator(_text_keys), AfterValidator(_base_results)]
    experimental_results: Annotated[
        dict[str, Entry], BeforeValidator(_text_keys), AfterValidator(_experimental_results)
    ]
    gateway: Annotated[dict[GatewayCause, Entry], AfterValidator(_every_cause)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A refusal as it goes to the UE, and in words; ``back_off`` in seconds, ``DEACTIVATED`` has no end."""

    notify: int
    text: str
    back_off: float | None = None

    @property
    def name(self) -> str:
        """The Notify type's name."""
        return notify_name(self.notify)

    @property
    def payload(self) -> NotifyPayload:
        """The error Notify."""
        return NotifyPayload(type=NotifyType.of(self.notify))

    @property
    def beside(self) -> tuple[NotifyPayload, ...]:
        """BACKOFF_TIMER, where the UE is to wait."""
        return () if self.back_off is None else (backoff_notify(self.back_off),)


class RefusalPolicy:
    """A policy file, read: what to tell a UE of a result or a cause."""

    def __init__(self, file: RefusalFile) -> None:
        self.file = file
        self._default = file.default
        self._results = {
            **{(_BASE, code): entry for code, entry in _numbered(ResultCode, file.results).items()},
            **{
                (VENDOR_3GPP, code): entry
                for code, entry in _numbered(ExperimentalResultCode, file.experimental_results).items()
            },
        }
        self._causes = file.gateway

    def of_result(self, result: Result, said: str | None = None, validity: float | None = None) -> Verdict:
        """Of the AAA server's result; ``said``: its Error-Message. ``validity``: how long it says it is overloaded,
        which is the back-off of an entry that has none (RFC 7683 §7.5).
        """
        entry = self._results.get((result.vendor, result.code), self._default)
        text = entry.text or words(entry.notify) or notify_name(entry.notify)
        if entry is self._default:
            space = "" if result.vendor == _BASE else f" of vendor {result.vendor}"
            text = f"{text}: the AAA server refused with result {result.code}{space}"
        if said:
            text = f"{text}: {said}"
        back_off = entry.back_off
        if back_off is None and validity:
            back_off = min(validity, float(MAXIMUM))
        return Verdict(notify=entry.notify, text=text, back_off=back_off)

    def of_cause(self, cause: GatewayCause, text: str) -> Verdict:
        """Of what the gateway finds; ``text`` unless the file has another."""
        entry = self._causes[cause]
        return Verdict(notify=entry.notify, text=entry.text or text, back_off=entry.back_off)


def read_refusals(file: Path | None = None) -> RefusalPolicy:
    """The policy of ``file``, without one the shipped; ``ConfigurationError`` on the first thing wrong in it."""
    return RefusalPolicy(load(file or SHIPPED, RefusalFile))

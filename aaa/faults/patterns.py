"""What the conditions of a fault rule are written as: IMSIs, attempt numbers, results; each reads and prints itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocols.diameter.codec import Result
from protocols.diameter.dictionary import VENDOR_3GPP, ExperimentalResultCode, ResultCode

_IMSI = re.compile(r"[0-9]{1,15}\Z")
_ATTEMPTS = re.compile(
    r"(?:every (?P<every>[1-9][0-9]{0,8}))\Z|(?P<first>[1-9][0-9]{0,8})(?P<rest>-(?P<last>[0-9]*))?\Z"
)
_RESULT = re.compile(r"(?:(?P<vendor>[0-9]{1,10}):)?(?P<code>[0-9]{1,10})\Z")
REFUSALS_BEGIN = 3000  # RFC 6733 §7.1: 1xxx informs, 2xxx is success, everything from 3xxx on is an error
RESULTS_END = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class ImsiPattern:
    """IMSIs from ``first`` to ``last`` of equal length, or all that begin with ``prefix``."""

    first: str = ""
    last: str = ""
    prefix: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImsiPattern:
        """``001010000000001``, ``00101*`` or ``001010000000001-001010000000099``; ``ValueError``."""
        if text.endswith("*") and (text == "*" or _IMSI.match(text[:-1])):
            return cls(prefix=text[:-1])
        first, dash, last = text.partition("-")
        last = last if dash else first
        if not (_IMSI.match(first) and _IMSI.match(last) and len(first) == len(last) and first <= last):
            raise ValueError("an IMSI, a prefix such as 00101*, or a range such as 001010000000001-001010000000099")
        return cls(first=first, last=last)

    def matches(self, imsi: str | None) -> bool:
        """Whether an IMSI is meant; one that is not known only by ``*``."""
        if self.prefix is not None:
            return (imsi or "").startswith(self.prefix)
        return imsi is not None and len(imsi) == len(self.first) and self.first <= imsi <= self.last

    def __str__(self) -> str:
        if self.prefix is not None:
            return f"{self.prefix}*"
        return self.first if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptPattern:
    """Attempts of one subscriber, counted from 1: ``first`` to ``last`` (``None``: for ever), or each ``every``-th."""

    first: int = 1
    last: int | None = None
    every: int | None = None

    @classmethod
    def parse(cls, text: str) -> AttemptPattern:
        """``1``, ``2-4``, ``3-`` or ``every 3``; ``ValueError``."""
        found = _ATTEMPTS.match(text)
        if found is not None and found["every"] is not None:
            return cls(every=int(found["every"]))
        if found is not None:
            first = int(found["first"])
            last = first if found["rest"] is None else int(found["last"]) if found["last"] else None
            if last is None or last >= first:
                return cls(first=first, last=last)
        raise ValueError("an attempt's number, a range such as 2-4 or 3-, or every 3")

    def matches(self, attempt: int) -> bool:
        """Whether the ``attempt``-th is meant."""
        if self.every is not None:
            return attempt % self.every == 0
        return self.first <= attempt and (self.last is None or attempt <= self.last)

    def __str__(self) -> str:
        if self.every is not None:
            return f"every {self.every}"
        if self.last == self.first:
            return str(self.first)
        return f"{self.first}-{'' if self.last is None else self.last}"


def parse_result(text: str) -> Result:
    """A result that refuses, by its name, its number or ``vendor:number``; ``ValueError``.

    A number alone is a Result-Code (RFC 6733 §7.1); Experimental-Results are named or have their vendor.
    """
    found = _RESULT.match(text)
    if found is not None:
        result = Result(int(found["vendor"] or 0), int(found["code"]))
    elif text in ResultCode.__members__:
        result = Result(0, int(ResultCode[text]))
    elif text in ExperimentalResultCode.__members__:
        result = Result(VENDOR_3GPP, int(ExperimentalResultCode[text]))
    else:
        raise ValueError("a result's name, its number, or vendor:number such as 10415:5450")
    if not (REFUSALS_BEGIN <= result.code <= RESULTS_END and result.vendor <= RESULTS_END):
        raise ValueError("a result that refuses: 3000 or more")
    return result


def written_result(result: Result) -> str:
    """The text that ``parse_result`` takes: the name where the standards have one."""
    for codes, vendor in ((ResultCode, 0), (ExperimentalResultCode, VENDOR_3GPP)):
        if result.vendor == vendor and result.code in codes._value2member_map_:
            return str(codes(result.code).name)
    return str(result.code) if result.vendor == 0 else f"{result.vendor}:{result.code}"

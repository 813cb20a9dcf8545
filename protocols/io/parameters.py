"""Parameters of control methods: each read by name and checked; what does not fit is ``bad-params`` in one sentence."""

from __future__ import annotations

from ipaddress import ip_address

from protocols.io.control import ControlError, Params
from protocols.path import Address


def unfit(expected: str) -> ControlError:
    """The refusal of a parameter; ``expected`` begins with its name."""
    return ControlError("bad-params", expected)


def text(params: Params, name: str, expected: str | None = None) -> str | None:
    """Text, or ``None`` without one."""
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise unfit(expected or f"{name} is text")
    return value


def required_text(params: Params, name: str, expected: str) -> str:
    """Text that must be there."""
    value = text(params, name, expected)
    if value is None:
        raise unfit(expected)
    return value


def flag(params: Params, name: str) -> bool:
    """True or false, false without one."""
    value = params.get(name)
    if value is not None and not isinstance(value, bool):
        raise unfit(f"{name} is true or false")
    return value or False


def whole_number(params: Params, name: str, expected: str | None = None) -> int | None:
    """A whole number, or ``None`` without one."""
    value = params.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise unfit(expected or f"{name} is a whole number")
    return value


def required_whole_number(params: Params, name: str, expected: str) -> int:
    """A whole number that must be there."""
    value = whole_number(params, name, expected)
    if value is None:
        raise unfit(expected)
    return value


def number(params: Params, name: str, expected: str) -> float | None:
    """A number, or ``None`` without one; JSON's integers have no bound, and a float has."""
    value = params.get(name)
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise unfit(expected)
    try:
        return None if value is None else float(value)
    except OverflowError:
        raise unfit(expected) from None


def moment(params: Params, name: str, wall_offset: float) -> float | None:
    """A moment of the wall clock as one of the monotonic clock, which is ``wall_offset`` seconds behind it."""
    value = number(params, name, f"{name} is seconds since 1970-01-01 UTC")
    return None if value is None else value - wall_offset


def address(params: Params, name: str) -> Address:
    """An IP address that must be there."""
    value = params.get(name)
    try:
        return ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise unfit(f"{name} is an IP address") from None


def addresses(params: Params, name: str) -> tuple[Address, ...] | None:
    """A list of IP addresses, or ``None`` without one."""
    value = params.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, list):
            return tuple(ip_address(each if isinstance(each, str) else "") for each in value)
    except ValueError:
        pass
    raise unfit(f"{name} is a list of IP addresses")

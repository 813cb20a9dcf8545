"""Parameters of control methods: what fits comes out as a value, what does not is refused in a sentence naming it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from protocols.io import parameters
from protocols.io.control import ControlError, Params
from protocols.trace.records import JsonValue

Reader = Callable[[Params, str], object]

READERS: dict[str, Reader] = {
    "text": parameters.text,
    "required text": lambda params, name: parameters.required_text(params, name, "x is a name"),
    "flag": parameters.flag,
    "whole number": parameters.whole_number,
    "required whole number": lambda params, name: parameters.required_whole_number(params, name, "x is a name"),
    "number": lambda params, name: parameters.number(params, name, "x is a number"),
    "moment": lambda params, name: parameters.moment(params, name, 100.0),
    "address": parameters.address,
    "addresses": parameters.addresses,
}
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        ("text", "a", "a"),
        ("text", None, None),
        ("required text", "a", "a"),
        ("flag", True, True),
        ("flag", None, False),
        ("whole number", 0, 0),
        ("whole number", None, None),
        ("required whole number", -7, -7),
        ("number", 1, 1.0),
        ("number", None, None),
        ("moment", 101.5, 1.5),
        ("moment", None, None),
        ("address", "192.0.2.1", V4),
        ("addresses", ["192.0.2.1", "2001:db8::1"], (V4, V6)),
        ("addresses", [], ()),
        ("addresses", None, None),
    ],
)
def test_what_fits(reader: str, value: JsonValue, expected: object) -> None:
    found = READERS[reader]({} if value is None else {"x": value}, "x")
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("reader", "values", "sentence"),
    [
        ("text", [7, ["a"], True], "x is text"),
        ("required text", [None, 7], "x is a name"),
        ("flag", ["true", 1, 0], "x is true or false"),
        ("whole number", [1.0, True, "1"], "x is a whole number"),
        ("required whole number", [None, 1.5, False], "x is a name"),
        ("number", ["1", True, 10**400], "x is a number"),
        ("moment", ["now", -(10**400)], "x is seconds since 1970-01-01 UTC"),
        ("address", [None, 7, "192.0.2.1/24", "somewhere"], "x is an IP address"),
        ("addresses", ["192.0.2.1", [7], ["somewhere"]], "x is a list of IP addresses"),
    ],
)
def test_what_does_not_fit(reader: str, values: list[JsonValue], sentence: str) -> None:
    for value in values:
        with pytest.raises(ControlError) as refused:
            READERS[reader]({} if value is None else {"x": value}, "x")
        assert (refused.value.code, str(refused.value)) == ("bad-params", sentence)

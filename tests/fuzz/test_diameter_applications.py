"""Invariant: octets that differ from a good SWx, S6b or SWm message are read, answered with a result, or refused.

Nothing but ``RemoteError`` leaves the codecs, what is read can be written and read again, and it can be shown.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.diameter.codec import decode_message, encode_message, redact
from protocols.errors import RemoteError
from tests.harness.diameter_messages import S6B, SWM, SWX, Answer, Request

MESSAGES: list[tuple[Request | Answer, bytes]] = [
    pair
    for request, answer in (*SWX, *S6B, *SWM)
    for pair in (
        (request, encode_message(request.to_message())),
        (answer, encode_message(answer.to_message(request.to_message()))),
    )
]
CHANGES = st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.parametrize(("value", "octets"), MESSAGES, ids=lambda each: type(each).__name__)
@settings(max_examples=20, deadline=None)
@given(changes=CHANGES)
def test_changed_octets(value: Request | Answer, octets: bytes, changes: list[tuple[int, int]]) -> None:
    spoilt = bytearray(octets)
    for position, octet in changes:
        spoilt[20 + position % (len(spoilt) - 20)] = octet
    try:
        message = decode_message(bytes(spoilt))
        json.dumps(message.detail())
        assert len(redact(bytes(spoilt))) == len(spoilt)
        read = type(value).from_message(message)
    except RemoteError:
        return
    if message.request:
        again = read.to_message()  # type: ignore[call-arg]
        assert type(value).from_message(decode_message(encode_message(again))) == read

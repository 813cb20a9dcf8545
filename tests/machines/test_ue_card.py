"""The APDUs of a USIM on a card (``ue.card``) against a card at the level of octets."""

from __future__ import annotations

import pytest

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import SqnWindow, compose
from protocols.algorithms.usim import UsimReject, UsimSuccess, UsimSynchronisationFailure
from protocols.algorithms.vector import generate_vector, verify_auts
from tests.peers.usim_card import AID, UsimCard
from ue import card
from ue.card import CardError

FUNCTIONS = Milenage(
    bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"), opc=bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")
)
RAND = bytes.fromhex("23553cbe9637a89d218ae64dae47bf35")
VECTOR = generate_vector(FUNCTIONS, rand=RAND, sqn=compose(8, 1))


def put_in(**values: object) -> UsimCard:
    return UsimCard(**{"imsi": "001010000000001", "functions": FUNCTIONS, **values})  # type: ignore[arg-type]


def verifications(found: UsimCard) -> int:
    return sum(command[1] == 0x20 and len(command) > 4 for command in found.commands)


@pytest.mark.parametrize(("imsi", "mnc_length"), [("001010000000001", 2), ("31041012345678", 3), ("262019", 0)])
def test_who_the_subscriber_is(imsi: str, mnc_length: int) -> None:
    found = card.run(card.identify(None), put_in(imsi=imsi, mnc_length=mnc_length).transmit)
    assert (str(found.imsi), found.mnc_length) == (imsi, mnc_length or None)


def test_the_application_is_selected_by_the_aid_of_ef_dir() -> None:
    held = put_in()
    card.run(card.identify(None), held.transmit)
    assert bytes([0x00, 0xA4, 0x04, 0x04, len(AID)]) + AID + b"\x00" in held.commands
    with pytest.raises(CardError, match="the card has no USIM"):
        card.run(card.identify(None), put_in(has_usim=False).transmit)


def test_authenticate_gives_res_ck_ik() -> None:
    held = put_in()
    card.run(card.identify(None), held.transmit)
    answer = card.run(card.authenticate(RAND, VECTOR.autn), held.transmit)
    assert answer == UsimSuccess(res=VECTOR.xres, ck=VECTOR.ck, ik=VECTOR.ik)


def test_authenticate_gives_auts_or_refuses() -> None:
    held = put_in(window=SqnWindow((4000,) * 32))
    card.run(card.identify(None), held.transmit)
    stale = card.run(card.authenticate(RAND, VECTOR.autn), held.transmit)
    assert isinstance(stale, UsimSynchronisationFailure)
    assert verify_auts(FUNCTIONS, rand=RAND, auts=stale.auts) == held.window.sqn_ms
    wrong = card.run(card.authenticate(RAND, bytes(16)), held.transmit)
    assert isinstance(wrong, UsimReject)
    assert "incorrect MAC" in wrong.why


def test_the_pin_is_given_once_and_never_with_the_last_attempt() -> None:
    held = put_in(pin="1234")
    with pytest.raises(CardError, match=r"wants its PIN \(usim\.card\.pin\)"):
        card.run(card.identify(None), held.transmit)
    card.run(card.identify("1234"), held.transmit)
    card.run(card.identify("1234"), held.transmit)
    assert verifications(held) == 1
    with pytest.raises(CardError, match=r"refuses the PIN; 2 attempt\(s\) left"):
        card.run(card.identify("4321"), put_in(pin="1234").transmit)
    for attempts, said in ((1, "leaves one attempt"), (0, "is blocked")):
        held = put_in(pin="1234", attempts=attempts)
        with pytest.raises(CardError, match=said):
            card.run(card.identify("1234"), held.transmit)
        assert verifications(held) == 0


ANSWERS = {
    "nothing": b"",
    "one octet": b"\x90",
    "no such instruction": b"\x6d\x00",
    "endless": b"\x61\x10",
    "wrong length for ever": b"\x6c\x05",
    "empty success": b"\x90\x00",
    "cut off": b"\xdb\x10\x01\x02\x90\x00",
    "short keys": b"\xdb\x04abcd\x02ab\x02ab\x90\x00",
    "short AUTS": b"\xdc\x02ab\x90\x00",
    "another tag": b"\x80\x04abcd\x90\x00",
    "octets": bytes(range(256)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_card_that_answers_nonsense_is_refused_in_one_line(answer: bytes) -> None:
    procedures = (card.identify("1234"), card.authenticate(RAND, VECTOR.autn))
    for procedure in procedures:
        with pytest.raises(CardError) as refused:
            card.run(procedure, lambda _: answer)  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)


def test_a_card_that_is_not_personalised_is_refused() -> None:
    held = put_in(imsi="")
    with pytest.raises(CardError, match="EF.IMSI holds no IMSI"):
        card.run(card.identify(None), held.transmit)

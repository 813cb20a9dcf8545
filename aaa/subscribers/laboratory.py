"""Subscribers of the test network (PLMN 001/01, TS 23.003 §12 and ITU-T E.212): made from their number.

The laboratory and the tests provision them here and give the same keys to their USIMs. Such keys protect
nothing, so no other network is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from aaa.subscribers.database import SubscriberDatabase
from aaa.subscribers.subscriber import KEY_LENGTH, ApnSubscription, Subscriber
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi, Plmn

TEST_PLMN = Plmn("001", "01")
DEFAULT_APNS = ("internet", "ims")
MAXIMUM_NUMBER = 10**10 - 1


def laboratory_subscriber(number: int, *, apns: Iterable[str] = DEFAULT_APNS) -> Subscriber:
    """Subscriber ``number`` of the test network, from 1 on; the first of ``apns`` is the default."""
    if not 1 <= number <= MAXIMUM_NUMBER:
        raise ValueError(f"a laboratory subscriber has a number from 1 to {MAXIMUM_NUMBER}, not {number}")
    imsi = Imsi(f"{TEST_PLMN.mcc}{TEST_PLMN.mnc}{number:010d}")
    return Subscriber(
        imsi=imsi,
        k=_key("K", imsi),
        opc=_key("OPc", imsi),
        apns=tuple(ApnSubscription(apn=Apn(name), is_default=position == 0) for position, name in enumerate(apns)),
    )


def provision(
    database: SubscriberDatabase, numbers: Iterable[int], *, apns: Iterable[str] = DEFAULT_APNS
) -> tuple[Subscriber, ...]:
    """Provision laboratory subscribers; SEQ of those that are there already is kept."""
    names = tuple(apns)
    subscribers = tuple(laboratory_subscriber(number, apns=names) for number in numbers)
    for subscriber in subscribers:
        database.replace(subscriber)
    return subscribers


def _key(name: str, imsi: Imsi) -> Secret:
    return Secret(hashlib.sha256(f"test network {name} {imsi}".encode()).digest()[:KEY_LENGTH])

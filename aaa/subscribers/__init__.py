"""The subscriber database: values, tables, migrations, and the API that provisions it."""

from __future__ import annotations

from aaa.subscribers.database import SequenceGoesBack, SubscriberDatabase, SubscriberExists, UnknownImsi
from aaa.subscribers.master_keys import MasterKeys
from aaa.subscribers.selection import SubscriberFilter
from aaa.subscribers.subscriber import Algorithm, ApnSubscription, PdnType, SqnScheme, Subscriber

__all__ = [
    "Algorithm",
    "ApnSubscription",
    "MasterKeys",
    "PdnType",
    "SequenceGoesBack",
    "SqnScheme",
    "Subscriber",
    "SubscriberDatabase",
    "SubscriberExists",
    "SubscriberFilter",
    "UnknownImsi",
]

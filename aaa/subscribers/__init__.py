"""The subscriber database: values, tables, migrations, and the API that provisions it."""

from __future__ import annotations

from aaa.subscribers.database import SubscriberDatabase, SubscriberExists, UnknownImsi
from aaa.subscribers.subscriber import Algorithm, ApnSubscription, PdnType, Subscriber

__all__ = [
    "Algorithm",
    "ApnSubscription",
    "PdnType",
    "Subscriber",
    "SubscriberDatabase",
    "SubscriberExists",
    "UnknownImsi",
]

"""Sequence numbers of subscribers, from blocks that are reserved in the database ahead of their use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.sqn import DEFAULT_BLOCK, SqnAllocator, SqnState, Transition
from protocols.threegpp.identity import Imsi


class SequenceStore(Protocol):
    """What is needed of ``SubscriberDatabase``."""

    def change_sequence(self, imsi: Imsi, transition: Transition) -> SqnState:
        """Store what ``transition`` makes of the stored state, durably; what is stored then."""


class SequenceNumbers:
    """SQNs of every subscriber by its own scheme; ``wall`` tells the seconds since 1970.

    Not for use by several threads at once; several processes over one database may each have one.
    """

    def __init__(self, store: SequenceStore, *, wall: Callable[[], float], block: int = DEFAULT_BLOCK) -> None:
        self._store = store
        self._wall = wall
        self._block = block
        self._allocators: dict[Imsi, tuple[Subscriber, SqnAllocator]] = {}

    def next(self, subscriber: Subscriber) -> int:
        """A SQN that was never given out for this USIM; ``UnknownImsi``, ``BackendError``."""
        return self._allocator(subscriber).next()

    def resynchronise(self, subscriber: Subscriber, sqn_ms: int) -> None:
        """Follow the USIM after a verified AUTS (TS 33.102 §6.3.5)."""
        self._allocator(subscriber).resynchronise(sqn_ms)

    def forget(self, imsi: Imsi) -> None:
        """Let go what is kept of a subscriber that is no more."""
        self._allocators.pop(imsi, None)

    def _allocator(self, subscriber: Subscriber) -> SqnAllocator:
        imsi = subscriber.imsi
        known, allocator = self._allocators.get(imsi, (None, None))
        if (
            known is None
            or allocator is None
            or known.sqn_scheme != subscriber.sqn_scheme
            or not known.is_same_usim(subscriber)
        ):
            allocator = SqnAllocator(
                subscriber.sqn_scheme,
                lambda transition: self._store.change_sequence(imsi, transition),
                self._wall,
                block=self._block,
            )
            self._allocators[imsi] = subscriber, allocator
        return allocator

"""A session together with what carries it: its IKE SA, its Diameter session, its timer."""

from __future__ import annotations

import asyncio

from epdg.session import Session
from protocols.ikev2.sa import IkeSa


class Live:
    """A session with the SA it belongs to and its Diameter session."""

    def __init__(self, session: Session, sa: IkeSa, diameter_session_id: str) -> None:
        self.session = session
        self.sa = sa  # the present one: rekeying replaces it
        self.first_spi = sa.local_spi
        self.diameter_session_id = diameter_session_id
        self.expiry: asyncio.TimerHandle | None = None
        self.questions: set[asyncio.Task[None]] = set()

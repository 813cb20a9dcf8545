"""A USIM asked on behalf of a PDN connection: in software it answers at once, a card takes its time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.errors import StackError
from ue.swu import Swu
from ue.usim import Usim


class UsimQuestions:
    """``asker`` says for which IKE SAs an answer is: one for an SA that is no more is nobody's."""

    def __init__(
        self,
        usim: Usim,
        *,
        swu: Swu,
        asker: Callable[[], object],
        answered: Callable[[UsimResult], None],
        failed: Callable[[str], None],
    ) -> None:
        self._usim = usim
        self._swu = swu
        self._asker = asker
        self._answered = answered
        self._failed = failed

    def ask(self, rand: bytes, autn: bytes) -> None:
        """Answer through ``answered`` or ``failed``."""
        try:
            verdict = self._usim.authenticate(rand, autn)
        except StackError as error:
            self._failed(str(error))
            return
        if isinstance(verdict, UsimSuccess | UsimSynchronisationFailure | UsimReject):
            self._answered(verdict)
            return
        assert self._swu.tasks is not None
        self._swu.tasks.create_task(self._hear(verdict, self._asker()))

    async def _hear(self, verdict: Awaitable[UsimResult], asker: object) -> None:
        try:
            result = await verdict
        except StackError as error:
            if asker == self._asker():
                self._failed(str(error))
            return
        if asker == self._asker():
            self._answered(result)

"""What a UE remembers of one PDN connection over a restart: back-off and temporary identities.

A file that cannot be written costs something later, and ends nothing now.
"""

from __future__ import annotations

import logging

from protocols.errors import BackendError, StackError
from protocols.trace.recorder import Recorder
from ue.backoff import BackOff, FileBackOff
from ue.commands import KeepBackOff, KeepTemporaryIdentities
from ue.temporary import TemporaryIdentityStore

_log = logging.getLogger(__name__)


class Kept:
    """``wall_offset``: the wall clock's lead over the machine's."""

    def __init__(
        self, back_off: FileBackOff, temporary: TemporaryIdentityStore, wall_offset: float, recorder: Recorder
    ) -> None:
        self._back_off = back_off
        self._temporary = temporary
        self._wall_offset = wall_offset
        self._recorder = recorder

    def back_off(self) -> BackOff | None:
        """How long the network wanted to be left alone when that was last kept."""
        return self._back_off.read(self._wall_offset)

    def keep_back_off(self, command: KeepBackOff) -> None:
        """Without it a UE that is started again does not stay away."""
        try:
            self._back_off.write(command.back_off, self._wall_offset)
        except BackendError as error:
            _log.error("%s", error)

    def keep_temporary_identities(self, command: KeepTemporaryIdentities) -> None:
        """Without them the next authentication is a full one."""
        try:
            self._temporary.save(command.held)
        except StackError as error:
            _log.error("%s", error)
            text = f"The UE's temporary identities could not be kept: {error}."
            self._recorder.event("temporary-identities-not-kept", text)

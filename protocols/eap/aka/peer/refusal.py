"""Why a peer goes no further, and with which message it says so (RFC 4187 §6.3.1)."""

from __future__ import annotations

from protocols.eap.aka.outcome import AkaFailure
from protocols.errors import RemoteError


class Refusal(RemoteError):
    """The server's request is not acceptable.

    ``as_autn``: answered by Authentication-Reject, as if AUTN had been wrong, otherwise by Client-Error.
    """

    def __init__(self, cause: AkaFailure, why: str, *, as_autn: bool = False) -> None:
        super().__init__(why)
        self.cause = cause
        self.why = str(self)
        self.as_autn = as_autn

"""The Diameter session of a UE's session: what the AAA server has of it, and what it is to be asked and told."""

from __future__ import annotations

from epdg.commands import Command, SendAar, SendDer, SendStr
from protocols.diameter.swm import Aaa, Dea, Result, ResultCode, TerminationCause
from protocols.path import Path

SUCCESS = Result(0, ResultCode.DIAMETER_SUCCESS)
MULTI_ROUND = Result(0, ResultCode.DIAMETER_MULTI_ROUND_AUTH)
UNKNOWN_SESSION = Result(0, ResultCode.DIAMETER_UNKNOWN_SESSION_ID)


class AaaSession:
    """``known``: the AAA server has it, so that STR is due; ``asked``: a DER waits for its answer.

    ``user_name`` is the user as the AAA server names it. ``termination_cause`` goes into the STR.
    """

    def __init__(self) -> None:
        self.host: str | None = None
        self.known = False
        self.asked = False
        self.user_name: str | None = None
        self.termination_cause = TerminationCause.DIAMETER_LOGOUT
        self.renewal_due = False
        self._renewal_asked = False
        self._state: tuple[bytes, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the AAA server may ask for something about it."""
        return self.known or self.asked

    def inherit(self, former: AaaSession) -> None:
        """It goes on as the session of a UE that has resumed its own."""
        self.known, self.host, self._state = former.known, former.host, former._state

    def der(
        self,
        packet: bytes,
        *,
        user_name: str,
        apn: str | None,
        ue_address: Path,
        emergency: bool,
        device_identity: str | None,
    ) -> SendDer:
        """The next DER, to the server that answered the last one."""
        self.asked = True
        return SendDer(
            eap_payload=packet,
            user_name=user_name,
            apn=apn,
            ue_address=ue_address,
            state=self._state,
            destination_host=self.host,
            first=self.host is None,
            emergency=emergency,
            device_identity=device_identity,
        )

    def answered(self, dea: Dea) -> None:
        """A DEA: who gave it, and whether there is a session now."""
        self.asked = False
        self.host, self._state = dea.origin_host, dea.state
        self.known = dea.result in (MULTI_ROUND, SUCCESS)

    def renew(self, nai: str, ue_address: Path) -> list[Command]:
        """AAR; one at a time, since the later answer must be the one that counts."""
        if self._renewal_asked:
            self.renewal_due = True
            return []
        self._renewal_asked, self.renewal_due = True, False
        return [SendAar(user_name=self.user_name or nai, ue_address=ue_address, destination_host=self.host)]

    def renewed(self, answer: Aaa | None) -> None:
        """The AAR was answered, or was not."""
        self._renewal_asked = False
        if answer is not None and answer.result == UNKNOWN_SESSION:
            self.known = False

    def terminate(self, nai: str) -> list[Command]:
        """STR, once, if the AAA server has the session."""
        if not self.known:
            return []
        self.known = False
        return [SendStr(user_name=nai, termination_cause=self.termination_cause, destination_host=self.host)]

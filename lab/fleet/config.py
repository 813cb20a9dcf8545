"""The configuration of a fleet: ``lab/fleet/example.yaml`` shows every key; ``ue`` is that of a UE, of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from lab.fleet.mix import DEFAULT_PERSONA
from lab.fleet.rule import SubscriberRule, read_master
from protocols.errors import ConfigurationError
from protocols.io.configuration import ConfigurationModel, Count, Digits, FilePath, Interval, IpAddress, load, validate
from protocols.io.documents import Words, read_file
from protocols.threegpp.identity import Imsi
from ue.config import UeConfiguration

OWN_KEYS = ("imsi", "usim", "persona", "control", "state", "trace", "node", "attach_at_start", "data_plane")
DEFAULT_LEAVE_INTERVAL = 30.0
DEFAULT_LEAVING_AT_ONCE = 50
DEFAULT_CALLS_AT_ONCE = 20
DEFAULT_RING = 20_000
_NO_KEY = "0" * 32  # every UE has keys of its own


def _imsi(value: str) -> str:
    try:
        return Imsi(value).digits
    except ValueError:
        raise PydanticCustomError("imsi", "6 to 15 digits, in quotes") from None


class SubscribersSection(ConfigurationModel):
    """The rule that subscribers are made by; ``master_file`` holds the master key in hexadecimal."""

    first_imsi: Annotated[Digits, AfterValidator(_imsi)]
    master_file: FilePath


class TraceSection(ConfigurationModel):
    """One trace for all UEs of a process, off by default: it costs more than the UEs."""

    enabled: bool = False
    ring: Annotated[Count, Field(ge=100)] = DEFAULT_RING


class FleetConfiguration(ConfigurationModel):
    """What one process of a fleet needs to know.

    ``destination`` answers echo requests. ``attaching_at_once`` bounds how many UEs attach at a time (``None``: by a
    bound that is found meanwhile); who comes when there are as many waits, which is counted as lateness.
    ``leave_interval`` bounds how long the UEs may take to detach at the end, ``leaving_at_once`` how many do at a time.
    ``calls_at_once`` bounds voice calls: each is 50 packets a second to encrypt and as many to decrypt.
    ``gateway_control``: where the gateway says what it has counted.
    """

    node: str = Field(default="fleet", min_length=1)
    subscribers: SubscribersSection
    ue: dict[str, object]
    destination: IpAddress | None = None
    attaching_at_once: Annotated[Count, Field(ge=1)] | None = None
    leave_interval: Interval = DEFAULT_LEAVE_INTERVAL
    leaving_at_once: Annotated[Count, Field(ge=1)] = DEFAULT_LEAVING_AT_ONCE
    calls_at_once: Annotated[Count, Field(ge=1)] = DEFAULT_CALLS_AT_ONCE
    gateway_control: FilePath | None = None
    trace: TraceSection = TraceSection()
    control: FilePath


@dataclass(frozen=True, kw_only=True)
class FleetFile:
    """A configuration and where it came from, to which relative paths and complaints refer."""

    path: Path
    configuration: FleetConfiguration

    @classmethod
    def read(cls, path: Path) -> FleetFile:
        """Read it; ``ConfigurationError`` in one line."""
        found = cls(path=path, configuration=load(path, FleetConfiguration))
        found.ue(DEFAULT_PERSONA)
        return found

    @property
    def rule(self) -> SubscriberRule:
        """Who the UEs are."""
        section = self.configuration.subscribers
        return SubscriberRule(first_imsi=Imsi(section.first_imsi), master=read_master(section.master_file))

    @property
    def accesses(self) -> tuple[str, ...]:
        """The names of the accesses in their order."""
        accesses = self.configuration.ue.get("accesses")
        return tuple(map(str, accesses)) if isinstance(accesses, Mapping) else ()

    def ue(self, persona: str) -> UeConfiguration:
        """What all UEs of a persona have in common, with the first one's IMSI and no real key."""
        own = self.configuration
        document = read_file(self.path).part("ue")
        foreign = next((key for key in OWN_KEYS if key in own.ue), None)
        try:
            if foreign is not None:
                raise document.error((foreign,), Words("the key"), "no such key: the fleet sets it")
            for key, value in self._own_values(persona).items():
                document = document.with_value(key, value)
            return validate(document, UeConfiguration, directory=self.path.parent)
        except ConfigurationError as error:
            if error.file != str(self.path):
                raise  # in a persona
            raise ConfigurationError(
                file=error.file, line=error.line, key=f"ue.{error.key}", value=error.value, expected=error.expected
            ) from None

    def _own_values(self, persona: str) -> dict[str, object]:
        own = self.configuration
        values: dict[str, object] = {
            "imsi": own.subscribers.first_imsi,
            "usim": {"k": _NO_KEY, "opc": _NO_KEY},
            "control": str(own.control),
            "state": str(own.control.parent),
        }
        return values if persona == DEFAULT_PERSONA else {**values, "persona": persona}

    def renamed(self, *, node: str | None = None, control: Path | None = None) -> FleetFile:
        """The same under another name, at another control socket."""
        update: dict[str, object] = {}
        if node is not None:
            update["node"] = node
        if control is not None:
            update["control"] = control.absolute()
        return FleetFile(path=self.path, configuration=self.configuration.model_copy(update=update))

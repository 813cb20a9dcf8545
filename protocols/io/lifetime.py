"""Lifetimes in configuration files: a number of seconds, or a mapping with everything (RFC 7296 §2.8)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from protocols.ikev2.config import LIFETIME_JITTER, Lifetime
from protocols.io.configuration import ConfigurationModel, Count, Interval

Share = Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
Amount = Annotated[Count, Field(ge=1)]


class IkeLifetimeSection(ConfigurationModel):
    """Seconds to the rekey of an IKE SA and to its end; ``jitter``: the share by which a rekey may come earlier."""

    soft: Interval | None = None
    hard: Interval | None = None
    jitter: Share = LIFETIME_JITTER

    @model_validator(mode="after")
    def _in_order(self) -> IkeLifetimeSection:
        _check(self.soft, self.hard, "hard")
        return self

    def lifetime(self) -> Lifetime:
        """As the machine has it."""
        return Lifetime(soft=self.soft, hard=self.hard, jitter=self.jitter)


class ChildLifetimeSection(IkeLifetimeSection):
    """The same of a child SA, and inner octets and packets, each direction by itself."""

    soft_octets: Amount | None = None
    hard_octets: Amount | None = None
    soft_packets: Amount | None = None
    hard_packets: Amount | None = None

    @model_validator(mode="after")
    def _usage_in_order(self) -> ChildLifetimeSection:
        _check(self.soft_octets, self.hard_octets, "hard_octets")
        _check(self.soft_packets, self.hard_packets, "hard_packets")
        return self

    def lifetime(self) -> Lifetime:
        """As the machine has it."""
        return Lifetime(
            soft=self.soft,
            hard=self.hard,
            jitter=self.jitter,
            soft_octets=self.soft_octets,
            hard_octets=self.hard_octets,
            soft_packets=self.soft_packets,
            hard_packets=self.hard_packets,
        )


def _check(soft: float | None, hard: float | None, name: str) -> None:
    if soft is not None and hard is not None and hard <= soft:
        raise PydanticCustomError("lifetime", "{name} to be more than its soft limit", {"name": name})


def _seconds_alone(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"soft": value}
    if isinstance(value, str | bool | list):
        raise PydanticCustomError("lifetime", "a number of seconds, or a mapping")
    return value


IkeLifetime = Annotated[IkeLifetimeSection, BeforeValidator(_seconds_alone)]
ChildLifetime = Annotated[ChildLifetimeSection, BeforeValidator(_seconds_alone)]


def machine_lifetime(section: IkeLifetimeSection | None) -> Lifetime | None:
    """As the machine has it; ``None``: for ever."""
    return None if section is None else section.lifetime()

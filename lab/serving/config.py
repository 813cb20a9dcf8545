"""The configuration of ``lab serve``; ``lab/serving/example.yaml`` shows every key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocols.io.configuration import ConfigurationModel, Count, FilePath, LoggingSection

DEFAULT_RING = 10_000


class TraceSection(ConfigurationModel):
    """How many records the node keeps of what runs have told."""

    ring: Annotated[Count, Field(ge=100)] = DEFAULT_RING


class LaboratoryConfiguration(ConfigurationModel):
    """What the laboratory needs to know.

    ``results``: where JSON, SVG and PNG of every run are left, the dashboard's ``results``. ``schedules``: a directory
    of files beside those that ship. ``queue``: how many runs may wait; ``kept``: how many that are over are remembered.
    """

    node: str = Field(default="lab", min_length=1)
    results: FilePath
    schedules: FilePath | None = None
    queue: Annotated[Count, Field(ge=1, le=1000)] = 8
    kept: Annotated[Count, Field(ge=1, le=1000)] = 50
    trace: TraceSection = TraceSection()
    logging: LoggingSection = LoggingSection()
    control: FilePath

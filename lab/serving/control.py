"""What the laboratory can be asked over its control socket."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

from lab.mobility.stage_name import StageName
from lab.serving.config import LaboratoryConfiguration
from lab.serving.laboratory import Laboratory
from lab.serving.run import Run
from protocols.io.configuration import shown
from protocols.io.control import Handler, Params
from protocols.io.parameters import required_text, text, unfit, whole_number
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

KIND = "lab"
DISTRIBUTION = "epdg-emulator"
SEED_MAXIMUM = (1 << 53) - 1  # what every reader of JSON has exactly (RFC 8259 §6)
STAGES = ", ".join(stage.value for stage in StageName)


def control_methods(
    laboratory: Laboratory, configuration: LaboratoryConfiguration, recorder: Recorder
) -> Mapping[str, Handler]:
    """The methods by name."""
    methods = _Methods(laboratory, configuration, recorder)
    return {
        "node.status": methods.status,
        "node.configuration": methods.configuration,
        "lab.schedules": methods.schedules,
        "lab.run": methods.run,
        "lab.runs": methods.runs,
        "lab.get": methods.get,
        "lab.stop": methods.stop,
    }


class _Methods:
    """Parameters in, JSON out."""

    def __init__(self, laboratory: Laboratory, configuration: LaboratoryConfiguration, recorder: Recorder) -> None:
        self._laboratory = laboratory
        self._configuration = configuration
        self._recorder = recorder

    async def status(self, params: Params) -> JsonValue:
        del params
        queue = self._laboratory.queue
        current = queue.current
        return {
            "node": self._configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self._recorder.started,
            "state": "idle" if current is None else "running",
            "run": None if current is None else current.identifier,
            "waiting": len(queue.queued),
            "totals": dict(self._laboratory.totals),
        }

    async def configuration(self, params: Params) -> JsonValue:
        del params
        return shown(self._configuration)

    async def schedules(self, params: Params) -> JsonValue:
        del params
        return self._laboratory.catalogue.view()

    async def run(self, params: Params) -> JsonValue:
        schedule = required_text(params, "schedule", "schedule is the name of one, as lab.schedules has it")
        stage = text(params, "stage") or StageName.VIRTUAL.value
        if stage not in {each.value for each in StageName}:
            raise unfit(f"stage is one of {STAGES}")
        seed = whole_number(params, "seed")
        if seed is not None and not 0 <= seed <= SEED_MAXIMUM:
            raise unfit(f"seed is a whole number from 0 to {SEED_MAXIMUM}")
        return self._laboratory.want(schedule, StageName(stage), seed).view()

    async def runs(self, params: Params) -> JsonValue:
        del params
        runs: list[JsonValue] = [run.view() for run in self._laboratory.queue]
        return {"runs": runs}

    async def get(self, params: Params) -> JsonValue:
        return self._found(params).full_view()

    async def stop(self, params: Params) -> JsonValue:
        return self._laboratory.stop(self._found(params).identifier).view()

    def _found(self, params: Params) -> Run:
        return self._laboratory.queue.find(required_text(params, "id", "id is that of a run, as lab.run gives it"))

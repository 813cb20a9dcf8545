"""The configuration read again while the gateway serves (SIGHUP, ``node.reload``): what can change does.

Sessions stay as they are. What has been made of a key at the start, a socket, a pool, a data plane, stays too, and
the key is named. A configuration that cannot be had, or not together with what stays, changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from epdg.config import EpdgConfiguration
from epdg.profile import service_policy
from protocols.errors import ConfigurationError, LocalError, StackError, printable
from protocols.io.configuration import load

if TYPE_CHECKING:
    from epdg.runtime import EpdgNode

CHANGEABLE = frozenset(
    {
        "certificate",
        "further_certificates",
        "authentication.psk",
        "authentication.certificate_authorities",
        "authentication.revocation",
        "authentication.crls",
        "authentication.ocsp_responders",
        "apns.*.dns",
        "apns.*.p_cscf",
        "apns.*.requested_address",
        "default_apn",
        "refusals",
        "aaa_initiated",
        "emergency.unauthenticated",
        "limits",
        "trace.export_keys",
        "trace.ring",
        "logging",
        "accounting",
    }
    | {
        f"ike.{name}"
        for name in (
            "suites",
            "mobike",
            "allow_beet",
            "return_routability",
            "return_routability_interval",
            "acceptable_addresses",
            "follow_esp",
            "move_by_rekey",
            "hold_lifetime",
            "liveness_interval",
            "keepalive_interval",
            "half_open_lifetime",
            "half_open_limit",
            "half_open_limit_per_source",
            "child_lifetime",
            "ike_lifetime",
            "additional_children",
            "authentication_lifetime",
            "retransmission",
            "request_device_identity",
            "require_device_identity",
            "application_version",
            "ue_liveness_period",
            "fragmentation",
            "fragment_size",
            "window_size",
            "childless",
            "redirect",
            "redirected_lifetime",
        )
    }
)

_log = logging.getLogger(__name__)


class Plan:
    """``configuration``: the present one with everything of the new one that can change; keys with dots."""

    def __init__(self, present: EpdgConfiguration, new: EpdgConfiguration) -> None:
        self.changed: list[str] = []
        self.needs_restart: list[str] = []
        merged = self._merged(present, new, ())
        assert isinstance(merged, EpdgConfiguration)
        self.configuration = merged

    def _merged(self, present: object, new: object, path: tuple[str, ...]) -> object:
        if present == new:
            return present
        if _can_change(path):
            self.changed.append(".".join(path))
            return new
        if isinstance(present, BaseModel) and type(present) is type(new):
            parts = {
                name: self._merged(getattr(present, name), getattr(new, name), (*path, name))
                for name in type(present).model_fields
            }
            return present.model_copy(update=parts)
        if isinstance(present, Mapping) and isinstance(new, Mapping) and present.keys() == new.keys():
            return {name: self._merged(value, new[name], (*path, str(name))) for name, value in present.items()}
        self.needs_restart.append(".".join(path))
        return present


def _can_change(path: tuple[str, ...]) -> bool:
    general = ("apns", "*", *path[2:]) if path[:1] == ("apns",) and len(path) > 1 else path
    return ".".join(general) in CHANGEABLE


class Reloading:
    """Of one node; ``file`` is where its configuration came from."""

    def __init__(self, node: EpdgNode, file: Path | None) -> None:
        self._node = node
        self._file = file

    def hang_up(self) -> None:
        """SIGHUP: the log says what has come of it."""
        with contextlib.suppress(StackError):
            self.reload()

    def reload(self) -> Plan:
        """Read it again; ``StackError`` says why nothing has changed, as does the log."""
        try:
            plan = self._carried_out()
        except StackError as error:
            _log.error("the configuration is as it was: %s", printable(" ".join(str(error).split())))
            raise
        _log.info("the configuration was read again; changed: %s", ", ".join(plan.changed) or "nothing")
        for key in plan.needs_restart:
            _log.warning("%s: the change needs a restart", key)
        return plan

    def _carried_out(self) -> Plan:
        if self._file is None:
            raise LocalError("the configuration does not come from a file")
        node = self._node
        plan = Plan(node.configuration, load(self._file, EpdgConfiguration))
        effective = plan.configuration
        try:
            effective.check()
        except PydanticCustomError as error:
            raise ConfigurationError(
                file=str(self._file),
                key=", ".join(plan.changed),
                value=None,
                expected=f"what goes with the keys that need a restart ({', '.join(plan.needs_restart)}): {error}",
            ) from error
        # first what can fail
        policy = service_policy(effective)
        responder = node.swu.responder(effective)
        if "accounting" in plan.changed:
            node.usage.change(effective.accounting)
        if "refusals" not in plan.changed and policy.refusals.file != node.sessions.policy.refusals.file:
            plan.changed.append("refusals")  # the same file, and something else in it
        node.configuration = effective
        node.swu.use(effective, responder)
        node.sessions.use(effective, policy)
        node.grants.use(effective)
        node.recorder.export_keys = effective.trace.export_keys
        node.recorder.keep(effective.trace.ring)
        if "logging" in plan.changed:
            effective.logging.start(effective.node)
        return plan

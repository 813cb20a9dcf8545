"""The gateway's control methods: what the command line, the dashboards and the laboratory ask of a node.

``node`` what it is and how it does; ``session_queries``, ``session_selection``, ``session_actions`` and ``questions``;
``gateway_addresses``. A method takes its parameters by ``protocols.io.parameters``, says no by ``ControlError`` (codes
in docs/architecture.md), and stands in the table that its class's ``methods`` gives, under the name by which it is
called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from epdg.control.gateway_addresses import AddressMethods
from epdg.control.node import NodeMethods
from epdg.control.questions import SessionQuestions
from epdg.control.session_actions import SessionActions
from epdg.control.session_queries import SessionQueries
from protocols.io.control import Handler

if TYPE_CHECKING:
    from epdg.runtime import EpdgNode


def control_methods(node: EpdgNode) -> Mapping[str, Handler]:
    """The methods of a node by name."""
    return {
        **NodeMethods(node).methods(),
        **SessionQueries(node.sessions).methods(),
        **SessionActions(node.sessions, node.swu).methods(),
        **SessionQuestions(node.sessions, node.swu, node.recorder).methods(),
        **AddressMethods(node.addresses, node.sessions, node.swu, node.recorder).methods(),
    }

"""The Diameter peers of all nodes, as each told when it was asked last."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pydantic import ValidationError

from dashboards.action_schemas import PeerView
from dashboards.links import NodeLink
from dashboards.redaction import redacted
from dashboards.told import table

logger = logging.getLogger("dashboards")


def peers_of(links: Iterable[NodeLink]) -> list[PeerView]:
    """Those of the nodes that are reachable; what is no description of a peer is left out."""
    found = []
    for link in links:
        for peer in link.peers if link.reachable else ():
            try:
                found.append(PeerView.model_validate({**table(redacted(peer)), "node": link.name}))
            except ValidationError as error:
                logger.warning("%s describes a peer in an unknown way: %d members", link.name, error.error_count())
    return found

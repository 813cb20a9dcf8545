"""The Configuration payload inside IKE_AUTH (RFC 7296 §2.19, §3.15): asked for, granted, read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import ConfigurationReply
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import ConfigurationAttribute, ConfigurationPayload
from protocols.ikev2.registry import ConfigType

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def build_request(sa: IkeSa) -> tuple[ConfigurationPayload, ...]:
    """CP(CFG_REQUEST), when anything is wanted."""
    wanted = sa.initiator_config.configuration_request
    return (ConfigurationPayload(type=ConfigType.CFG_REQUEST, attributes=wanted),) if wanted else ()


def requested(message: Message) -> tuple[ConfigurationAttribute, ...]:
    """What a CFG_REQUEST asks for, empty without one."""
    payload = message.first(ConfigurationPayload)
    return payload.attributes if payload is not None and payload.type == ConfigType.CFG_REQUEST else ()


def build_reply(reply: ConfigurationReply) -> tuple[ConfigurationPayload, ...]:
    """CP(CFG_REPLY), when anything is granted."""
    if not reply.attributes:
        return ()
    return (ConfigurationPayload(type=ConfigType.CFG_REPLY, attributes=reply.attributes),)


def granted(message: Message) -> tuple[ConfigurationAttribute, ...]:
    """What a CFG_REPLY grants, empty without one."""
    payload = message.first(ConfigurationPayload)
    return payload.attributes if payload is not None and payload.type == ConfigType.CFG_REPLY else ()

"""The seam where a profile of IKEv2 (3GPP SWu, say) adds its payloads; plain IKEv2 needs none."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload


class Step(Enum):
    """Messages an extension may add to or read, named by what they carry."""

    INIT_REQUEST = "IKE_SA_INIT request"
    INIT_RESPONSE = "IKE_SA_INIT response"
    IDENTITY_REQUEST = "IKE_AUTH request with the identities"
    IDENTITY_RESPONSE = "IKE_AUTH response with the gateway's identity and the first EAP packet"
    EAP_REQUEST = "IKE_AUTH request with EAP"
    EAP_RESPONSE = "IKE_AUTH response with EAP"
    FINAL_REQUEST = "IKE_AUTH request with AUTH from the MSK"
    FINAL_RESPONSE = "IKE_AUTH response with AUTH, configuration and the child SA"
    REFUSAL = "IKE_AUTH response with an error Notify"
    DELETION = "INFORMATIONAL request that deletes the IKE SA"


class Extension(Protocol):
    """Payloads to add at a step, payloads taken at a step, and words for private Notify types."""

    def payloads(self, step: Step) -> Sequence[Payload]:
        """What to add to the message of ``step`` that this end is about to send."""

    def take(self, step: Step, message: Message) -> None:
        """Read what the peer put into the message of ``step``; ``RemoteError`` refuses it."""

    def explain(self, notify: NotifyPayload) -> str:
        """Plain words for an error Notify of the profile's private range, empty when unknown."""


class NoExtension:
    """Plain IKEv2."""

    def payloads(self, step: Step) -> Sequence[Payload]:
        """Nothing to add."""
        del step
        return ()

    def take(self, step: Step, message: Message) -> None:
        """Nothing to read."""
        del step, message

    def explain(self, notify: NotifyPayload) -> str:
        """No private types are known."""
        del notify
        return ""

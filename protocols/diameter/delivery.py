"""Local delivery (RFC 6733 §6.1.4, §6.2): whether a request is for this node, what its answer takes over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from protocols.diameter.codec import DiameterMessage, RequestError
from protocols.diameter.dictionary import BASE_APPLICATION, ResultCode
from protocols.diameter.identity import DiameterIdentity


def check_error_flag(request: DiameterMessage) -> None:
    """RFC 6733 §3: the E flag MUST NOT be set in a request (3008, §7.1.3)."""
    if request.error:
        raise RequestError(ResultCode.DIAMETER_INVALID_HDR_BITS, "the E flag in a request")


def check_delivery(
    request: DiameterMessage, *, identity: DiameterIdentity, services: Mapping[int, Collection[int]]
) -> None:
    """Whether a request is for us: flags, application, command, destination; ``RequestError`` when it is not.

    ``services`` maps served applications to their command codes.
    """
    check_error_flag(request)
    commands = services.get(request.application)
    if commands is None and request.application != BASE_APPLICATION:
        raise RequestError(
            ResultCode.DIAMETER_APPLICATION_UNSUPPORTED, f"application {request.application} is not served"
        )
    if commands is None or request.command not in commands:
        raise RequestError(ResultCode.DIAMETER_COMMAND_UNSUPPORTED, f"command {request.command} is not served")
    host = request.text("Destination-Host")
    if host is not None and host.lower() != identity.host.lower():
        raise RequestError(ResultCode.DIAMETER_UNABLE_TO_DELIVER, f"this is not {host}")
    realm = request.text("Destination-Realm")
    if host is None and realm is not None and not identity.serves_realm(realm):
        raise RequestError(ResultCode.DIAMETER_REALM_NOT_SERVED, f"realm {realm} is not served here")


def bound_to(request: DiameterMessage, answer: DiameterMessage) -> DiameterMessage:
    """``answer`` with the identifiers, the P flag and the Proxy-Info AVPs of ``request`` (RFC 6733 §6.2)."""
    avps = answer.avps
    proxies = request.find_all("Proxy-Info")
    if proxies:
        present = answer.find_all("Proxy-Info")
        if present != proxies:
            avps = (*(avp for avp in avps if avp not in present), *proxies)
    if avps is answer.avps and _is_bound(request, answer):
        return answer
    return replace(
        answer,
        request=False,
        retransmitted=False,
        command=request.command,
        application=request.application,
        proxiable=request.proxiable,
        hop_by_hop=request.hop_by_hop,
        end_to_end=request.end_to_end,
        avps=avps,
    )


def _is_bound(request: DiameterMessage, answer: DiameterMessage) -> bool:
    return (
        not answer.request
        and not answer.retransmitted
        and answer.hop_by_hop == request.hop_by_hop
        and answer.end_to_end == request.end_to_end
        and answer.command == request.command
        and answer.application == request.application
        and answer.proxiable == request.proxiable
    )

"""What the trace says of an IKE message: payload by payload, decoded, with its octets."""

from __future__ import annotations

import json
from typing import Any

from protocols.eap.observation import eap_body
from protocols.ikev2.description import describe
from protocols.ikev2.events import MessageReceived, MessageSent
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    CertPayload,
    ConfigurationAttribute,
    ConfigurationPayload,
    NotifyPayload,
    decode_payloads,
)
from protocols.ikev2.registry import CertEncoding, ConfigAttributeType, ConfigType, ExchangeType, NotifyType
from protocols.threegpp.backoff import DEACTIVATED, backoff_notify
from protocols.threegpp.causes import NOTIFY_NAMES, PrivateNotify
from protocols.threegpp.description import ATTRIBUTE_NAMES, NOTIFY_DATA
from protocols.threegpp.observation import message_body
from protocols.threegpp.swu import encode_device_identity
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind
from tests.harness.pair import GATEWAY_FQDN, Pair


def sent(pair: Pair, name: str) -> list[Any]:
    """What the gateway's trace says of the first message of a name."""
    for event in pair.epdg.events:
        if isinstance(event, (MessageSent, MessageReceived)) and event.message.name == name:
            detail = message_body(event)["detail"]
            assert isinstance(detail, dict)
            payloads = json.loads(json.dumps(detail["payloads"]))
            assert isinstance(payloads, list)
            return payloads
    raise AssertionError(f"no {name}")


def described(*payloads: Any, exchange: ExchangeType = ExchangeType.INFORMATIONAL) -> list[Any]:
    message = Message(
        spi_i=bytes(8),
        spi_r=bytes(8),
        exchange=exchange,
        original_initiator=True,
        response=False,
        message_id=0,
        payloads=payloads,
    )
    return describe(
        message,
        notify_names=NOTIFY_NAMES,
        notify_data=NOTIFY_DATA,
        attribute_names=ATTRIBUTE_NAMES,
    )


def test_the_proposals_of_an_attach() -> None:
    pair = Pair().attach()
    offer = sent(pair, "IKE_SA_INIT request")
    assert [payload["name"] for payload in offer[:3]] == ["SAi1", "KEi", "Ni"]
    assert offer[0]["proposals"] == [
        {
            "number": 1,
            "protocol": "IKE",
            "ENCR": ["ENCR_AES_CBC-128"],
            "PRF": ["PRF_HMAC_SHA2_256"],
            "INTEG": ["AUTH_HMAC_SHA2_256_128"],
            "KE": ["CURVE25519"],
        }
    ]
    assert offer[1]["group"] == "CURVE25519"


def test_identities_and_selectors_of_an_attach() -> None:
    pair = Pair().attach()
    payloads = {payload["name"]: payload for payload in sent(pair, "IKE_AUTH request")}
    assert payloads["IDi"]["identity"] == "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
    assert payloads["IDr"]["identity"] == "internet"
    assert payloads["CP(CFG_REQUEST)"]["attributes"][0] == {"name": "INTERNAL_IP4_ADDRESS"}
    assert payloads["TSi"]["selectors"] == ["0.0.0.0-255.255.255.255"]
    assert len(payloads["SAi2"]["proposals"][0]["spi"]) == 8


def test_the_gateways_certificate() -> None:
    answer = sent(Pair().attach(), "IKE_AUTH response")
    certificate = next(payload for payload in answer if payload["type"] == "CERT")
    assert GATEWAY_FQDN in certificate["subject"]
    assert certificate["not_before"] < certificate["not_after"]


def test_the_octets_are_those_of_the_payload() -> None:
    pair = Pair().attach()
    for event in pair.epdg.events:
        if not isinstance(event, (MessageSent, MessageReceived)):
            continue
        for payload, entry in zip(event.message.payloads, describe(event.message), strict=True):
            assert isinstance(entry, dict)
            assert isinstance(entry["octets"], str)
            octets = bytes.fromhex(entry["octets"])
            chain = bytes(2) + (4 + len(octets)).to_bytes(2, "big") + octets
            assert decode_payloads(payload.payload_type, chain) == (payload,)


def test_data_of_notifies() -> None:
    found = described(
        NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, bytes([192, 0, 2, 9])),
        NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, bytes.fromhex("00020005")),
        NotifyPayload(NotifyType.SET_WINDOW_SIZE, bytes([0, 0, 0, 8])),
        NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, bytes(3)),
        backoff_notify(120),
        backoff_notify(DEACTIVATED),
        NotifyPayload(NotifyType.of(PrivateNotify.DEVICE_IDENTITY), encode_device_identity("490154203237518")),
        NotifyPayload(NotifyType.of(PrivateNotify.USER_UNKNOWN)),
    )
    assert [entry.get("data") for entry in found] == [
        "192.0.2.9",
        ["SHA2_256", "IDENTITY"],
        8,
        "does not parse: 000000",
        "120 s",
        "until it is switched off and on",
        "490154203237518",
        None,
    ]
    assert found[-1]["name"] == "N(USER_UNKNOWN)"
    assert found[-1]["error"]
    assert found[-1]["number"] == 9001


def test_configuration_attributes() -> None:
    found = described(
        ConfigurationPayload(
            ConfigType.CFG_REPLY,
            (
                ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_ADDRESS, bytes([10, 45, 0, 2])),
                ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP6_ADDRESS, bytes(15) + bytes([1, 64])),
                ConfigurationAttribute(ConfigAttributeType.P_CSCF_IP6_ADDRESS, bytes(15) + bytes([2])),
                ConfigurationAttribute(ConfigAttributeType.SUPPORTED_ATTRIBUTES, bytes.fromhex("00010014")),
                ConfigurationAttribute(ConfigAttributeType.of(16384), bytes([10, 0, 0, 5])),
                ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_ADDRESS, bytes(3)),
            ),
        )
    )
    assert found[0]["attributes"] == [
        {"name": "INTERNAL_IP4_ADDRESS", "value": "10.45.0.2"},
        {"name": "INTERNAL_IP6_ADDRESS", "value": "::1/64"},
        {"name": "P_CSCF_IP6_ADDRESS", "value": "::2"},
        {"name": "SUPPORTED_ATTRIBUTES", "value": ["INTERNAL_IP4_ADDRESS", "P_CSCF_IP4_ADDRESS"]},
        {"name": "P_CSCF_IP4_ADDRESS (16384, before RFC 7651)", "value": "0a000005 (10.0.0.5)"},
        {"name": "INTERNAL_IP4_ADDRESS", "value": "does not parse: 000000"},
    ]


def test_a_certificate_that_is_none() -> None:
    assert described(CertPayload(CertEncoding.X509_SIGNATURE, b"nonsense"))[0]["subject"] == "does not parse"


def test_eap_inside_ike_auth() -> None:
    response = sent(Pair().attach(), "IKE_AUTH response")
    packet = next(payload for payload in response if payload["type"] == "EAP")
    body = eap_body(bytes.fromhex(packet["octets"]), direction="", interface="SWu", peer="")
    assert packet["eap"] == {"name": body["name"], "detail": body["detail"]}


def test_a_body_is_made_when_somebody_looks() -> None:
    recorder = Recorder("epdg", monotonic=lambda: 0.0, wall=lambda: 0.0)
    made: list[str] = []

    def body(name: str) -> dict[str, Any]:
        made.append(name)
        return {"name": name}

    recorder.record_later(Kind.MESSAGE, body, "IKE_AUTH request")
    assert made == []
    assert recorder.since(0)[0].body == {"name": "IKE_AUTH request"}
    assert made == ["IKE_AUTH request"]

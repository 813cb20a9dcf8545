"""XFRM netlink: the octets of its structures, its sockets against this machine's kernel, selectors, algorithms."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from lab.namespaces import Namespace
from protocols.dataplane.xfrm import messages, structures
from protocols.dataplane.xfrm.algorithms import AEADS, CIPHERS, MACS, key_attributes
from protocols.dataplane.xfrm.backend import REQIDS, XfrmDataPlane
from protocols.dataplane.xfrm.carrier import KernelCarrier, why_not
from protocols.dataplane.xfrm.connection import XfrmConnection, XfrmRefused
from protocols.dataplane.xfrm.messages import MarshalXfrm, xfrm_request
from protocols.dataplane.xfrm.probe import probe
from protocols.dataplane.xfrm.selectors import pairs_of
from protocols.dataplane.xfrm.socket import AsyncXfrmSocket, XfrmSocket
from protocols.errors import BackendError, LocalError
from protocols.esp.tunnel import TunnelPolicy
from protocols.ikev2.suites import ENCRYPTION, INTEGRITY, EspSuite
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import ue_spec
from tests.peers.namespaces import require_namespaces

SIZES = {  # of <linux/xfrm.h>, by a C compiler
    "usersa_info": 224,
    "userspi_info": 232,
    "usersa_id": 24,
    "userpolicy_info": 168,
    "userpolicy_id": 64,
    "user_acquire": 280,
    "user_expire": 232,
    "user_mapping": 64,
    "selector": 56,
    "id": 24,
    "lifetime_cfg": 64,
    "lifetime_cur": 32,
    "stats": 12,
    "user_polexpire": 176,
    "aevent_id": 48,
    "usersa_flush": 1,
    "user_tmpl": 64,
    "encap_tmpl": 24,
    "user_migrate": 76,
    "user_kmaddress": 40,
    "replay_state": 12,
    "replay_state_esn": 24,
    "mark": 8,
}
KEY = bytes(range(20))
ATTRIBUTES: dict[str, tuple[int, int, object]] = {  # type, length without its header, value
    "alg_crypt": (2, 68 + 20, {"alg_name": "cbc(aes)", "alg_key": KEY}),
    "alg_aead": (18, 72 + 20, {"alg_name": "rfc4106(gcm(aes))", "alg_key": KEY, "alg_icv_len": 128}),
    "alg_auth_trunc": (20, 72 + 19, {"alg_name": "hmac(sha1)", "alg_key": KEY[1:], "alg_trunc_len": 96}),
    "encap": (4, 24, {"encap_type": 2, "encap_sport": 4500, "encap_dport": 61234, "encap_oa": "0.0.0.0"}),
    "replay_val": (10, 12, {"oseq": 1, "seq": 2, "bitmap": 3}),
    "replay_esn_val": (
        23,
        24 + 4 * 4,
        {"oseq": 1, "seq": 2, "oseq_hi": 3, "seq_hi": 4, "replay_window": 128, "bmp": [1, 2, 3, 4]},
    ),
    "ltime_val": (9, 32, {"bytes": 1, "packets": 2, "add_time": 3, "use_time": 4}),
    "mark": (21, 8, {"v": 1, "m": 255}),
    "kmaddress": (19, 40, {"local": "192.0.2.1", "remote": "192.0.2.2", "reserved": 0, "family": 2}),
    "if_id": (31, 4, 7),
    "sa_extra_flags": (24, 4, 1),
}
MIGRATION = {
    "old_daddr": "192.0.2.1",
    "old_saddr": "192.0.2.2",
    "new_daddr": "2001:db8::1",
    "new_saddr": "2001:db8::2",
    "proto": 50,
    "mode": messages.XFRM_MODE_BEET,
    "reserved": 0,
    "reqid": 9,
    "old_family": socket.AF_INET,
    "new_family": socket.AF_INET6,
}
NO_LIMITS = dict.fromkeys(
    ("soft_byte_limit", "hard_byte_limit", "soft_packet_limit", "hard_packet_limit"), messages.XFRM_INF
)
POLICY = {
    "sel": {"family": 2, "saddr": "10.9.0.1", "prefixlen_s": 32, "daddr": "10.9.0.0", "prefixlen_d": 24},
    "lft": NO_LIMITS,
    "dir": messages.XFRM_POLICY_OUT,
    "priority": 5,
    "tmpl": [
        {
            "id": {"daddr": "192.0.2.1", "spi": 0xC0FFEE, "proto": 50},
            "saddr": "192.0.2.2",
            "family": socket.AF_INET,
            "reqid": 9,
            "mode": messages.XFRM_MODE_TUNNEL,
            "aalgos": 0xFFFFFFFF,
            "ealgos": 0xFFFFFFFF,
            "calgos": 0xFFFFFFFF,
        }
    ],
}
LARVAL = {
    "info": {
        "id": {"daddr": "2001:db8::1", "proto": 50},
        "saddr": "2001:db8::2",
        "family": socket.AF_INET6,
        "mode": messages.XFRM_MODE_BEET,
        "reqid": 7,
    },
    "min": 0x1000,
    "max": 0x1FFF,
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    require_namespaces()
    with Namespace("xfrm") as made:
        yield made


class TestOctets:
    @pytest.mark.parametrize(("name", "size"), SIZES.items())
    def test_structures_have_the_sizes_of_the_header(self, name: str, size: int) -> None:
        assert getattr(structures, f"xfrm_{name}").get_size() == size

    @pytest.mark.parametrize("name", ATTRIBUTES)
    def test_an_attribute_goes_and_comes_back(self, name: str) -> None:
        kind, length, value = ATTRIBUTES[name]
        message = xfrm_request("sa", "add", {"family": socket.AF_INET, name: value})
        message.encode()
        start = 16 + SIZES["usersa_info"]
        assert struct.unpack_from("HH", message.data, start) == (4 + length, kind)
        assert len(message.data) % 4 == 0
        assert message["header"]["length"] == len(message.data)
        (back,) = MarshalXfrm().parse(bytes(message.data))
        assert back.get_attr(f"XFRMA_{name.upper()}") == value

    def test_a_key_is_counted_in_bits(self) -> None:
        message = xfrm_request("sa", "add", {"alg_aead": ATTRIBUTES["alg_aead"][2]})
        message.encode()
        octets = bytes(message.data[16 + 224 + 4 :])
        assert octets[:64] == b"rfc4106(gcm(aes))".ljust(64, b"\0")
        assert octets[64:] == struct.pack("II", 160, 128) + KEY

    def test_a_migration_names_both_families(self) -> None:
        message = xfrm_request("policy", "migrate", {"sel": POLICY["sel"], "migrate": [MIGRATION, MIGRATION]})
        message.encode()
        assert struct.unpack_from("HH", message.data, 16 + 64) == (4 + 2 * 76, 17)
        (back,) = MarshalXfrm().parse(bytes(message.data))
        assert back.get_attr("XFRMA_MIGRATE") == [MIGRATION, MIGRATION]

    def test_what_there_is_not(self) -> None:
        with pytest.raises(KeyError):
            xfrm_request("sa", "rename", {})
        with pytest.raises(KeyError):
            xfrm_request("sa", "add", {"colour": 1})
        with pytest.raises(KeyError):
            xfrm_request("sa", "add", {"id": {"colour": 1}}).encode()


class TestAlgorithms:
    def test_the_kernel_has_a_name_for_each_of_ours(self) -> None:
        assert set(CIPHERS) | set(AEADS) == set(ENCRYPTION)
        assert {number for number, row in ENCRYPTION.items() if row.icv_length} == set(AEADS)
        assert set(MACS) == set(INTEGRITY)

    def test_keys_and_lengths(self) -> None:
        short = EspSuite.of("aes256gcm12")
        key = Secret(bytes(short.encryption_key_length))
        assert key_attributes(short, key, Secret(b"")) == {
            "alg_aead": {"alg_name": "rfc4106(gcm(aes))", "alg_key": bytes(36), "alg_icv_len": 96}
        }
        pair = EspSuite.of("aes128ctr-sha512")
        assert key_attributes(pair, Secret(bytes(20)), Secret(bytes(64))) == {
            "alg_crypt": {"alg_name": "rfc3686(ctr(aes))", "alg_key": bytes(20)},
            "alg_auth_trunc": {"alg_name": "hmac(sha512)", "alg_key": bytes(64), "alg_trunc_len": 256},
        }


class TestSelectors:
    def test_a_range_becomes_the_prefixes_and_blocks_that_cover_it(self) -> None:
        remote = TrafficSelector(
            start=ip_address("192.0.2.3"), end=ip_address("192.0.2.8"), protocol=17, start_port=1000, end_port=1025
        )
        pairs = pairs_of(replace(ue_spec(), remote_selectors=(remote,)))
        networks = {pair.remote.network for pair in pairs}
        assert {address for network in networks for address in network} == {
            ip_address(f"192.0.2.{host}") for host in range(3, 9)
        }
        one = [pair.remote for pair in pairs if pair.remote.network == ip_network("192.0.2.3/32")]
        chosen = {port for port in range(65536) for side in one if port & side.mask == side.port}
        assert chosen == set(range(1000, 1026))
        assert {pair.protocol for pair in pairs} == {17}
        assert {(pair.local.port, pair.local.mask) for pair in pairs} == {(0, 0)}

    def test_towards_us_the_sides_change_places(self) -> None:
        (pair,) = pairs_of(ue_spec(remote="192.0.2.0/24"))
        out, into = pair.selector(outbound=True), pair.selector(outbound=False)
        assert (out["saddr"], out["prefixlen_s"], out["daddr"], out["prefixlen_d"]) == (
            "10.45.0.2",
            32,
            "192.0.2.0",
            24,
        )
        assert (into["saddr"], into["prefixlen_s"], into["daddr"]) == ("192.0.2.0", 24, "10.45.0.2")

    @pytest.mark.parametrize(
        "remote",
        [
            TrafficSelector(start=ip_address("192.0.2.1"), end=ip_address("192.0.2.1"), protocol=1, start_port=2048),
            TrafficSelector(start=ip_address("192.0.2.1"), end=ip_address("192.0.2.1"), start_port=9, end_port=0),
            TrafficSelector(start=ip_address("10.0.0.1"), end=ip_address("10.255.255.254"), start_port=1),
            TrafficSelector.network("2001:db8::/64"),
        ],
        ids=["icmp-type", "opaque", "too-many", "other-version"],
    )
    def test_what_policies_cannot_select(self, remote: TrafficSelector) -> None:
        with pytest.raises(LocalError):
            pairs_of(replace(ue_spec(), remote_selectors=(remote,)))


class TestWhatTheKernelCannot:
    @pytest.mark.parametrize(
        ("policy", "key"),
        [
            (TunnelPolicy(dscp=46), "data_plane.dscp: 46"),
            (TunnelPolicy(outer_mtu=1399), "data_plane.outer_mtu: 1399"),
        ],
    )
    def test_a_policy_is_refused_by_its_key(self, policy: TunnelPolicy, key: str) -> None:
        reason = why_not(policy)
        assert reason is not None
        assert reason.startswith(key)
        with pytest.raises(LocalError, match=key):
            KernelCarrier(policy=policy)

    def test_several_interfaces(self) -> None:
        reason = why_not(TunnelPolicy(), interfaces=("wlan0", "eth0", "wlan0"))
        assert reason == "accesses by eth0, wlan0: the kernel routes ESP by its tables alone"

    def test_a_plane_has_its_carriers_policy(self) -> None:
        carrier = KernelCarrier(policy=TunnelPolicy(dscp=0))
        with pytest.raises(LocalError, match="one policy"):
            carrier.plane(
                deliver=lambda packet, spi: None,
                transmit=lambda octets, path, encapsulation, traffic_class: None,
                told=lambda: None,
                path_mtu=lambda path: None,
                policy=TunnelPolicy(),
            )
        carrier.close()


@pytest.mark.root
class TestThisKernel:
    def test_policies_and_larval_sas(self, namespace: Namespace) -> None:
        def body() -> None:
            with XfrmSocket() as xfrm:
                (larval,) = xfrm.sa("alloc_spi", **LARVAL)
                assert (larval["event"], larval["saddr"], larval["mode"]) == ("XFRM_MSG_NEWSA", "2001:db8::2", 4)
                assert 0x1000 <= larval["id"]["spi"] <= 0x1FFF
                assert [each["id"] for each in xfrm.sa("dump")] == [larval["id"]]
                xfrm.policy("add", **POLICY)
                with pytest.raises(NetlinkError) as caught:
                    xfrm.policy("add", **POLICY)
                assert caught.value.code == 17
                (policy,) = xfrm.policy("get", sel=POLICY["sel"], dir=messages.XFRM_POLICY_OUT)
                assert policy["sel"]["daddr"] == "10.9.0.0"
                assert policy.get_attr("XFRMA_TMPL")[0]["id"] == {"daddr": "192.0.2.1", "spi": 0xC0FFEE, "proto": 50}
                xfrm.policy("update", **{**POLICY, "priority": 6})
                assert [each["priority"] for each in xfrm.policy("dump")] == [6]
                xfrm.policy("delete", sel=POLICY["sel"], dir=messages.XFRM_POLICY_OUT)
                xfrm.policy("add", **POLICY)
                xfrm.policy("flush")
                xfrm.sa("flush")
                assert xfrm.sa("dump") == xfrm.policy("dump") == ()

        namespace.call(body)

    def test_counters_are_read_quickly(self, namespace: Namespace) -> None:
        """The same as with pyroute2's parser."""

        def body() -> None:
            with closing(XfrmConnection()) as kernel:
                (larval,) = kernel.request("sa", "alloc_spi", **LARVAL)
                identity = {"daddr": "2001:db8::1", "spi": larval["id"]["spi"], "family": socket.AF_INET6, "proto": 50}
                (slowly,) = kernel.request("sa", "get", **identity)
                assert slowly["curlft"]["add_time"] > 0
                assert kernel.counted(identity) == {"curlft": slowly["curlft"], "stats": slowly["stats"]}

        namespace.call(body)

    def test_policies_of_an_interface(self, namespace: Namespace) -> None:
        """XFRMA_IF_ID tells policies with the same selectors apart."""

        def body() -> None:
            with XfrmSocket() as xfrm:
                selection = {"sel": POLICY["sel"], "dir": messages.XFRM_POLICY_OUT}
                for if_id in (7, 8):
                    xfrm.policy("add", **POLICY, if_id=if_id)
                xfrm.policy("delete", **selection, if_id=7)
                with pytest.raises(NetlinkError):
                    xfrm.policy("delete", **selection)
                (policy,) = xfrm.policy("dump")
                assert policy.get_attr("XFRMA_IF_ID") == 8
                mine = {**POLICY["tmpl"][0], "reqid": REQIDS[5]}  # type: ignore[index]
                xfrm.policy("add", **{**POLICY, "tmpl": [mine]}, if_id=9)
                plane = XfrmDataPlane()
                assert plane.leftovers == 1
                assert [each.get_attr("XFRMA_IF_ID") for each in xfrm.policy("dump")] == [8]
                plane.close()

        namespace.call(body)

    def test_a_policy_that_expires(self, namespace: Namespace) -> None:
        """XFRM_MSG_POLEXPIRE, soft and hard."""

        def body() -> None:
            with (
                closing(XfrmConnection([messages.XFRMNLGRP_EXPIRE])) as listening,
                closing(XfrmConnection()) as kernel,
            ):
                kernel.request("policy", "add", **POLICY)
                information = {name: value for name, value in POLICY.items() if name != "tmpl"}
                for hard in (0, 1):
                    kernel.request("policy", "expire", pol=information, hard=hard)
                    (told,) = listening.events()
                    assert (told["event"], told["hard"]) == ("XFRM_MSG_POLEXPIRE", hard)
                    assert (told["pol"]["sel"]["daddr"], told["pol"]["priority"]) == ("10.9.0.0", 5)
                assert kernel.request("policy", "dump") == []

        namespace.call(body)

    def test_the_asynchronous_socket(self, namespace: Namespace) -> None:
        async def body() -> None:
            async with AsyncXfrmSocket() as xfrm:
                (larval,) = [each async for each in await xfrm.sa("alloc_spi", **LARVAL)]
                found = [each async for each in await xfrm.sa("dump")]
                assert [each["id"] for each in found] == [larval["id"]]

        namespace.call(lambda: asyncio.run(body()))

    def test_the_kernel_asks_for_an_sa(self, namespace: Namespace) -> None:
        """XFRM_MSG_ACQUIRE, and the socket that listens is read without waiting."""

        def body() -> None:
            with (
                closing(XfrmConnection([messages.XFRMNLGRP_ACQUIRE])) as listening,
                closing(XfrmConnection()) as kernel,
            ):
                kernel.request("policy", "add", **POLICY)
                assert list(listening.events()) == []
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, suppress(OSError):
                    sender.setblocking(False)
                    sender.sendto(b"anyone?", ("10.9.0.9", 9))
                (asked,) = listening.events()
            assert asked["event"] == "XFRM_MSG_ACQUIRE"
            assert (asked["id"]["daddr"], asked["saddr"]) == ("192.0.2.1", "192.0.2.2")
            assert (asked["sel"]["daddr"], asked["policy"]["priority"]) == ("10.9.0.9", 5)

        with Namespace("other") as other:
            namespace.connect("one", other, "two")
            namespace.add_address("one", "10.9.0.1/24")
            namespace.call(body)

    def test_refusals_are_in_the_kernels_words(self, namespace: Namespace) -> None:
        def body() -> None:
            identity = {"daddr": "192.0.2.1", "spi": 0x1234, "family": socket.AF_INET, "proto": 50}
            with closing(XfrmConnection()) as kernel:
                for ask in (lambda: kernel.request("sa", "get", **identity), lambda: kernel.counted(identity)):
                    with pytest.raises(XfrmRefused, match="sa get: No such process") as caught:
                        ask()
                    assert caught.value.number == 3

        namespace.call(body)

    def test_without_esp_the_probe_says_so_and_nothing_is_left_behind(self, namespace: Namespace) -> None:
        def body() -> None:
            finding = probe([EspSuite.of("aes128-sha256")])
            if finding.usable:
                pytest.skip("this kernel has ESP: what is asked here is what one without does")
            assert finding.missing == ("ESP for IPv4 in the kernel (CONFIG_INET_ESP, module esp4)",)
            assert why_not(TunnelPolicy()) == f"it lacks {finding.missing[0]}"
            with pytest.raises(BackendError, match="the kernel cannot carry ESP: it lacks ESP for IPv4"):
                KernelCarrier().start()
            plane = XfrmDataPlane()
            with pytest.raises(BackendError, match="sa add"):
                plane.install(ue_spec())
            assert plane.installed == ()
            plane.close()
            with XfrmSocket() as xfrm:
                assert xfrm.sa("dump") == xfrm.policy("dump") == ()

        namespace.call(body)

    def test_two_do_not_share_reqids(self, namespace: Namespace) -> None:
        def body() -> None:
            first = XfrmDataPlane()
            with pytest.raises(BackendError, match="another process"):
                XfrmDataPlane()
            other = XfrmDataPlane(reqids=range(REQIDS.stop, REQIDS.stop + 16))
            other.close()
            first.close()
            XfrmDataPlane().close()

        namespace.call(body)

    def test_leftovers_go_and_foreign_policies_stay(self, namespace: Namespace) -> None:
        def body() -> None:
            with XfrmSocket() as xfrm:
                xfrm.policy("add", **POLICY)
                mine = {**POLICY["tmpl"][0], "reqid": REQIDS[5]}  # type: ignore[index]
                xfrm.policy("add", **{**POLICY, "dir": messages.XFRM_POLICY_FWD, "tmpl": [mine]})
                xfrm.sa("alloc_spi", **LARVAL)
                xfrm.sa("alloc_spi", **{**LARVAL, "info": {**LARVAL["info"], "reqid": REQIDS[5]}})  # type: ignore[dict-item]
                plane = XfrmDataPlane()
                assert plane.leftovers == 2
                assert [each["dir"] for each in xfrm.policy("dump")] == [messages.XFRM_POLICY_OUT]
                assert [each["reqid"] for each in xfrm.sa("dump")] == [7]
                plane.close()

        namespace.call(body)

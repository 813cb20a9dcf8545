"""The UE's name servers in a file, and its routes around the gateway."""

from __future__ import annotations

import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from protocols.errors import BackendError
from protocols.selectors import TrafficSelector
from ue.resolver import HEADER, ResolverFile
from ue.routes import configured_routes, granted_routes, without

SERVERS = (ip_address("10.45.0.1"), ip_address("2001:db8:45::1"))
WRITTEN = f"{HEADER}\nnameserver 10.45.0.1\nnameserver 2001:db8:45::1\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "etc" / "resolv.conf"
    file.parent.mkdir()
    file.write_bytes(b"nameserver 192.0.2.53\n\xff")  # whatever it is, it comes back
    file.chmod(0o640)
    return file


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept.json"


def left(file: Path) -> set[str]:
    return {each.name for each in file.parent.iterdir()}


def test_what_was_there_comes_back(file: Path, kept: Path) -> None:
    resolver = ResolverFile(kept)
    resolver.write(file, SERVERS)
    assert file.read_text() == WRITTEN
    assert file.stat().st_mode & 0o777 == 0o640
    ResolverFile(kept).restore()  # another process, after kill -9
    assert file.read_bytes() == b"nameserver 192.0.2.53\n\xff"
    assert file.stat().st_mode & 0o777 == 0o640
    assert not kept.exists()
    resolver.restore()
    assert left(file) == {"resolv.conf"}


def test_a_file_that_was_not_there_goes_again(file: Path, kept: Path) -> None:
    file.unlink()
    resolver = ResolverFile(kept)
    resolver.write(file, SERVERS)
    assert file.read_text() == WRITTEN
    resolver.restore()
    assert left(file) == set()


def test_writing_twice_keeps_the_first(file: Path, kept: Path) -> None:
    resolver = ResolverFile(kept)
    resolver.write(file, SERVERS[:1])
    resolver.write(file, SERVERS)
    assert file.read_text() == WRITTEN
    resolver.restore()
    assert file.read_bytes().startswith(b"nameserver 192.0.2.53")


def test_no_servers_leave_the_file_alone(file: Path, kept: Path) -> None:
    ResolverFile(kept).write(file, ())
    assert file.read_bytes().startswith(b"nameserver 192.0.2.53")
    assert not kept.exists()


def test_somebody_elses_file_stays(file: Path, kept: Path) -> None:
    resolver = ResolverFile(kept)
    resolver.write(file, SERVERS)
    file.write_text("nameserver 198.51.100.1\n")  # DHCP has come by
    resolver.restore()
    assert file.read_text() == "nameserver 198.51.100.1\n"
    assert not kept.exists()


def test_a_link_stays_a_link(file: Path, kept: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    resolver = ResolverFile(kept)
    resolver.write(link, SERVERS)
    assert link.is_symlink()
    assert file.read_text() == WRITTEN
    resolver.restore()
    assert link.is_symlink()


def test_what_cannot_be_written_is_one_sentence_and_changes_nothing(file: Path, kept: Path) -> None:
    with pytest.raises(BackendError, match="name servers: .*No such file"):
        ResolverFile(kept).write(file.parent / "nowhere" / "resolv.conf", SERVERS)
    assert not kept.exists()
    with pytest.raises(BackendError, match="name servers: "):
        ResolverFile(kept.parent / "nowhere" / "kept.json").write(file, SERVERS)
    assert file.read_bytes().startswith(b"nameserver 192.0.2.53")
    kept.write_text(json.dumps({"file": 3}))
    with pytest.raises(BackendError, match=r"kept\.json cannot be read"):
        ResolverFile(kept).restore()
    assert os.listdir(file.parent) == ["resolv.conf"]


GATEWAY, OTHER = ip_address("192.0.2.1"), ip_address("2001:db8::1")


def test_routes_go_around_the_gateway() -> None:
    """0.0.0.0/0 without one address: the 32 networks around it, and nothing of the other version."""
    around = without([ip_network("0.0.0.0/0"), ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")], [GATEWAY, OTHER])
    assert not any(GATEWAY in network or OTHER in network for network in around)
    assert sum(network.num_addresses for network in around if network.version == 4) == 2**32 - 1 + 2**24
    assert sum(network.version == 4 for network in around) == 33
    assert all(ip_address(text) in ip_network("2001:db8::/32") for text in ("2001:db8::2",))
    assert any(ip_address("2001:db8::2") in network for network in around)
    assert without([ip_network("192.0.2.1/32")], [GATEWAY]) == []


def test_granted_networks_that_hold_the_gateway_are_left_out() -> None:
    everything = TrafficSelector.network("0.0.0.0/0")
    inside = TrafficSelector.network("10.0.0.0/9")
    assert granted_routes([everything, inside], [GATEWAY]) == [ip_network("10.0.0.0/9")]
    assert granted_routes([everything], [OTHER]) == [ip_network("0.0.0.0/0")]


def test_what_else_the_gateway_tells_of_is_cut_out_only_where_the_gateway_itself_is() -> None:
    """Beside 0.0.0.0/0 it may be moved to; in a network of its own it is behind the gateway."""
    behind = ip_network("10.77.3.0/24")
    told = ip_address("10.77.3.1")
    assert configured_routes([behind], [GATEWAY], [told]) == [behind]
    around = configured_routes([ip_network("0.0.0.0/0")], [GATEWAY], [told])
    assert not any(address in network for network in around for address in (GATEWAY, told))

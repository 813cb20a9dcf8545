"""What ``swanctl --list-sas --pretty`` prints, read into values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from protocols.path import Endpoint


class Section:
    """One section of ``swanctl --pretty``: values, lists and sections by name, in order."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, str | tuple[str, ...] | Section]] = []

    def add(self, name: str, entry: str | tuple[str, ...] | Section) -> None:
        self._entries.append((name, entry))

    def value(self, name: str, default: str = "") -> str:
        """A value as text."""
        return next((entry for key, entry in self._entries if key == name and isinstance(entry, str)), default)

    def items(self, name: str) -> tuple[str, ...]:
        """A list of values; empty where it is absent."""
        return next((entry for key, entry in self._entries if key == name and isinstance(entry, tuple)), ())

    def section(self, name: str) -> Section:
        """A section; an empty one where it is absent."""
        return next(iter(self.sections(name)), Section())

    def sections(self, name: str) -> tuple[Section, ...]:
        """Every section of that name."""
        return tuple(entry for key, entry in self.all_sections() if key == name)

    def all_sections(self) -> tuple[tuple[str, Section], ...]:
        """Every section with its name."""
        return tuple((key, entry) for key, entry in self._entries if isinstance(entry, Section))

    def __repr__(self) -> str:
        return f"Section({self._entries!r})"


def parse_pretty(text: str) -> Section:
    """Read what ``swanctl --pretty`` prints: ``name {``, ``name = value``, ``name = [`` … ``]``, ``}``."""
    root = Section()
    open_sections = [root]
    lines = iter(text.splitlines())
    for line in lines:
        words = line.strip()
        if words.endswith("{"):
            inner = Section()
            open_sections[-1].add(words[:-1].strip(), inner)
            open_sections.append(inner)
        elif words == "}":
            open_sections.pop()
        elif " = " in words or words.endswith(" ="):
            name, _, value = words.partition(" =")
            if value.strip() == "[":
                open_sections[-1].add(name, tuple(_list_items(lines)))
            else:
                open_sections[-1].add(name, value.strip())
    return root


def _list_items(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.strip() == "]":
            return
        yield line.strip()


@dataclass(frozen=True, kw_only=True)
class ChildStatus:
    """One child SA as charon lists it; counters are octets and packets of the inner traffic."""

    name: str
    state: str
    inbound_spi: str
    outbound_spi: str
    encryption: str
    octets_in: int
    octets_out: int
    packets_in: int
    packets_out: int
    local_selectors: tuple[str, ...]
    remote_selectors: tuple[str, ...]
    mode: str


@dataclass(frozen=True, kw_only=True)
class IkeStatus:
    """One IKE SA as charon lists it."""

    connection: str
    state: str
    spi_initiator: str
    spi_responder: str
    local: Endpoint
    remote: Endpoint
    local_identity: str
    remote_identity: str
    eap_identity: str | None
    inner_addresses: tuple[str, ...]
    """The UE's: those it was given (on a UE), those it was assigned (on a gateway)."""
    children: tuple[ChildStatus, ...]
    everything: Section
    """The whole section, for what has no field of its own."""

    @property
    def established(self) -> bool:
        """The IKE SA and at least one of its child SAs are up."""
        return self.state == "ESTABLISHED" and bool(self.installed)

    @property
    def installed(self) -> tuple[ChildStatus, ...]:
        """The child SAs in use; charon lists replaced ones a while longer."""
        return tuple(child for child in self.children if child.state == "INSTALLED")


def ike_statuses(text: str) -> tuple[IkeStatus, ...]:
    """Every IKE SA in the output, with its child SAs."""
    return tuple(
        _ike_status(connection, section)
        for event in parse_pretty(text).sections("list-sa event")
        for connection, section in event.all_sections()
    )


def _ike_status(connection: str, section: Section) -> IkeStatus:
    return IkeStatus(
        connection=connection,
        state=section.value("state"),
        spi_initiator=section.value("initiator-spi"),
        spi_responder=section.value("responder-spi"),
        local=Endpoint.of(section.value("local-host"), int(section.value("local-port"))),
        remote=Endpoint.of(section.value("remote-host"), int(section.value("remote-port"))),
        local_identity=section.value("local-id"),
        remote_identity=section.value("remote-id"),
        eap_identity=section.value("remote-eap-id") or None,
        inner_addresses=section.items("local-vips") or section.items("remote-vips"),
        children=tuple(_child_status(child) for _, child in section.section("child-sas").all_sections()),
        everything=section,
    )


def _child_status(section: Section) -> ChildStatus:
    return ChildStatus(
        name=section.value("name"),
        state=section.value("state"),
        inbound_spi=section.value("spi-in"),
        outbound_spi=section.value("spi-out"),
        encryption=section.value("encr-alg") + (section.value("encr-keysize") and f"-{section.value('encr-keysize')}"),
        octets_in=int(section.value("bytes-in", "0")),
        octets_out=int(section.value("bytes-out", "0")),
        packets_in=int(section.value("packets-in", "0")),
        packets_out=int(section.value("packets-out", "0")),
        local_selectors=section.items("local-ts"),
        remote_selectors=section.items("remote-ts"),
        mode=section.value("mode"),
    )

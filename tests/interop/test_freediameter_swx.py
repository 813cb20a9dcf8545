"""Two freeDiameter relays between our AAA server's process and our HSS's: SWx through them, and one dies.

::

                  ┌── dra-one (priority 0) ──┐
    aaa serve ────┤                          ├──── hss serve
                  └── dra-two (priority 1) ──┘
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from aaa.subscribers import Subscriber, SubscriberDatabase
from aaa.subscribers.laboratory import laboratory_subscriber
from lab.namespaces import Namespace
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue, Kind
from tests.harness.aka_user import aka_user
from tests.nodes.test_swx import HSS, records
from tests.peers.aaa_node import REALM, AaaProcess, Gateway
from tests.peers.certificates import CertificateAuthority
from tests.peers.freediameter import PORT, FreeDiameter, require_freediameter
from tests.peers.namespaces import require_namespaces
from tests.peers.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peer]

NODES = {"one": "192.0.2.1", "two": "198.51.100.1"}
RELAYS = {"one": "192.0.2.2", "two": "198.51.100.2"}
HOSTS = {name: f"dra-{name}.{REALM}" for name in RELAYS}
LONG = 20.0
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
MANY = 20
USERS = tuple(laboratory_subscriber(number) for number in range(1, MANY + 5))


class Network:
    """AAA server, HSS and two relays, each relay in a namespace of its own."""

    def __init__(self, directory: Path, authority: CertificateAuthority, stack: ExitStack) -> None:
        self._directory = directory
        self._authority = authority
        self._stack = stack
        self._nodes = stack.enter_context(Namespace("nodes"))
        self._relays = {name: stack.enter_context(Namespace(name)) for name in RELAYS}
        for name, relay in self._relays.items():
            self._nodes.connect(name, relay, "nodes")
            self._nodes.add_address(name, f"{NODES[name]}/24")
            relay.add_address("nodes", f"{RELAYS[name]}/24")
        # every vector is one step of the stored SEQ; who waits for the database waits long
        self.hss = AaaProcess(
            directory,
            role="hss",
            name="hss",
            host=HSS,
            listen=", address: 0.0.0.0",
            options="?timeout=30",
            extra="hss: {sequence_block: 1, poll_interval: null}\n",
        )
        self.hss.provision(*USERS)
        self._start(self.hss)
        with ThreadPoolExecutor(len(RELAYS)) as threads:
            self.relays = dict(zip(RELAYS, threads.map(self.relay, RELAYS), strict=True))
        peers = ", ".join(
            f"{{host: {HOSTS[name]}, address: {RELAYS[name]}, port: {PORT}, priority: {priority}}}"
            for priority, name in enumerate(RELAYS)
        )
        self.aaa = AaaProcess(directory, role="aaa", extra=f"hss: {{timeout: 20, peers: [{peers}]}}\n")
        self._start(self.aaa)
        self.in_service(*RELAYS)

    def _start(self, process: AaaProcess) -> None:
        self._stack.push(process.__exit__)
        self._nodes.call(process.start)

    def relay(self, name: str) -> FreeDiameter:
        """The relay ``name``, started."""
        relay = FreeDiameter(
            self._relays[name],
            self._directory,
            address=RELAYS[name],
            server_host=HSS,
            server_address=NODES[name],
            server_port=self.hss.port,
            authority=self._authority,
            host=HOSTS[name],
            realm=REALM,
        )
        self._stack.callback(relay.kill)
        return relay

    def in_service(self, *names: str) -> None:
        """Wait until both ends have these relays, and no other."""
        wanted = {HOSTS[name] for name in names}
        for process in (self.hss, self.aaa):
            wait_until(
                lambda process=process: _peers(process) == wanted, what=f"relays of {process.name}", timeout=LONG
            )

    def run(self, story: Callable[[Gateway], Awaitable[None]]) -> None:
        """Tell ``story`` to a gateway that has the AAA server."""

        async def told() -> None:
            async with asyncio.timeout(3 * LONG), Gateway.connected(self.aaa.port) as gateway:
                await story(gateway)

        self._nodes.call(lambda: asyncio.run(told()))

    def arrived(self, at: AaaProcess, name: str) -> list[tuple[str, bool]]:
        """The relay and the T flag of every such request that a process got."""
        return [
            (str(record.body["peer"]), record.body["retransmission"] is True)
            for record in records(at)
            if record.kind is Kind.MESSAGE and record.body["name"] == name and record.body["direction"] == "in"
        ]

    def sequences(self) -> list[int]:
        """SEQ of the users, as the HSS has stored it."""
        with SubscriberDatabase(self.hss.database_url) as database:
            found = database.get_many(tuple(user.imsi for user in USERS))
        return [found[user.imsi].sequence for user in USERS]


def _peers(process: AaaProcess) -> set[str]:
    """The relays that the process has in service."""
    return {str(peer["host"]) for peer in _relays(process) if peer["in_service"]}


def _relays(process: AaaProcess) -> list[dict[str, JsonValue]]:
    """The relays as the process shows them."""
    peers = process.call("peers.list")["peers"]
    assert isinstance(peers, list)
    return [peer for peer in peers if isinstance(peer, dict) and peer["host"] in HOSTS.values()]


@pytest.fixture
def network(tmp_path: Path, authority: CertificateAuthority) -> Iterator[Network]:
    """All of them, connected."""
    require_freediameter()
    require_namespaces()
    with ExitStack() as stack:
        network = Network(tmp_path, authority, stack)
        yield network
    assert "Traceback" not in network.aaa.log() + network.hss.log()


@contextmanager
def held_up(database: Path) -> Iterator[None]:
    """Somebody else's transaction: what the HSS is asked, it answers when that is over."""
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_a_relay_of_swx_dies_with_attaches_in_work_and_comes_back(network: Network, tmp_path: Path) -> None:
    one, two = HOSTS["one"], HOSTS["two"]
    phones = [aka_user(user) for user in USERS]

    async def attach(gateway: Gateway, numbers: range) -> None:
        rounds = await asyncio.gather(*(gateway.attach(phones[number]) for number in numbers))
        assert [answers[-1].result for answers in rounds] == [SUCCESS] * len(numbers)
        assert [answers[-1].master_session_key for answers in rounds] == [phones[number].msk for number in numbers]

    async def push(method: str, user: Subscriber) -> None:
        answer = await ControlClient(network.hss.control).call(method, imsi=str(user.imsi))
        assert isinstance(answer, dict)
        assert answer["success"] is True, answer

    async def asked(name: str) -> list[tuple[str, bool]]:
        return await asyncio.to_thread(network.arrived, network.hss, name)

    async def told(name: str) -> list[str]:
        """The relays through which the AAA server was told: routed by Destination-Host."""
        return [relay for relay, _ in await asyncio.to_thread(network.arrived, network.aaa, name)]

    async def until(done: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(wait_until, lambda: done() or None, what=what, timeout=LONG)

    async def story(gateway: Gateway) -> None:
        # MAR, SAR --> dra-one --> HSS
        await attach(gateway, range(MANY, MANY + 2))
        assert await asked("MAR") == await asked("SAR") == [(one, False)] * 2
        # The vectors of many are asked for, all through the first relay, when that dies
        with held_up(tmp_path / "aaa.db"):
            many = asyncio.ensure_future(attach(gateway, range(MANY)))
            await until(lambda: len(network.arrived(network.hss, "MAR")) == 2 + MANY, "MARs through the first relay")
            await asyncio.to_thread(network.relays["one"].kill)
            await until(
                lambda: len(network.arrived(network.hss, "MAR")) == 2 + 2 * MANY, "MARs through the second relay"
            )
        await many
        # They came again with the T flag, and each was handled once: one SQN each was used
        assert (await asked("MAR"))[2:] == [(one, False)] * MANY + [(two, True)] * MANY
        assert (await asked("SAR"))[2:] == [(two, False)] * MANY
        assert network.sequences() == [1] * (MANY + 2) + [0] * (len(USERS) - MANY - 2)
        # PPR and RTR find the way that is left
        await push("registrations.push-profile", USERS[0])
        await push("registrations.terminate", USERS[0])
        assert (await told("PPR"), await told("RTR")) == ([two], [two])
        # Fail-back
        network.relays["one"] = await asyncio.to_thread(network.relay, "one")
        await asyncio.to_thread(network.in_service, *RELAYS)
        await attach(gateway, range(MANY + 2, MANY + 4))
        assert (await asked("MAR"))[-2:] == (await asked("SAR"))[-2:] == [(one, False)] * 2
        # The HSS shares what it pushes among both
        for user in USERS[1:9]:
            await push("registrations.push-profile", user)
        for user in USERS[1:9]:
            await push("registrations.terminate", user)
        assert set(await told("PPR")) == set(await told("RTR")) == {one, two}

    network.run(story)
    failovers = {str(peer["host"]): peer["failovers"] for peer in _relays(network.aaa)}
    assert failovers == {one: MANY, two: 0}

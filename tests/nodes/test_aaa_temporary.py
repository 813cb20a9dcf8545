"""Temporary identities of the AAA node: the file of their keys, contexts in the database, a restart in between."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aaa.command_line import application
from aaa.config import AaaConfiguration, Role
from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import laboratory_subscriber
from aaa.temporary import KeyFile, TemporaryIdentities
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.swm import Dea
from protocols.eap.aka.temporary import KeyRing, ReauthenticationContext
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import parse
from protocols.io.control import call_sync
from protocols.secret import Secret
from tests.harness.aka_user import AkaUser, aka_user
from tests.harness.refusals import without_line
from tests.peers.aaa_node import AaaProcess, Gateway
from tests.peers.processes import wait_until

USER, OTHER = laboratory_subscriber(1), laboratory_subscriber(2)
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
DAY = 86_400.0


class Clock:
    """Wall time by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def key_file(path: Path, clock: Clock, *, kept: int = 1) -> KeyFile:
    """The keys in ``path``, each for a day."""
    return KeyFile(path, interval=DAY, kept=kept, entropy=SeededEntropy(str(clock.now)), wall=clock)


# --- the file of the keys


def test_keys_are_made_once_kept_and_replaced_in_their_time(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys.json"
    first = key_file(path, clock).ring
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.keys[0].key.reveal().hex() in path.read_text()
    clock.now += DAY - 1
    again = key_file(path, clock)
    assert again.ring == first
    clock.now += 1
    rolled = again.ring
    assert [key.index for key in rolled.keys] == [1, 0]
    assert rolled.keys[1] == first.keys[0]
    assert key_file(path, clock).ring == rolled
    assert again.roll() == 2
    assert [key.index for key in key_file(path, clock).ring.keys] == [2, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "\x00",
        "[" * 100_000,
        '{"created": 1, "keys": []}',
        '{"created": 1, "keys": [{"index": 0, "key": "00"}]}',
        f'{{"created": 1, "keys": [{{"index": 0.0, "key": "{"00" * 32}"}}]}}',
        f'{{"created": NaN, "keys": [{{"index": 0, "key": "{"00" * 32}"}}]}}',
        f'{{"created": 1, "keys": [{{"index": 64, "key": "{"00" * 32}"}}]}}',
    ],
)
def test_a_file_that_holds_no_keys_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"eap\.temporary\.key_file: got 'a file that holds no keys'"):
        key_file(path, Clock())
    assert path.read_text() == text


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key_file(path, Clock())
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"key_file: got 'mode 0640', expected .*\(chmod 600\)"):
        key_file(path, Clock())


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        key_file(tmp_path / "nowhere" / "keys.json", Clock())


def test_a_key_that_cannot_be_written_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    clock, directory = Clock(), tmp_path / "keys"
    directory.mkdir()
    keys = key_file(directory / "keys.json", clock)
    ring = keys.ring
    (directory / "keys.json").unlink()
    directory.rmdir()
    with pytest.raises(BackendError, match=r"keys\.json cannot be written"):
        keys.roll()
    clock.now += DAY
    assert keys.ring == ring


# --- contexts in the database


@pytest.fixture
def database(tmp_path: Path) -> SubscriberDatabase:
    found = SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}")
    found.migrate()
    return found


CONTEXT = ReauthenticationContext(
    username="4Aone",
    method=EapType.AKA,
    imsi=USER.imsi,
    permanent_identity="0001010000000001@example.org",
    pseudonym="2Ax",
    k_encr=Secret(bytes(16)),
    k_aut=Secret(bytes(16)),
    k_re=Secret(bytes(20)),
    counter=1,
)


def test_a_context_is_kept_sealed_and_handed_out_once(tmp_path: Path, database: SubscriberDatabase) -> None:
    clock = Clock()
    identities = TemporaryIdentities(
        keys=key_file(tmp_path / "keys.json", clock), contexts=database.contexts, lifetime=3 * DAY, wall=clock
    )
    identities.keep(CONTEXT)
    assert identities.take(USER.imsi, "4Atwo") is None
    assert identities.take(OTHER.imsi, "4Aone") is None
    found = identities.take(USER.imsi, "4Aone")
    assert found is not None
    assert found.established == clock.now
    assert identities.take(USER.imsi, "4Aone") is None
    # the next one of the same full authentication is as old as that, and takes the place of the last
    clock.now += DAY
    identities.keep(found.following("4Athree"))
    clock.now += 2 * DAY
    third = identities.take(USER.imsi, "4Athree")
    assert third is not None
    assert third.counter == 2
    identities.keep(third)
    clock.now += 1
    assert identities.take(USER.imsi, "4Athree") is None  # too old


def test_a_context_under_a_key_that_is_gone_is_none(tmp_path: Path, database: SubscriberDatabase) -> None:
    database.contexts.keep(USER.imsi, "4Aone", CONTEXT.seal(KeyRing.of(SeededEntropy("gone"))))
    clock = Clock()
    identities = TemporaryIdentities(
        keys=key_file(tmp_path / "keys.json", clock), contexts=database.contexts, lifetime=DAY, wall=clock
    )
    assert identities.take(USER.imsi, "4Aone") is None


# --- a node


def attach(node: AaaProcess, user: AkaUser) -> list[Dea]:
    async def run() -> list[Dea]:
        async with Gateway.connected(node.port) as gateway:
            return await gateway.attach(user)

    return asyncio.run(run())


def test_fast_reauthentication_and_pseudonym_survive_a_restart_and_a_new_key(tmp_path: Path) -> None:
    temporary = "{key_file: eap-keys.json, rollovers_kept: 1}"
    node = AaaProcess(tmp_path, extra=f"eap: {{temporary: {temporary}, reauthentications: 2}}\n")
    node.provision(USER)
    command = ["roll-eap-key", "-c", str(node.configuration)]
    with node:
        first = aka_user(USER, nai=f"6{aka_user(USER).nai[1:]}")
        assert [answer.result for answer in attach(node, first)] == [MULTI_ROUND, SUCCESS]
        assert node.stop() == 0
        node.start()
        second = first.returning()
        assert second.nai.startswith("8A")
        assert [answer.result for answer in attach(node, second)] == [MULTI_ROUND, SUCCESS]
        assert second.challenges == 0
        result = CliRunner().invoke(application, command)
        assert result.output == "temporary identities are made under key 1\n"
        third = second.returning()
        assert third.nai.startswith("8A")
        assert [answer.result for answer in attach(node, third)] == [MULTI_ROUND, SUCCESS]
        assert third.challenges == 0
        # the last of two: from here the pseudonym of the first authentication, made under the older key
        fourth = third.returning()
        assert fourth.nai.startswith("7A")
        assert [answer.result for answer in attach(node, fourth)] == [MULTI_ROUND, SUCCESS]
        assert fourth.challenges == 1
        assert fourth.returning().nai.startswith("8B")
        # and a key that is gone leaves the permanent identity
        CliRunner().invoke(application, command)
        CliRunner().invoke(application, command)
        fifth = fourth.returning()
        assert [answer.result for answer in attach(node, fifth)] == [MULTI_ROUND, MULTI_ROUND, MULTI_ROUND, SUCCESS]
    assert (tmp_path / "eap-keys.json").stat().st_mode & 0o777 == 0o600
    keys = json.loads((tmp_path / "eap-keys.json").read_text())["keys"]
    assert [key["index"] for key in keys] == [3, 2]


def test_an_aaa_server_alone_comes_back_with_its_own_database_and_no_vector(tmp_path: Path) -> None:
    host = "hss.epc.mnc001.mcc001.3gppnetwork.org"
    hss = AaaProcess(tmp_path, role="hss", name="hss", host=host)
    hss.provision(USER)
    with hss:
        peers = f"hss: {{peers: [{{host: {host}, address: 127.0.0.1, port: {hss.port}}}]}}\n"
        own = "database: sqlite:///contexts.db\neap: {temporary: {key_file: eap-keys.json}}\n"
        with AaaProcess(tmp_path, role="aaa", extra=peers + own) as node:
            # DER --> MAR --> (EAP-AKA': CK', IK'), SAR --> ; DEA -->
            first = aka_user(USER, nai=f"6{aka_user(USER).nai[1:]}")
            attach_once_swx_is_open(node, first)
            assert node.stop() == 0
            node.start()
            second = first.returning()
            assert second.nai.startswith("8A")
            attach_once_swx_is_open(node, second)
            assert second.challenges == 0
    assert (tmp_path / "contexts.db").exists()


def attach_once_swx_is_open(node: AaaProcess, user: AkaUser) -> None:
    """Attach, which must succeed, when the AAA server has its HSS."""

    def opened() -> bool:
        peers = call_sync(node.control, "peers.list")
        return '"state": "Open"' in json.dumps(peers)

    wait_until(opened, what="SWx", timeout=10.0, log=node.log)
    assert [answer.result for answer in attach(node, user)] == [MULTI_ROUND, SUCCESS]


def test_no_key_to_roll_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(application, ["roll-eap-key", "--control", str(tmp_path / "aaa.sock")])
    assert result.exit_code == 1
    assert "no node is running there" in result.stderr
    assert CliRunner().invoke(application, ["roll-eap-key"]).exit_code == 2


# --- the section


REFUSALS = [
    ("methods: []", "eap.methods: got an empty list, expected a length of at least 1"),
    ("methods: [sim]", "eap.methods.0: got 'sim', expected 'aka' or 'aka-prime'"),
    ("methods: [aka, aka]", "eap.methods: got a list, expected each value once"),
    ("identity_chooses: perhaps", "eap.identity_chooses: got 'perhaps', expected true or false"),
    (
        "identity_request: all",
        "eap.identity_request: got 'all', expected 'automatic', 'any', 'full-authentication' or 'permanent'",
    ),
    ("reauthentications: 65536", "eap.reauthentications: got 65536, expected at most 65535"),
    ("reauthentications: 0", "eap.reauthentications: got 0, expected at least 1"),
    ("resynchronisations: -1", "eap.resynchronisations: got -1, expected at least 0"),
    ('network_name: ""', "eap.network_name: got '', expected an access network identity such as WLAN"),
    (
        'network_name: "5G:x"',
        "eap.network_name: got '5G:x', expected an access network that is not of 5G, such as WLAN",
    ),
    ("kdfs: [2]", "eap.kdfs: got a list, expected 1 among them, the only function that this server computes"),
    ("kdfs: [1, 65536]", "eap.kdfs.1: got 65536, expected at most 65535"),
    (
        "rules: [{imsi: 00101x, pseudonyms: false}]",
        "eap.rules.0.imsi: got '00101x', expected the first digits of IMSIs, or a range such as"
        " 001010000000001-001010000000099",
    ),
    ("rules: [{apn: two words, bidding: false}]", "eap.rules.0.apn: got 'two words', expected an APN such as internet"),
    ("rules: [{apn: ims}]", "eap.rules.0: got a mapping, expected at least one option, such as methods"),
    ("separation_bit: 7", "eap.separation_bit: got 7, expected true or false"),
    ("temporary: {}", "eap.temporary.key_file: got nothing, expected a value"),
    ("temporary: {key_file: k, rollover_interval: 0}", "eap.temporary.rollover_interval: got 0, expected more than 0"),
    ("temporary: {key_file: k, rollovers_kept: 63}", "eap.temporary.rollovers_kept: got 63, expected at most 62"),
    ("temporary: {key_file: k, lifetime: -1}", "eap.temporary.lifetime: got -1, expected more than 0"),
]
BARE = "identity: {host: aaa.test, realm: test}\ndatabase: sqlite:///aaa.db\ncontrol: aaa.sock\n"


@pytest.mark.parametrize(("yaml", "line"), REFUSALS)
def test_bad_values_are_refused_in_one_line(yaml: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(f"{BARE}eap: {{{yaml}}}\n", AaaConfiguration, file="aaa.yaml")
    assert without_line(refused.value).removeprefix("aaa.yaml: ") == line


def test_rules_inherit_what_they_do_not_say() -> None:
    text = (
        f"{BARE}eap:\n  methods: [aka-prime]\n  checkcode: false\n"
        "  rules:\n  - {imsi: 901700000000001, apn: IMS, methods: [aka, aka-prime], network_name: HRPD}\n"
    )
    section = parse(text, AaaConfiguration, file="aaa.yaml").eap
    (rule,) = section.policy()
    assert rule.apn == "ims"
    assert rule.imsis is not None
    assert rule.options.methods == (EapType.AKA, EapType.AKA_PRIME)
    assert rule.options.network_name == b"HRPD"
    assert not rule.options.checkcode
    assert section.options().methods == (EapType.AKA_PRIME,)


def test_an_aaa_server_alone_keeps_contexts_in_a_database_of_its_own() -> None:
    text = (
        "identity: {host: aaa.test, realm: test}\ncontrol: aaa.sock\neap: {temporary: {key_file: k}}\n"
        "hss: {peers: [{host: hss.test, address: 127.0.0.1}]}\n"
    )
    configuration = parse(text, AaaConfiguration, file="aaa.yaml")
    with pytest.raises(ConfigurationError, match=r"database: .*where eap\.temporary keeps"):
        configuration.check(Role.AAA, "aaa.yaml")

"""A UE whose USIM is behind an HTTP(S) server: each published shape of one, at real nodes; and servers of nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.sqn import SqnWindow, compose
from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.algorithms.vector import generate_vector
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import load, shown
from protocols.secret import Secret
from tests.nodes.test_modem import FUNCTIONS
from tests.nodes.test_ue_node import GATEWAY, Ue, section, session
from tests.peers.aaa_node import AaaProcess, free_port
from tests.peers.certificates import CertificateAuthority
from tests.peers.epdg_node import CORE_HOST, EpdgProcess
from tests.peers.processes import without_process
from tests.peers.usim_server import (
    Served,
    Shape,
    android,
    certified,
    nonsense,
    self_signed,
    serve,
    simcard_server,
    version_1,
    version_1_modem,
    version_3,
    version_3_short,
)
from ue.command_line import application
from ue.config import UeConfiguration
from ue.profile import identified, usim
from ue.usim import MemorySqnStore, SoftwareUsim
from ue.usim_server import imsi, verdict

USER = laboratory_subscriber(1)
RAND = bytes(range(16))
VECTOR = generate_vector(FUNCTIONS, rand=RAND, sqn=compose(8, 1))
SHAPES = [version_1, version_1_modem, version_3, version_3_short, android, simcard_server]
TOKEN = "c2VjcmV0LW9mLXRlc3Rz.x-_~=="
HIGHER = itertools.count(1 << 20, 1 << 20)  # sequence numbers, each above all that the HSS has given out


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER)
    with node:
        yield node


@pytest.fixture(scope="module")
def epdg(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    with EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port, address=GATEWAY) as node:
        yield node


def card(window: SqnWindow | None = None, opc: Secret | None = USER.opc) -> SoftwareUsim:
    return SoftwareUsim(imsi=USER.imsi, k=USER.k, opc=opc, store=MemorySqnStore(window))


def card_ahead() -> SoftwareUsim:
    """One that has been used elsewhere."""
    return card(SqnWindow((next(HIGHER),) * 32))


def card_of_another_network() -> SoftwareUsim:
    return card(opc=Secret(bytes(16)))


def ue_by(directory: Path, epdg: EpdgProcess, **server: object) -> Ue:
    """A UE that has its USIM there, and its IMSI."""

    def change(values: dict[str, object]) -> None:
        del values["imsi"]
        values["usim"] = {"server": server}
        values["eap"] = {"methods": ["aka"], "reauthentication": False, "pseudonyms": False}

    return Ue(directory, epdg.authority, change=change)


def attach(ue: Ue) -> subprocess.CompletedProcess[str]:
    """In the foreground; the proxies of the environment are none."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    words = [sys.executable, "-m", "ue", "attach", "-c", str(ue.configuration), "--ping", CORE_HOST, "--count", "1"]
    environment = {**os.environ, **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), nowhere)}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False, cwd=ue.directory, env=environment
    )


def refused_at_once(ue: Ue) -> subprocess.CompletedProcess[str]:
    return without_process(application, "attach", "-c", ue.configuration)


def configuration(directory: Path, **server: object) -> UeConfiguration:
    values = {
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"server": server},
        "apn": "internet",
        "gateway": {"address": "192.0.2.1", "ca": "gateway.crt"},
        "accesses": {"wifi": {"address": "192.0.2.2"}},
        "control": "ue.sock",
    }
    file = directory / "ue.yaml"
    file.write_text(yaml.safe_dump(values))
    return load(file, UeConfiguration)


def asked(directory: Path, autn: bytes = VECTOR.autn, **server: object) -> UsimResult:
    """The verdict to a challenge, without asking who it is."""
    found = usim(configuration(directory, **server))
    assert found is not None

    async def ask() -> UsimResult:
        verdict = found.authenticate(RAND, autn)
        assert not isinstance(verdict, UsimSuccess | UsimSynchronisationFailure | UsimReject)
        return await verdict

    return asyncio.run(ask())


def refusal(directory: Path, **server: object) -> str:
    """The one line of a failure, in which nothing is of the challenge."""
    with pytest.raises(BackendError) as refused:
        asked(directory, **server)
    line = str(refused.value)
    assert line.startswith(f"usim.server {server['url']}: ")
    assert line.isprintable()
    assert not any(each.hex() in line.lower() for each in (RAND, VECTOR.autn, VECTOR.xres, VECTOR.ck, VECTOR.ik))
    return line.removeprefix(f"usim.server {server['url']}: ")


# --- at real nodes


@pytest.mark.parametrize("shape", [version_1, android])
def test_a_ue_attaches_by_a_server_that_also_says_who_it_is(shape: Shape, epdg: EpdgProcess, tmp_path: Path) -> None:
    with serve(Served(card(), shape)) as served:
        done = attach(ue_by(tmp_path, epdg, url=f"http://127.0.0.1:{served.port}/sim?of=tests"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 sent, 1 received" in done.stdout
    assert [(path, query["of"], query["type"]) for path, query in served.asked] == [
        ("/sim", "tests", "imsi"),
        ("/sim", "tests", "rand-autn"),
    ]


def test_over_tls_with_a_token_and_nothing_of_it_in_the_log(epdg: EpdgProcess, tmp_path: Path) -> None:
    authority = CertificateAuthority("SIM authority")
    (tmp_path / "ca.crt").write_bytes(authority.credentials.certificate_pem)
    tls = certified(tmp_path, authority.issue(names=["localhost"]))
    with serve(Served(card(), token=TOKEN), tls) as served:
        ue = ue_by(tmp_path, epdg, url=f"https://localhost:{served.port}", ca="ca.crt", token=TOKEN)
        with ue.node("run", "--verbose"):
            ue.call("ue.attach")
            held = ue.call("node.configuration")
            assert section(session(ue), "eap")["kind"] == "full"
            assert ue.stop() == 0
    log = ue.log.read_text().lower()
    (said,) = [json.loads(text) for text in served.said]
    _, query = served.asked[1]
    secrets = (TOKEN, said["res"], said["ck"], said["ik"], query["rand"], query["autn"])
    assert not [each for each in secrets if each.lower() in log]
    assert TOKEN not in json.dumps(held)


@pytest.mark.parametrize("shape", [version_3, android])
def test_a_synchronisation_failure_leads_to_another_challenge(shape: Shape, epdg: EpdgProcess, tmp_path: Path) -> None:
    with serve(Served(card_ahead(), shape)) as served:
        done = attach(ue_by(tmp_path, epdg, url=f"http://127.0.0.1:{served.port}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Synchronization-Failure" in done.stdout
    assert served.challenges == 2


FAILURES: dict[str, tuple[Callable[[], SoftwareUsim], Shape, str]] = {
    "refused": (card_of_another_network, version_3_short, "the card behind usim.server refuses"),
    "no verdict": (card_ahead, version_1, "a synchronisation failure without all of AUTS"),
}


@pytest.mark.parametrize(("made", "shape", "words"), FAILURES.values(), ids=FAILURES)
def test_an_attach_ends_as_with_a_card_that_fails(
    made: Callable[[], SoftwareUsim], shape: Shape, words: str, epdg: EpdgProcess, tmp_path: Path
) -> None:
    with serve(Served(made(), shape)) as served:
        done = attach(ue_by(tmp_path, epdg, url=f"http://127.0.0.1:{served.port}"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert served.challenges == 1


def test_a_server_that_is_away_or_of_somebody_else_is_one_line_at_the_start(epdg: EpdgProcess, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = refused_at_once(ue_by(tmp_path, epdg, url=f"{url}/?key=of-the-proxy"))
    assert (done.returncode, done.stderr) == (1, f"usim.server {url}: Connection refused\n")
    with serve(Served(card(), imsi="262010000000001")) as served:
        done = refused_at_once(ue_by(tmp_path, epdg, url=f"http://127.0.0.1:{served.port}"))
    line = "the card of usim.server is of IMSI 262010000000001, which is not of the PLMN 001-01 (plmn)\n"
    assert (done.returncode, done.stderr) == (1, line)
    done = refused_at_once(ue_by(tmp_path, epdg, url="https://127.0.0.1", ca="missing.pem"))
    assert done.returncode == 2
    assert "missing.pem: usim.server.ca: got 'No such file or directory', expected" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- what comes


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_says_what_the_card_says(shape: Shape, tmp_path: Path) -> None:
    with serve(Served(card(), shape)) as served:
        url = f"http://127.0.0.1:{served.port}"
        known = identified(configuration(tmp_path, url=url))
        assert known.imsi == str(USER.imsi)
        assert asked(tmp_path, url=url) == UsimSuccess(res=VECTOR.xres, ck=VECTOR.ck, ik=VECTOR.ik)
        if shape not in (version_1, version_1_modem):
            again = asked(tmp_path, url=url)
            assert isinstance(again, UsimSynchronisationFailure)
            assert again == served.usim.authenticate(RAND, VECTOR.autn)


@pytest.mark.parametrize("shape", [version_1, version_3_short])
def test_three_nulls_are_a_refusal(shape: Shape, tmp_path: Path) -> None:
    with serve(Served(card(), shape)) as served:
        verdict = asked(tmp_path, bytes(16), url=f"http://127.0.0.1:{served.port}")
    assert verdict == UsimReject("the card behind usim.server refuses the challenge")


REFUSALS: list[tuple[Shape, str]] = [
    (version_3, "it closes the connection without an answer"),
    (version_1_modem, "status 501 (that may be a challenge that the card has refused)"),
    (simcard_server, "status 502 (that may be a challenge that the card has refused)"),
    (android, "its answer is no JSON object"),
]


@pytest.mark.parametrize(("shape", "words"), REFUSALS)
def test_others_say_less_of_a_refusal(shape: Shape, words: str, tmp_path: Path) -> None:
    with serve(Served(card_of_another_network(), shape)) as served:
        assert refusal(tmp_path, url=f"http://127.0.0.1:{served.port}") == words


def test_a_token_that_is_not_taken_is_named(tmp_path: Path) -> None:
    with serve(Served(card(), token=TOKEN)) as served:
        url = f"http://127.0.0.1:{served.port}"
        assert refusal(tmp_path, url=url, token="another") == "status 401 (is usim.server.token right?)"
        assert asked(tmp_path, url=url, token=TOKEN) == UsimSuccess(res=VECTOR.xres, ck=VECTOR.ck, ik=VECTOR.ik)


def of(**values: object) -> bytes:
    return f"HTTP/1.0 200 OK\r\n\r\n{json.dumps(values)}".encode()


KEY, LONG = "0F" * 16, "0F" * 17
NO_JSON, NO_HTTP = "its answer is no JSON object", "its answer is cut off, or no HTTP"
LENGTHS = "res, ck and ik of {}, {} and {} octets, expected 4 to 16, 16 and 16"
HEXADECIMAL = "is no text of hexadecimal digits, two for each octet"
ANSWERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it closes the connection without an answer"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", NO_HTTP),
    "the challenge for a status": (b"HTTP/1.0 %s\r\n\r\n" % RAND.hex().encode(), NO_HTTP),
    "no end of headers": (b"HTTP/1.0 200 OK\r\n" + b"A: b\r\n" * 200, NO_HTTP),
    "a header without an end": (b"HTTP/1.0 200 OK\r\nA: " + b"b" * 200_000, "an answer of more than 8192 octets"),
    "nothing but headers": (b"HTTP/1.0 200 OK\r\n\r\n", NO_JSON),
    "less than it says": (b"HTTP/1.0 200 OK\r\nContent-Length: 4000\r\n\r\n{", NO_JSON),
    "more than there is": (b"HTTP/1.0 200 OK\r\nContent-Length: 1000000000000\r\n\r\n{", NO_JSON),
    "a chunk cut off": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", NO_HTTP),
    "a chunk of less than nothing": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 200_000,
        "an answer of more than 8192 octets",
    ),
    "no chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{", NO_HTTP),
    "text": (b"HTTP/1.0 200 OK\r\n\r\nno command", NO_JSON),
    "no text": (b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe\x00\xd8", NO_JSON),
    "a list": (b"HTTP/1.0 200 OK\r\n\r\n[]", NO_JSON),
    "depth": (b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 8000, NO_JSON),
    "long": (b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 8193, "an answer of more than 8192 octets"),
    "huge": (b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 10_000_000, "an answer of more than 8192 octets"),
    "404": (b"HTTP/1.0 404 Not Found\r\n\r\n" + RAND.hex().encode(), "status 404"),
    "501": (
        b'HTTP/1.0 501 Error\r\n\r\n{"error": true, "error_code": 501, "error_msg": "Error"}',
        "status 501 (that may be a challenge that the card has refused)",
    ),
    "an error that is fine": (of(error=True, error_code=501, error_msg="Error"), "it says that it has failed"),
    "an empty object": (of(), LENGTHS.format(0, 0, 0)),
    "empty text": (of(res="", ck="", ik=""), LENGTHS.format(0, 0, 0)),
    "only RES": (of(res="0F" * 8), LENGTHS.format(8, 0, 0)),
    "no IK": (of(res="0F" * 8, ck=KEY, ik=None), LENGTHS.format(8, 16, 0)),
    "short RES": (of(res="0F" * 3, ck=KEY, ik=KEY), LENGTHS.format(3, 16, 16)),
    "long RES": (of(res=LONG, ck=KEY, ik=KEY), LENGTHS.format(17, 16, 16)),
    "long CK": (of(res="0F" * 8, ck=LONG, ik=KEY), LENGTHS.format(8, 17, 16)),
    "short IK": (of(res="0F" * 8, ck=KEY, ik="0F" * 15), LENGTHS.format(8, 16, 15)),
    "half an octet": (of(res="0F" * 8 + "0", ck=KEY, ik=KEY), f"res {HEXADECIMAL}"),
    "no hexadecimal": (of(res="0F" * 8, ck="key", ik=KEY), f"ck {HEXADECIMAL}"),
    "digits of elsewhere": (of(res="0F" * 8, ck=KEY, ik="０" * 32), f"ik {HEXADECIMAL}"),
    "a number": (of(res=12345678, ck=KEY, ik=KEY), f"res {HEXADECIMAL}"),
    "octets as a list": (of(res=[1, 2, 3, 4], ck=KEY, ik=KEY), f"res {HEXADECIMAL}"),
    "short AUTS": (of(auts="0F" * 13), "auts of 13 octets, expected 14"),
    "long AUTS": (of(auts="0F" * 15, res=None), "auts of 15 octets, expected 14"),
    "AUTS of nothing": (of(auts={}), f"auts {HEXADECIMAL}"),
    "what versions 1 and 2 make of AUTS": (
        of(res="0F" * 8, ck="0F" * 5, ik=""),
        "a synchronisation failure without all of AUTS, as versions 1 and 2 of USIM-https-server have it; version 3 ",
    ),
}


@pytest.mark.parametrize(("answer", "words"), ANSWERS.values(), ids=ANSWERS)
def test_nonsense_is_refused_in_one_line(answer: bytes, words: str, tmp_path: Path) -> None:
    with nonsense(lambda peer, _: peer.sendall(answer)) as port:
        assert refusal(tmp_path, url=f"http://127.0.0.1:{port}").startswith(words)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_has_its_time_as_a_whole(said: bytes, tmp_path: Path) -> None:
    def drip(peer: socket.socket, over: threading.Event) -> None:
        peer.sendall(said)
        while not over.wait(0.05):  # every one of them in time
            peer.sendall(b" " if said else b"")

    with nonsense(drip) as port:
        began = time.monotonic()
        assert refusal(tmp_path, url=f"http://127.0.0.1:{port}", timeout=0.4) == "no answer within 0.4 s"
        assert 0.4 <= time.monotonic() - began < 5


def test_a_server_that_accepts_nobody_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it takes the connection, and no handshake
        words = refusal(tmp_path, url=f"https://127.0.0.1:{deaf.getsockname()[1]}", timeout=0.2)
    assert words == "no answer within 0.2 s"


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with serve(Served(card())) as other:
        answer = f"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:{other.port}/?type=imsi\r\n\r\n".encode()
        with nonsense(lambda peer, _: peer.sendall(answer)) as port:
            assert refusal(tmp_path, url=f"http://127.0.0.1:{port}") == "status 302 (redirects are not followed)"
    assert other.asked == []


@pytest.mark.parametrize("said", [None, "null", "", "12345", "0010100000000012", 1010000000001, ["001010000000001"]])
def test_an_imsi_that_is_none_is_one_line(said: object, tmp_path: Path) -> None:
    words = r"^usim\.server http://127\.0\.0\.1:\d+: its answer has no IMSI"
    with nonsense(lambda peer, _: peer.sendall(of(imsi=said))) as port, pytest.raises(BackendError, match=words):
        identified(configuration(tmp_path, url=f"http://127.0.0.1:{port}"))


def test_the_filling_of_a_short_imsi_is_none_of_its_digits(tmp_path: Path) -> None:
    with nonsense(lambda peer, _: peer.sendall(of(imsi="00101123456789F"))) as port:
        assert identified(configuration(tmp_path, url=f"http://127.0.0.1:{port}")).imsi == "00101123456789"


def test_another_imsi_than_the_configured_one_is_one_line(tmp_path: Path) -> None:
    with serve(Served(card(), imsi="001010000000002")) as served:
        known = configuration(tmp_path, url=f"http://127.0.0.1:{served.port}").model_copy(
            update={"imsi": "001010000000001"}
        )
        words = r"^the card of usim\.server is of IMSI 001010000000002, not of 001010000000001 \(imsi\)$"
        with pytest.raises(BackendError, match=words):
            identified(known)


VALUES = st.one_of(
    st.none(),
    st.sampled_from((4, 8, 13, 14, 16)).map(lambda length: "0F" * length),
    st.text("0123456789abcdefF x", max_size=36),
    st.sampled_from((True, 0, 1.5, [], {}, ["0F"], "０" * 32)),
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("auts", "res", "ck", "ik", "error", "imsi"), VALUES)))
def test_whatever_is_answered_is_a_verdict_of_the_right_lengths_or_none(answer: dict[str, object]) -> None:
    with contextlib.suppress(ValueError):
        assert str(imsi(answer)) in str(answer["imsi"])
    with contextlib.suppress(ValueError):
        match found := verdict(answer):
            case UsimSuccess():
                assert 4 <= len(found.res) <= 16
                assert len(found.ck) == len(found.ik) == 16
            case UsimSynchronisationFailure():
                assert len(found.auts) == 14
            case UsimReject():
                assert answer["res"] is None


# --- TLS


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    made = CertificateAuthority("SIM authority")
    (tmp_path / "ca.crt").write_bytes(made.credentials.certificate_pem)
    return made


def certificates(tmp_path: Path, tls: ssl.SSLContext, *sections: dict[str, object]) -> list[str]:
    """What comes of each; nothing where the card answers."""
    found = []
    with serve(Served(card()), tls) as served:
        for each in sections:
            served.usim = card()
            values = {"url": f"https://localhost:{served.port}", **each}
            try:
                asked(tmp_path, **values)
            except BackendError as error:
                found.append(str(error).partition("does not verify: ")[2] or str(error))
            else:
                found.append("")
        assert served.challenges == found.count("")  # no challenge leaves for a server that is not known
    return found


def test_a_certificate_of_an_authority(tmp_path: Path, authority: CertificateAuthority) -> None:
    (tmp_path / "other.crt").write_bytes(CertificateAuthority("another").credentials.certificate_pem)
    tls = certified(tmp_path, authority.issue(names=["localhost"]))
    assert certificates(tmp_path, tls, {"ca": "ca.crt"}, {"ca": "server.crt"}, {"ca": "other.crt"}, {}) == [
        "",
        "",
        "unable to get local issuer certificate",
        "unable to get local issuer certificate",
    ]


def test_a_certificate_of_another_name(tmp_path: Path, authority: CertificateAuthority) -> None:
    (tmp_path / "other.crt").write_bytes(CertificateAuthority("another").credentials.certificate_pem)
    tls = certified(tmp_path, authority.issue(names=["sim.example"]))
    sections: list[dict[str, object]] = [
        {"ca": "ca.crt"},
        {"ca": "ca.crt", "check_name": False},
        {"ca": "other.crt", "check_name": False},
    ]
    assert certificates(tmp_path, tls, *sections) == [
        "Hostname mismatch, certificate is not valid for 'localhost'",
        "",
        "unable to get local issuer certificate",
    ]


def test_a_certificate_that_the_server_made_itself(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    sections: list[dict[str, object]] = [{}, {"ca": "server.pem"}, {"ca": "server.pem", "check_name": False}]
    assert certificates(tmp_path, tls, *sections) == [
        "self-signed certificate",
        "Hostname mismatch, certificate is not valid for 'localhost'",
        "",
    ]


def test_plain_and_encrypted_mixed_up(tmp_path: Path, authority: CertificateAuthority) -> None:
    with serve(Served(card())) as plain:
        words = refusal(tmp_path, url=f"https://127.0.0.1:{plain.port}")
    assert words.startswith("TLS fails: ")
    with serve(Served(card()), certified(tmp_path, authority.issue(names=["localhost"]))) as encrypted:
        words = refusal(tmp_path, url=f"http://127.0.0.1:{encrypted.port}")
    assert words in ("it closes the connection without an answer", "Connection reset by peer", NO_HTTP)


# --- configuration


URL = "usim.server.url: got a value that is not shown, expected an http or https URL such as https://sim.example:8443/"
BAD: dict[str, tuple[dict[str, object], str]] = {
    **{
        url: ({"url": url}, URL)
        for url in (
            "sim.example",
            "ftp://sim.example/",
            "https:///path",
            "https://sim..example/",
            "https://me:secret@sim.example/",
            "https://sim.example:0/",
            "https://sim.example:65536/",
            "https://sim.example/#here",
            "https://sim.example/a b",
            "https://sim.example/\r\nX: y",
            "https://sím.example/",
            "https://[::1/",
        )
    },
    "no URL": ({"ca": "x"}, "usim.server.url: got nothing, expected a value"),
    "no certificates": ({"url": "http://h", "ca": "x"}, "usim.server.ca: got 'x', expected nothing with http"),
    "any certificate": (
        {"url": "https://h", "check_name": False},
        "usim.server.check_name: got false, expected true without ca",
    ),
    "no token": (
        {"url": "https://h", "token": "a\r\nb"},
        "usim.server.token: got a value that is not shown, expected a bearer token",
    ),
    "no time": ({"url": "https://h", "timeout": 0}, "usim.server.timeout: got 0, expected more than 0"),
    "unknown": ({"url": "https://h", "verify": False}, "usim.server.verify: got an unknown key"),
}


@pytest.mark.parametrize(("section", "words"), BAD.values(), ids=BAD)
def test_a_wrong_section_is_one_line(section: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configuration(tmp_path, **section)
    line = str(refused.value)
    assert words in line
    assert line.startswith(f"{tmp_path / 'ue.yaml'}:")
    assert line.isprintable()


def test_what_may_be_secret_of_it_is_not_shown(tmp_path: Path) -> None:
    held = shown(configuration(tmp_path, url="https://sim.example:8443/of/me?key=1234", token=TOKEN))
    part = held["usim"]
    assert isinstance(part, dict)
    assert part["server"] == {
        "url": "https://sim.example:8443",
        "ca": None,
        "check_name": True,
        "token": "…",
        "timeout": 10.0,
    }

"""``epdg`` and ``ue`` without an AAA server: pre-shared keys, certificates, revocation, and one-line errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epdg.command_line import app
from epdg.config import EpdgConfiguration
from epdg.pki import KeyKind, issue, make_pki, write_crl, write_ocsp_response
from protocols.errors import ConfigurationError
from protocols.io.configuration import load
from tests.nodes.test_ue_node import GATEWAY, Ue
from tests.peers.epdg_node import CORE_HOST, FQDN, EpdgProcess
from ue.config import UeConfiguration
from ue.profile import initiator_config

NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
NO_PORT = 9  # of the AAA server that nobody needs

Values = dict[str, object]


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A CA, the gateway's certificate and the UE's."""
    directory = tmp_path / "pki"
    make_pki(directory, (FQDN, "internet"))
    issue(directory, (NAI,), kind=KeyKind.ED25519, client=True)
    return directory


@contextlib.contextmanager
def serving(directory: Path, authentication: Values, **changes: object) -> Iterator[EpdgProcess]:
    def change(values: Values) -> None:
        diameter = values["diameter"]
        assert isinstance(diameter, dict)
        diameter["peers"] = []
        values["authentication"] = authentication
        values.update(changes)

    node = EpdgProcess(directory, NO_PORT, address=GATEWAY, changes=change)
    try:
        node.start(with_peer=False)
        yield node
    finally:
        node.close()


def ue(directory: Path, gateway: Values | None = None, **changes: object) -> Ue:
    def change(values: Values) -> None:
        del values["usim"]
        section = values["gateway"]
        assert isinstance(section, dict)
        section.update(gateway or {})
        if section.get("ca") is None:
            section.pop("ca")
        values.update(changes)

    return Ue(directory, directory / "pki" / "ca.pem", change=change)


def own_certificate() -> Values:
    return {"chain": f"pki/{NAI}.pem", "key": f"pki/{NAI}.key"}


def test_attach_and_ping_by_pre_shared_key(tmp_path: Path, pki: Path) -> None:
    """No AAA server, no USIM, no certificate."""
    keys = {"methods": ["psk"], "psk": {"ue-1@example.org": "a long secret"}}
    with serving(tmp_path, keys, certificate=None) as epdg:
        identity = {"authentication": "psk", "identity": "ue-1@example.org"}
        node = ue(tmp_path, {"ca": None}, psk="a long secret", **identity)
        done = node.command("attach", "--ping", CORE_HOST, "--count", "2")
        assert done.returncode == 0, done.stderr + epdg.log()
        assert "2 sent, 2 received" in done.stdout
        (session,) = epdg.sessions()
        assert session["nai"] == "ue-1@example.org"
        wrong = ue(tmp_path, {"ca": None}, psk="another", **identity).command("attach")
        assert wrong.returncode == 1
        assert wrong.stderr == "authentication rejected by the network (AUTHENTICATION_FAILED 24)\n"


def test_attach_by_certificate_with_ocsp_both_ways(tmp_path: Path, pki: Path) -> None:
    """The gateway's response is stapled, and so is the UE's; both ends require it."""
    for file in ("gateway.pem", f"{NAI}.pem"):
        write_ocsp_response(pki, pki / file)
    served = {"chain": "pki/gateway.pem", "key": "pki/gateway.key", "ocsp": ["pki/gateway.ocsp"]}
    allowed = {"methods": ["certificate"], "certificate_authorities": ["pki/ca.pem"], "revocation": "required"}
    certificate = {**own_certificate(), "ocsp": [str(Path(f"pki/{NAI}.pem").with_suffix(".ocsp"))]}
    with serving(tmp_path, allowed, certificate=served) as epdg:
        node = ue(tmp_path, {"revocation": "required"}, authentication="certificate", certificate=certificate)
        done = node.command("attach", "--ping", CORE_HOST, "--count", "1")
        assert done.returncode == 0, done.stderr + epdg.log()
        assert "[ IDr, CERT, CERT, AUTH, CP(CFG_REPLY), SAr2, TSi, TSr" in done.stdout
        unproven = ue(tmp_path, authentication="certificate", certificate=own_certificate()).command("attach")
        assert unproven.returncode == 1
        assert "no CRL and no OCSP response" in epdg.log()


def test_a_revoked_gateway_is_refused_in_one_line(tmp_path: Path, pki: Path) -> None:
    write_crl(pki, pki / "gateway.pem")
    allowed = {"methods": ["certificate"], "certificate_authorities": ["pki/ca.pem"]}
    with serving(tmp_path, allowed):
        checks = {"revocation": "if-present", "crls": ["pki/ca.crl"]}
        node = ue(tmp_path, checks, authentication="certificate", certificate=own_certificate())
        done = node.command("attach")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"the gateway is not accepted: certificate 'CN={FQDN}' was revoked at ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"authentication": {"methods": ["psk"]}}, "authentication.psk: got nothing, expected the keys of the UEs"),
        (
            {"authentication": {"methods": ["certificate"]}},
            "authentication.certificate_authorities: got nothing, expected PEM files",
        ),
        ({"authentication": {"methods": []}}, "authentication.methods"),
        ({"authentication": {"methods": ["password"]}}, "'eap', 'psk' or 'certificate'"),
        ({"authentication": {"gateway": "eap"}}, "authentication.gateway: got 'eap', expected psk or certificate"),
        ({"authentication": {"revocation": "perhaps"}}, "'off', 'if-present' or 'required'"),
        ({"certificate": None}, "a certificate, or ike.eap_only: true"),
        ({"authentication": {"methods": ["psk"], "psk": {"a": ""}}}, "got a value that is not shown"),
        ({"diameter": {"host": "a", "realm": "b"}}, "diameter.peers: got nothing, expected an AAA server"),
    ],
)
def test_bad_configurations_of_the_gateway_are_one_line(tmp_path: Path, changes: Values, words: str) -> None:
    node = EpdgProcess(tmp_path, NO_PORT, changes=lambda values: values.update(changes))
    with pytest.raises(ConfigurationError) as refused:
        load(node.write_configuration(), EpdgConfiguration)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "usim: got nothing, expected k and opc or op, eap.emergency with imei (15 digits), or authentication by "
            "psk or certificate",
        ),
        ({"authentication": "psk"}, "psk: got nothing, expected a key, which authentication: psk needs"),
        (
            {"authentication": "certificate"},
            "certificate: got nothing, expected a chain and its key, which authentication: certificate needs",
        ),
        ({"authentication": "password"}, "'eap', 'psk' or 'certificate'"),
        ({"authentication": "psk", "psk": ""}, "psk: got a value that is not shown, expected text, not empty"),
    ],
)
def test_bad_configurations_of_the_ue_are_one_line(tmp_path: Path, changes: Values, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(ue(tmp_path, **changes).configuration, UeConfiguration)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("gateway", "changes", "words"),
    [
        ({"crls": ["pki/none.crl"]}, {}, "none.crl: gateway.crls: got 'No such file or directory'"),
        ({"crls": ["pki/ca.key"]}, {}, "gateway.crls: got 'a file without a CRL', expected a CRL in PEM or DER"),
        ({"ocsp_responders": ["pki/ca.key"]}, {}, "gateway.ocsp_responders: got 'a file without a certificate in PEM'"),
        ({}, {"certificate": {"chain": "pki/ca.pem", "key": "pki/gateway.key"}}, "does not belong"),
        ({}, {"certificate": {"chain": "pki/ca.pem", "key": "pki/ca.pem"}}, "got 'a file without such a key'"),
        ({}, {"certificate": {**own_certificate(), "ocsp": ["pki/ca.pem"]}}, "expected an OCSP response in DER"),
    ],
)
def test_files_that_are_no_good(tmp_path: Path, pki: Path, gateway: Values, changes: Values, words: str) -> None:
    node = ue(tmp_path, gateway, **{"authentication": "certificate", "certificate": own_certificate(), **changes})
    configuration = load(node.configuration, UeConfiguration)
    with pytest.raises(ConfigurationError) as refused:
        initiator_config(configuration, lambda: pytest.fail("no time is needed"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_pki_commands(tmp_path: Path) -> None:
    """A UE's certificate, its revocation, and what OCSP says before and after."""
    run = CliRunner().invoke
    directory = str(tmp_path / "pki")
    certificate = str(tmp_path / "pki" / "ue@example.org.pem")
    for words, said in (
        (("init", directory), "names:"),
        (("issue", directory, "ue@example.org", "--client", "--kind", "ed448"), "ue@example.org.pem"),
        (("ocsp", directory, certificate), ".ocsp"),
        (("crl", directory), "ca.crl"),
        (("revoke", directory, certificate), "ca.crl"),
        (("crl", directory), "ca.crl"),
        (("ocsp", directory, certificate), ".ocsp"),
    ):
        result = run(app, ["pki", *words])
        assert result.exit_code == 0, result
        assert said in result.output
    again = run(app, ["pki", "issue", directory, "ue@example.org"])
    assert again.exit_code == 1
    nameless = run(app, ["pki", "issue", directory, "a b"])
    assert nameless.exit_code == 2

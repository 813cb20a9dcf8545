"""Microseconds per Diameter message: decoding, format check, reading as a value, encoding; one core, no sockets.

    python benchmarks/diameter_codec.py [--rounds 7] [--before TREE] [--output benchmarks/results/diameter.json]

``decode`` is ``decode_message``, ``check`` is ``check_request``, ``value`` is ``Der.from_message`` (which checks
too) or ``Dea.from_message``, ``encode`` is ``encode_message`` of a message that was built, ``build`` is
``to_message``. ``reference`` is the decoder of the ``diameter`` package over the same octets. ``--before`` measures
the same in another checkout of this project as well. Each round is a process of its own and those of both trees
take turns; the best round counts. Compare the ratios of one run, the machine's speed drifts between runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from diameter.message import Message

from protocols.diameter import codec
from protocols.diameter.codec import DiameterMessage, Result, check_request, decode_message, encode_message
from protocols.diameter.swm import (
    GTPV2_SUPPORTED,
    MIP6_INTEGRATED,
    Ambr,
    ApnConfiguration,
    Dea,
    Der,
    ResultCode,
    TerminalInformation,
)
from protocols.secret import Secret

BATCH = 1000
ROUNDS = 7
TREE = Path(__file__).resolve().parents[1]
NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"

DER = Der(
    session_id="epdg.epc.mnc001.mcc001.3gppnetwork.org;1760000000;1",
    origin_host="epdg.epc.mnc001.mcc001.3gppnetwork.org",
    origin_realm="epc.mnc001.mcc001.3gppnetwork.org",
    destination_realm="epc.mnc001.mcc001.3gppnetwork.org",
    destination_host="aaa.epc.mnc001.mcc001.3gppnetwork.org",
    user_name=NAI,
    eap_payload=bytes.fromhex("02010028170100000303004000112233445566770b050000") + bytes(16),
    service_selection="ims",
    ue_local_ip=ip_address("198.51.100.7"),
    visited_network_identifier="mnc001.mcc001.3gppnetwork.org",
    terminal_information=TerminalInformation("35209900176148", "01"),
    mip6_feature_vector=MIP6_INTEGRATED | GTPV2_SUPPORTED,
    aaa_failure_indication=1,
    emergency_services=1,
    state=(b"one",),
)
DEA = Dea(
    session_id=DER.session_id,
    origin_host="aaa.epc.mnc001.mcc001.3gppnetwork.org",
    origin_realm="epc.mnc001.mcc001.3gppnetwork.org",
    result=Result.of(ResultCode.DIAMETER_SUCCESS),
    eap_payload=bytes.fromhex("03020004"),
    master_session_key=Secret(bytes(range(64))),
    user_name=NAI,
    apn_configuration=ApnConfiguration(
        context_identifier=1, service_selection="ims", ambr=Ambr(50_000_000, 100_000_000)
    ),
    session_timeout=86_400,
)


def cases() -> dict[str, tuple[DiameterMessage, dict[str, Callable[[], object]]]]:
    """By message: the message, and what is measured with it."""
    request = DER.to_message()
    answer = DEA.to_message(request)
    der_octets, dea_octets = encode_message(request), encode_message(answer)
    der, dea = decode_message(der_octets), decode_message(dea_octets)
    if Der.from_message(der) != DER or Dea.from_message(dea) != DEA:
        raise SystemExit("what is measured does not come back as it was sent")
    return {
        "DER": (
            der,
            {
                "decode": lambda: decode_message(der_octets),
                "check": anew(der_octets, check_request),
                "value": anew(der_octets, Der.from_message),
                "build": DER.to_message,
                "encode": lambda: encode_message(request),
                "reference": lambda: Message.from_bytes(der_octets),
            },
        ),
        "DEA": (
            dea,
            {
                "decode": lambda: decode_message(dea_octets),
                "value": anew(dea_octets, Dea.from_message),
                "build": lambda: DEA.to_message(request),
                "encode": lambda: encode_message(answer),
                "reference": lambda: Message.from_bytes(dea_octets),
            },
        ),
    }


def anew(octets: bytes, work: Callable[[DiameterMessage], object]) -> Callable[[], object]:
    """``work`` with a message that nobody has looked into, each time: as many as ``timed`` takes."""
    messages = [decode_message(octets) for _ in range(BATCH // 10 + BATCH)]
    return lambda: work(messages.pop())


def measure() -> dict[str, dict[str, float]]:
    """Microseconds of one round in this process."""
    return {name: {what: timed(work) for what, work in works.items()} for name, (_, works) in cases().items()}


def timed(work: Callable[[], object]) -> float:
    for _ in range(BATCH // 10):
        work()
    begin = time.process_time()
    for _ in range(BATCH):
        work()
    return (time.process_time() - begin) / BATCH * 1e6


def round_in(tree: Path) -> dict[str, dict[str, float]]:
    """One round in a process that has the protocols of ``tree``."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, str(Path(__file__).resolve()), "--round", str(tree)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    times: dict[str, dict[str, float]] = json.loads(output)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--before", type=Path, help="another checkout to measure in turns with this one")
    parser.add_argument("--output", type=Path, help="write the results there as JSON")
    parser.add_argument("--round", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.round is not None:
        if not Path(codec.__file__).resolve().is_relative_to(arguments.round.resolve()):
            raise SystemExit(f"{codec.__file__} is not of {arguments.round}")
        print(json.dumps(measure()))
        return
    trees = {"now": TREE} if arguments.before is None else {"now": TREE, "before": arguments.before.resolve()}
    rounds = [{label: round_in(tree) for label, tree in trees.items()} for _ in range(arguments.rounds)]
    results = []
    print(f"{'message':8}{'avps':>5}{'octets':>7}  {'what':10}{'now':>8}{'before':>8}{'ratio':>7}   microseconds")
    for name, (message, works) in cases().items():
        for what in works:
            best = {label: min(each[label][name][what] for each in rounds) for label in trees}
            row: dict[str, object] = {
                "message": name,
                "avps": len(message.avps),
                "octets": len(encode_message(message)),
                "what": what,
                "microseconds": round(best["now"], 2),
            }
            before, ratio = "", ""
            if "before" in best:
                row["microseconds_before"] = round(best["before"], 2)
                row["of_before"] = round(best["now"] / best["before"], 3)
                before, ratio = f"{best['before']:.2f}", f"{best['now'] / best['before']:.2f}"
            results.append(row)
            print(f"{name:8}{len(message.avps):5}{row['octets']:7}  {what:10}{best['now']:8.2f}{before:>8}{ratio:>7}")
    if arguments.output:
        about = {
            "python": platform.python_version(),
            "python-diameter": importlib.metadata.version("python-diameter"),
            "machine": platform.machine(),
            "compiled": not codec.__file__.endswith(".py"),
            "rounds": arguments.rounds,
            "messages_per_round": BATCH,
        }
        arguments.output.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

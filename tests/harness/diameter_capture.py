"""A capture file of Diameter messages, for other dissectors to read."""

from __future__ import annotations

from pathlib import Path

from protocols.diameter.codec import DiameterMessage, encode_message


def capture(path: Path, messages: list[DiameterMessage]) -> Path:
    """A capture (pcap, raw IPv4) with one TCP segment per message, sequence numbers in order."""
    records = [(0xA1B2C3D4).to_bytes(4, "big") + bytes.fromhex("00020004 00000000 00000000 00040000 00000065")]
    sequence = 1
    for number, message in enumerate(messages):
        octets = encode_message(message)
        length = 40 + len(octets)
        ip = bytes.fromhex("4500") + length.to_bytes(2, "big") + bytes.fromhex("00004000 4006 0000 7f000001 7f000002")
        total = sum(int.from_bytes(ip[i : i + 2], "big") for i in range(0, 20, 2))
        checksum = ~(total % 0xFFFF) & 0xFFFF
        ip = ip[:10] + checksum.to_bytes(2, "big") + ip[12:]
        tcp = (50000).to_bytes(2, "big") + (3868).to_bytes(2, "big") + sequence.to_bytes(4, "big")
        tcp += bytes.fromhex("00000001 5018 ffff 0000 0000")
        covered = ip[12:20] + bytes([0, 6]) + (20 + len(octets)).to_bytes(2, "big") + tcp + octets
        total = sum(int.from_bytes(covered[i : i + 2], "big") for i in range(0, len(covered), 2))
        checksum = ~(total % 0xFFFF) & 0xFFFF
        tcp = tcp[:16] + checksum.to_bytes(2, "big") + tcp[18:]
        header = number.to_bytes(4, "big") + bytes(4) + length.to_bytes(4, "big") * 2
        records.append(header + ip + tcp + octets)
        sequence += len(octets)
    path.write_bytes(b"".join(records))
    return path

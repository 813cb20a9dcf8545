"""A DNS server on a loopback address, by dnspython's messages: A, AAAA, NAPTR, CNAME, silence and nonsense."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

DEFAULT_TTL = 60
SILENT, SERVFAIL, GARBAGE = "silent", "servfail", "garbage"

Zone = Mapping[str, Sequence[tuple[str, str]] | str]
"""By name: types and data as a zone file has them, or a way to misbehave; an absent name does not exist."""


class DnsServer:
    """Answers over UDP while it is entered; ``asked`` counts the questions."""

    def __init__(self, zone: Zone, *, address: str = "127.0.41.53", ttl: int = DEFAULT_TTL) -> None:
        self.zone = zone
        self.ttl = ttl
        self.asked: Counter[tuple[str, str]] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._socket.settimeout(0.05)
        self.address, self.port = self._socket.getsockname()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def section(self) -> dict[str, object]:
        """The configuration of a node that asks here."""
        return {"servers": [self.address], "port": self.port, "timeout": 1}

    def __enter__(self) -> DnsServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                octets, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            answer = self._answer(dns.message.from_wire(octets))
            if answer is not None:
                self._socket.sendto(answer, client)

    def _answer(self, query: dns.message.Message) -> bytes | None:
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text(omit_final_dot=True)
        self.asked[name, kind] += 1
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        found = self.zone.get(name)
        if found == SILENT:
            return None
        if found == GARBAGE:
            return query.id.to_bytes(2, "big") + b"\xff" * 40
        if found == SERVFAIL or isinstance(found, str):
            response.set_rcode(dns.rcode.SERVFAIL)
        elif found is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            for each in dict.fromkeys(type_ for type_, _ in found):
                data = [text for type_, text in found if type_ == each]
                if each in (kind, "CNAME"):
                    response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", each, *data))
        return response.to_wire(want_shuffle=False)

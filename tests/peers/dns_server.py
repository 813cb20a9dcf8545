"""A DNS server on a loopback address, by dnspython's messages: A, AAAA, NAPTR, CNAME, silence and nonsense.

It follows CNAMEs as a recursive server does, and answers over TCP what does not fit (RFC 7766).
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

DEFAULT_TTL = 60
SILENT, SERVFAIL, GARBAGE = "silent", "servfail", "garbage"
DATAGRAM_MAXIMUM = 1232  # octets of an answer over UDP

Zone = Mapping[str, Sequence[tuple[str, str]] | str]
"""By name: types and data as a zone file has them, or a way to misbehave; an absent name does not exist."""


class DnsServer:
    """Answers over UDP and TCP while it is entered; ``asked`` counts the questions, ``by_tcp`` those of them.

    ``alias_ttl`` is that of CNAME records.
    """

    def __init__(
        self, zone: Zone, *, address: str = "127.0.41.53", ttl: int = DEFAULT_TTL, alias_ttl: int = DEFAULT_TTL
    ) -> None:
        self.zone = zone
        self.ttl = ttl
        self.alias_ttl = alias_ttl
        self.by_tcp = 0
        self.asked: Counter[tuple[str, str]] = Counter()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self.address, self.port = self._socket.getsockname()[:2]
        self._listener = socket.create_server((address, self.port), family=family)
        for each in (self._socket, self._listener):
            each.settimeout(0.05)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._serve, self._serve_tcp)]

    @property
    def section(self) -> dict[str, object]:
        """The configuration of a node that asks here."""
        return {"servers": [self.address], "port": self.port, "timeout": 1}

    def __enter__(self) -> DnsServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                octets, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            answer = self._answer(dns.message.from_wire(octets), DATAGRAM_MAXIMUM)
            if answer is not None:
                self._socket.sendto(answer, client)

    def _serve_tcp(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection, connection.makefile("rb") as stream:
                octets = stream.read(int.from_bytes(stream.read(2), "big"))
                answer = self._answer(dns.message.from_wire(octets), 0xFFFF)
                if answer is not None:
                    self.by_tcp += 1
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, query: dns.message.Message, octets_maximum: int) -> bytes | None:
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
            self._follow(question.name, kind, response)
        try:
            return response.to_wire(want_shuffle=False, max_size=octets_maximum)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def _follow(self, name: dns.name.Name, kind: str, response: dns.message.Message) -> None:
        """The records of a name, and of those that it is another name of."""
        seen: set[dns.name.Name] = set()
        following: dns.name.Name | None = name
        while following is not None and following not in seen:
            seen.add(following)
            records = self.zone.get(following.to_text(omit_final_dot=True), ())
            here, following = following, None
            for type_ in dict.fromkeys(type_ for type_, _ in records if type_ in (kind, "CNAME")):
                data = [text for each, text in records if each == type_]
                ttl = self.ttl if type_ == kind else self.alias_ttl
                response.answer.append(dns.rrset.from_text(here, ttl, "IN", type_, *data))
                following = dns.name.from_text(data[0]) if type_ == "CNAME" else following

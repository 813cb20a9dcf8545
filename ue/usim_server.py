"""A USIM behind an HTTP(S) server, as the public project USIM-https-server has it, and what answers likewise.

::

    GET <url>?type=imsi                            -->
                                                   <--  {"imsi": "001010000000001"}
    GET <url>?type=rand-autn&rand=<hex>&autn=<hex> -->
                                                   <--  {"res": <hex>, "ck": <hex>, "ik": <hex>}

A synchronisation failure is ``{"auts": <hex>}``, or AUTS in ``res`` with ``ck`` and ``ik`` null, or both. All three
null: the card refuses the challenge. Versions 1 and 2 of that project lose an octet of AUTS. Redirects are not
followed, proxies of the environment not used. Left out: ``type=apdu``.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlencode

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.errors import BackendError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ANSWER_MAXIMUM = 8192  # octets; an answer has some 150
RECEIVED_MAXIMUM = 1 << 16  # with all headers, and whatever else comes
RES_LENGTHS = range(4, 17)  # TS 33.102 §6.3.7
KEY_LENGTH = 16
AUTS_LENGTH = 14
_NAMES = ("auts", "res", "ck", "ik")
_CUT_OFF = (8, 5, 0)  # of res, ck and ik, by versions 1 and 2, where the card has said DC 0E AUTS
_NOT_TAKEN = frozenset({http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN})

Answer = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsimServer:
    """Where the server is and how it is spoken to; ``timeout``: seconds for a question and its answer."""

    url: SplitResult
    tls: ssl.SSLContext | None
    token: Secret | None
    timeout: float

    def identify(self) -> Imsi:
        """Who the subscriber is; blocks. ``BackendError``."""
        answer = self._ask(type="imsi")
        try:
            return imsi(answer)
        except ValueError as error:
            raise self._failure(str(error)) from None

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """The card's verdict; blocks. ``BackendError``."""
        answer = self._ask(type="rand-autn", rand=rand.hex().upper(), autn=autn.hex().upper())
        try:
            return verdict(answer)
        except ValueError as error:
            raise self._failure(str(error)) from None

    def _ask(self, **question: str) -> Answer:
        """The object that is answered. What the server says is in no error: it might be the challenge, or keys."""
        try:
            status, octets = self._exchange("&".join(filter(None, (self.url.query, urlencode(question)))))
        except ssl.SSLCertVerificationError as error:
            raise self._failure(f"its certificate does not verify: {error.verify_message.rstrip('.')}") from error
        except ssl.SSLError as error:
            raise self._failure(f"TLS fails: {(error.reason or 'no reason').replace('_', ' ').lower()}") from error
        except TimeoutError as error:
            raise self._failure(f"no answer within {self.timeout:g} s") from error
        except http.client.RemoteDisconnected as error:
            raise self._failure("it closes the connection without an answer") from error
        except _TooLong as error:
            raise self._failure(f"an answer of more than {ANSWER_MAXIMUM} octets") from error
        except (http.client.HTTPException, ValueError) as error:
            raise self._failure("its answer is cut off, or no HTTP") from error
        except OSError as error:
            raise self._failure(error.strerror or type(error).__name__) from error
        if status != http.HTTPStatus.OK:
            raise self._failure(f"status {status}{_hint(status)}")
        try:
            answer = json.loads(octets)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._failure("its answer is no JSON object")
        return answer

    def _exchange(self, query: str) -> tuple[int, bytes]:
        deadline = time.monotonic() + self.timeout
        host = self.url.hostname or ""
        port = self.url.port or (http.client.HTTP_PORT if self.tls is None else http.client.HTTPS_PORT)
        connection = http.client.HTTPConnection(host, port)
        with _connected(host, port, deadline) as plain:
            plain.settimeout(_left(deadline))
            with plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname=host) as stream:
                connection.sock = stream
                headers = {"Host": self.url.netloc, "Accept": "application/json", "Connection": "close"}
                if self.token is not None:
                    headers["Authorization"] = f"Bearer {self.token.reveal().decode('ascii')}"
                connection.request("GET", f"{self.url.path or '/'}?{query}", headers=headers)
                with _Response(stream, deadline) as response:
                    response.begin()
                    octets = response.read(ANSWER_MAXIMUM + 1)
                    if len(octets) > ANSWER_MAXIMUM:
                        raise _TooLong
                    return response.status, octets

    def _failure(self, what: str) -> BackendError:
        """In one line, with nothing of the URL that may be secret."""
        return BackendError(f"usim.server {self.url.scheme}://{self.url.netloc}: {what}")


class ServerUsim:
    """Answers AUTHENTICATE by a server, one challenge after another."""

    def __init__(self, server: UsimServer) -> None:
        self._server = server
        self._lock = asyncio.Lock()

    async def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """The verdict; ``BackendError``."""
        async with self._lock:
            return await asyncio.to_thread(self._server.authenticate, rand, autn)


def imsi(answer: Answer) -> Imsi:
    """The IMSI of an answer; ``ValueError`` where it is none. Filling nibbles of EF.IMSI may stand behind it."""
    digits = answer.get("imsi")
    if isinstance(digits, str):
        try:
            return Imsi(digits.strip().rstrip("Ff"))
        except ValueError:
            pass
    raise ValueError("its answer has no IMSI: is there a card?")


def verdict(answer: Answer) -> UsimResult:
    """What an answer to RAND and AUTN says; ``ValueError`` where that is nothing a USIM says."""
    if "res" in answer and all(answer.get(name) is None for name in _NAMES):
        return UsimReject("the card behind usim.server refuses the challenge")
    if answer.get("error"):
        raise ValueError("it says that it has failed")
    auts, res, ck, ik = (_octets(answer, name) for name in _NAMES)
    if len(res) == AUTS_LENGTH and not (auts or ck or ik):
        auts = res
    if auts:
        if len(auts) != AUTS_LENGTH:
            raise ValueError(f"auts of {len(auts)} octets, expected {AUTS_LENGTH}")
        return UsimSynchronisationFailure(auts)
    if len(res) in RES_LENGTHS and len(ck) == len(ik) == KEY_LENGTH:
        return UsimSuccess(res=res, ck=ck, ik=ik)
    if (len(res), len(ck), len(ik)) == _CUT_OFF:
        raise ValueError(
            "a synchronisation failure without all of AUTS, as versions 1 and 2 of USIM-https-server have it; "
            "version 3 tells it"
        )
    raise ValueError(f"res, ck and ik of {len(res)}, {len(ck)} and {len(ik)} octets, expected 4 to 16, 16 and 16")


def _octets(answer: Answer, name: str) -> bytes:
    """None of them where there is nothing, or null; ``ValueError`` where it is not hexadecimal."""
    value = answer.get(name)
    if value is None:
        return b""
    try:
        if isinstance(value, str):
            return bytes.fromhex(value)
    except ValueError:
        pass
    raise ValueError(f"{name} is no text of hexadecimal digits, two for each octet") from None


def _hint(status: int) -> str:
    if status in _NOT_TAKEN:
        return " (is usim.server.token right?)"
    if 300 <= status < 400:
        return " (redirects are not followed)"
    return " (that may be a challenge that the card has refused)" if status >= 500 else ""


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first address that takes it; the time left is shared among those not tried yet."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(found, 1):
        stream = socket.socket(family, kind, protocol)
        try:
            stream.settimeout(_left(deadline) / (len(found) + 1 - number))
            stream.connect(address)
        except OSError:
            stream.close()
            if number == len(found):
                raise
        else:
            return stream
    raise OSError(f"there is no address of {host}")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _TooLong(Exception):
    """More than any answer has."""


class _Response(http.client.HTTPResponse):
    """An answer that is there in whole at a moment; the library's own has that long for each of its pieces."""

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        super().__init__(stream, method="GET")
        self.fp.close()
        self.fp = io.BufferedReader(_Octets(stream, deadline))


class _Octets(io.RawIOBase):
    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._stream.settimeout(_left(self._deadline))
        received = self._stream.recv_into(buffer)
        self._received += received
        if self._received > RECEIVED_MAXIMUM:
            raise _TooLong
        return received

"""A control client on plain blocking sockets: for programs that have no event loop, or that patch sockets (gevent)."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from protocols.errors import BackendError, DecodeError
from protocols.io.control import ANSWER_INTERVAL, ANSWER_OCTETS, ControlError
from protocols.trace.records import JsonValue

RECEIVE_OCTETS = 65536


class BlockingControlClient:
    """Calls a node through its control socket; every call is a connection of its own."""

    def __init__(self, path: Path | str, *, answer_interval: float = ANSWER_INTERVAL) -> None:
        self.path = Path(path)
        self._answer_interval = answer_interval

    def call(self, method: str, /, **params: JsonValue) -> JsonValue:
        """The result of one method; ``BackendError`` without an answer, ``ControlError`` when the answer is no."""
        request = json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._answer_interval)
                connection.connect(str(self.path))
                connection.sendall(request)
                line = self._line(connection)
        except TimeoutError:
            raise BackendError(f"{self.path}: no answer to {method} in {self._answer_interval:g} s") from None
        except OSError as error:
            raise BackendError(f"control socket {self.path}: {error.strerror or error}") from None
        return self._result(line, method)

    def _line(self, connection: socket.socket) -> bytes:
        pieces: list[bytes] = []
        length = 0
        while length <= ANSWER_OCTETS:
            piece = connection.recv(RECEIVE_OCTETS)
            pieces.append(piece)
            length += len(piece)
            if not piece or piece.endswith(b"\n"):
                return b"".join(pieces)
        raise DecodeError(f"{self.path}: an answer of over {ANSWER_OCTETS} octets")

    def _result(self, line: bytes, method: str) -> JsonValue:
        if not line:
            raise BackendError(f"{self.path}: the node closed the connection before it answered {method}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise DecodeError(f"{self.path}: what listens there does not speak the control protocol")
        error = answer.get("error")
        if isinstance(error, dict):
            raise ControlError(str(error.get("code")), str(error.get("message")))
        result: JsonValue = answer.get("result")
        return result

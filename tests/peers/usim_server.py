"""A USIM behind a real HTTP(S) server, which answers in the shape of each published one; and servers of nonsense."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess
from tests.peers.certificates import Credentials
from tests.peers.processes import require_program
from ue.usim import SoftwareUsim

Shape = Callable[[UsimResult], "str | None"]


class Failed(Exception):
    """The server says this status."""

    def __init__(self, status: int = 501) -> None:
        self.status = status


def response_data(verdict: UsimResult) -> bytes:
    """What a card says (TS 31.102 §7.1.2.1); nothing where it refuses."""
    if isinstance(verdict, UsimReject):
        return b""
    tag, fields = (
        (0xDB, (verdict.res, verdict.ck, verdict.ik)) if isinstance(verdict, UsimSuccess) else (0xDC, (verdict.auts,))
    )
    return bytes([tag]) + b"".join(bytes([len(each)]) + each for each in fields)


def version_1(verdict: UsimResult) -> str:
    """Versions 1 and 2 with a reader: three places of the card's answer, whatever it is."""
    data = response_data(verdict)
    places = {"res": data[2:10], "ck": data[11:27], "ik": data[28:44]}
    return json.dumps({name: each.hex().upper() if data else None for name, each in places.items()}, indent="\t")


def version_1_modem(verdict: UsimResult) -> str:
    """Versions 1 and 2 with a modem: where the card has nothing to fetch they fail."""
    if isinstance(verdict, UsimReject):
        raise Failed
    return version_1(verdict)


def version_3(verdict: UsimResult) -> str | None:
    """Version 3: AUTS in the place of RES; its handler falls where the card refuses."""
    if isinstance(verdict, UsimReject):
        return None
    if isinstance(verdict, UsimSuccess):
        found = {"res": verdict.res, "ck": verdict.ck, "ik": verdict.ik}
        return json.dumps({name: each.hex().upper() for name, each in found.items()}, indent="\t")
    return json.dumps({"res": verdict.auts.hex().upper(), "ck": None, "ik": None}, indent="\t")


def version_3_short(verdict: UsimResult) -> str | None:
    """The same where the card's library says that there is nothing: all null."""
    nothing = json.dumps({"res": None, "ck": None, "ik": None}, indent="\t")
    return nothing if isinstance(verdict, UsimReject) else version_3(verdict)


def android(verdict: UsimResult) -> str:
    """SimServer on a phone: small letters, AUTS by its name; where the card refuses an empty answer."""
    if isinstance(verdict, UsimReject):
        return ""
    if isinstance(verdict, UsimSuccess):
        return f'{{"ik": "{verdict.ik.hex()}", "ck": "{verdict.ck.hex()}", "res": "{verdict.res.hex()}"}}'
    return f'{{"auts": "{verdict.auts.hex()}"}}'


def simcard_server(verdict: UsimResult) -> str:
    """NekoIMS: AUTS in both places; status 502 where the card refuses."""
    if isinstance(verdict, UsimReject):
        raise Failed(502)
    if isinstance(verdict, UsimSuccess):
        return json.dumps({"res": verdict.res.hex(), "ck": verdict.ck.hex(), "ik": verdict.ik.hex()})
    return json.dumps({"res": verdict.auts.hex(), "ck": None, "ik": None, "auts": verdict.auts.hex()})


@dataclass(eq=False)
class Served:
    """``token``: what a reverse proxy before it wants. ``asked``: path and query of each question."""

    usim: SoftwareUsim
    shape: Shape = version_3
    imsi: object = ""
    token: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def challenges(self) -> int:
        return sum(query["type"] == "rand-autn" for _, query in self.asked)

    def answer(self, target: str, authorization: str) -> tuple[int, str | None]:
        """Status and text of an answer; no text: none at all."""
        if self.token and authorization != f"Bearer {self.token}":
            return 401, "<html>who are you?</html>"
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        self.asked.append((url.path, query))
        try:
            if query["type"] == "imsi":
                return 200, json.dumps({"imsi": self.imsi or str(self.usim.imsi)}, indent="\t")
            rand, autn = bytes.fromhex(query["rand"]), bytes.fromhex(query["autn"])
            text = self.shape(self.usim.authenticate(rand, autn))
        except Failed as failed:
            return failed.status, json.dumps({"error": True, "error_code": failed.status, "error_msg": "Error"})
        self.said.append(text or "")
        return 200, text


@contextlib.contextmanager
def serve(served: Served, tls: ssl.SSLContext | None = None) -> Iterator[Served]:
    """It listens on a port of 127.0.0.1 that is free."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if served.shape is android else "HTTP/1.0"

        def do_GET(self) -> None:
            status, text = served.answer(self.path, self.headers.get("Authorization", ""))
            if text is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-type", "text/html" if served.shape is android else "application/json")
            if served.shape is android:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what it is asked is in ``asked``."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    served.port = server.server_address[1]
    with _running(server):
        yield served


@contextlib.contextmanager
def nonsense(act: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """The port of a server that does ``act`` to whoever has asked; the event: it is to end."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            held = b""
            while b"\r\n\r\n" not in held and (octets := self.request.recv(4096)):
                held += octets
            with contextlib.suppress(OSError):  # whoever asked may have gone
                act(self.request, over)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with _running(server):
        try:
            yield server.server_address[1]
        finally:
            over.set()


@contextlib.contextmanager
def _running(server: socketserver.TCPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certified(directory: Path, issued: Credentials) -> ssl.SSLContext:
    """A server's context with this certificate, which lies in ``server.crt`` then."""
    chain, key = directory / "server.crt", directory / "server.key"
    chain.write_bytes(issued.certificate_pem)
    key.write_bytes(issued.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def self_signed(directory: Path) -> ssl.SSLContext:
    """As the project's own guide makes one: key and certificate in ``server.pem``, for no name."""
    require_program("openssl")
    file = directory / "server.pem"
    words = ("req", "-new", "-x509", "-keyout", file, "-out", file, "-days", "365", "-nodes", "-subj", "/CN=raspberry")
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context

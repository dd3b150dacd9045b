"""
Real gateway processes for the integration tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.services import freePort

ROOT = Path(__file__).resolve().parent.parent
_READY = 30.0


class GatewayProcess:
    """
    C{twistd -n binaryserver} in a folder of its own, on free loopback ports.

    @ivar port: of MD30
    @ivar md21Port: of MD21
    @ivar httpPort: of the HTTP side
    @ivar folder: where its files are
    """

    def __init__(self, *options: str, bus: str = "", md30: str = "", md21: str = "", http: str = "") -> None:
        """
        @param bus: C{--bus}; a SQLite file in the folder by default
        @param md30: C{--md30}, with C{{port}} for the port
        @param md21: C{--md21}, likewise
        @param http: C{--http}, likewise
        """
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-"))
        self.port = freePort()
        self.md21Port = freePort()
        self.httpPort = freePort()
        self._md30 = (md30 or "tcp:{port}:interface=127.0.0.1").replace("{port}", str(self.port))
        self._md21 = (md21 or "tcp:{port}:interface=127.0.0.1").replace("{port}", str(self.md21Port))
        self._http = (http or "tcp:{port}:interface=127.0.0.1").replace("{port}", str(self.httpPort))
        self._bus = bus or f"sqlite:{self.folder}/bus.sqlite"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """
        Of the process; with workers, of their parent.
        """
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        """
        The command line.
        """
        return [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from twisted.scripts.twistd import run; run()",
            str(ROOT),
            "-n",
            f"--pidfile={self.folder}/pid",
            "binaryserver",
            f"--md30={self._md30}",
            f"--md21={self._md21}",
            f"--http={self._http}",
            f"--bus={self._bus}",
            f"--sessions=sqlite:{self.folder}/sessions.sqlite",
            "--flush-interval=0.005",
            *self._options,
        ]

    def start(self) -> GatewayProcess:
        """
        Start it and wait until it is ready.
        """
        with open(self.folder / "log", "ab") as log:
            before = log.tell()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=environment, cwd=self.folder)
        deadline = time.monotonic() + _READY
        while b"binaryserver is ready" not in (self.folder / "log").read_bytes()[before:]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the gateway does not start: {self.log()[-3000:]}")
            time.sleep(0.05)
        return self

    def log(self) -> str:
        """
        What it has logged.
        """
        return (self.folder / "log").read_text(errors="replace")

    def kill9(self) -> None:
        """
        C{kill -9}.
        """
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """
        SIGSTOP.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        SIGCONT.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def terminate(self, patience: float = 30.0) -> int:
        """
        SIGTERM.

        @return: the exit status
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait(patience)

    def wait(self, patience: float = 30.0) -> int:
        """
        Wait for its end.

        @return: the exit status
        """
        assert self.process is not None
        return self.process.wait(patience)

    def close(self) -> None:
        """
        End it, and remove its folder.
        """
        if self.process is not None and self.process.poll() is None:
            self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """
        One request to the HTTP side.

        @return: the status, and what its JSON says
        """
        connection = HTTPConnection("127.0.0.1", self.httpPort, timeout=60)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {} if data is None else {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def tail(self, topic: str = "tracks") -> list[dict[str, Any]]:
        """
        All that stands in a topic, over the HTTP side.
        """
        url = f"http://127.0.0.1:{self.httpPort}/api/tail?topic={topic}&from_start=1&follow=0"
        with urlopen(url, timeout=60) as answer:
            return [json.loads(line) for line in answer]

    def awaitTracks(self, count: int) -> None:
        """
        Wait until that many tracks have arrived.
        """
        deadline = time.monotonic() + _READY
        while len(self.tail()) < count:
            if time.monotonic() > deadline:
                raise AssertionError("no tracks arrive")
            time.sleep(0.1)

    def rss(self) -> int:
        """
        Resident memory, bytes.
        """
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def startBoxes(port: int, *options: str) -> subprocess.Popen[bytes]:
    """
    C{binaryserver-box --json} against a port.
    """
    return startFleet([port], "--timeout=60", "--no-messages", *options)


def startFleet(ports: Sequence[int], *options: str, output: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """
    C{binaryserver-box --json} against several ports, in turn.

    @param output: a file for what it prints, where that may be much
    """
    command = [sys.executable, "-c", "import sys; from binaryserver.tools.box import main; sys.exit(main())"]
    return subprocess.Popen(
        [*command, *(f"--connect=tcp:127.0.0.1:{port}" for port in ports), "--json", *options],
        stdout=output,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def boxesEnd(boxes: subprocess.Popen[bytes]) -> dict[str, Any]:
    """
    Wait for the boxes, which must have had everything acked, and give their sums.
    """
    output, _ = boxes.communicate(timeout=90)
    sums: dict[str, Any] = json.loads(output)
    if boxes.returncode:
        raise AssertionError(f"not everything was acked: {sums}")
    return sums


def connect(port: int) -> socket.socket:
    """
    A plain connection.
    """
    return socket.create_connection(("127.0.0.1", port), timeout=10)


@contextlib.contextmanager
def closing(*things: Any) -> Any:
    """
    Close everything at the end.
    """
    try:
        yield
    finally:
        for thing in things:
            thing.close()

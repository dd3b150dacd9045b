"""
A real InfluxDB of a test's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.services import freePort, requireProgram
from tests.services.services import isListening, spawn

DATABASE = "fleet"


class InfluxProcess:
    """
    Debian's C{influxd}, with HTTP and UDP on loopback; both write into L{DATABASE}.

    @ivar port: of HTTP
    @ivar udpPort: of UDP
    """

    def __init__(self) -> None:
        """
        @raise SkipTest: it is not installed
        """
        self._program = requireProgram("influxd", "influxdb")
        self.folder = Path(tempfile.mkdtemp(prefix="influx-"))
        self.port, self.udpPort, self._rpcPort = freePort(), freePort(), freePort()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> InfluxProcess:
        """
        Start it and make the database.
        """
        config = self.folder / "influxdb.conf"
        config.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{self._rpcPort}"\n'
            f'[meta]\ndir = "{self.folder}/meta"\n'
            f'[data]\ndir = "{self.folder}/data"\nwal-dir = "{self.folder}/wal"\n'
            f'[http]\nbind-address = "127.0.0.1:{self.port}"\nlog-enabled = false\n'
            f'[[udp]]\nenabled = true\nbind-address = "127.0.0.1:{self.udpPort}"\ndatabase = "{DATABASE}"\n'
            'batch-timeout = "100ms"\n'
        )
        self._process = spawn([self._program, "-config", str(config)], self.folder / "log")
        deadline = time.monotonic() + 30
        while not isListening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"influxd does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        self.query(f"CREATE DATABASE {DATABASE}")
        return self

    def query(self, text: str) -> list[dict[str, Any]]:
        """
        The series that a query gives: C{name}, C{tags}, C{columns}, C{values} of each.
        """
        data = urlencode({"db": DATABASE, "q": text}).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.port}/query", data), timeout=10) as answer:
            result = json.loads(answer.read())["results"][0]
        if "error" in result:
            raise AssertionError(result["error"])
        found: list[dict[str, Any]] = result.get("series", [])
        return found

    def close(self) -> None:
        """
        End it and remove its folder.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

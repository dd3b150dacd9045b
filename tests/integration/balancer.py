"""
A real HAProxy for the integration tests, with the configurations that operators are given.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.request import urlopen

from tests.gatewayprocess import ROOT
from tests.services import freePort, requireProgram

CONFIGURATIONS = ROOT / "deploy" / "haproxy"
_READY = 20.0


def program() -> str:
    """
    Its path; skips, or fails where services are required.
    """
    return requireProgram("haproxy", "haproxy")


class Balancer:
    """
    One process of it.

    @ivar ports: where its frontends listen, by what C{bind} says in the configuration
    @ivar folder: where its files are
    """

    def __init__(self, name: str, places: Mapping[str, str], binds: tuple[str, ...]) -> None:
        """
        @param name: of the configuration
        @param places: what to write for what stands there: addresses of this test's gateways, paths
        @param binds: what its frontends listen on, C{":1883"}
        """
        self._program = program()
        self.folder = Path(tempfile.mkdtemp(prefix="haproxy-"))
        self.ports = {bind: freePort() for bind in (*binds, "127.0.0.1:8404")}
        text = (CONFIGURATIONS / name).read_text()
        for old, new in {
            **places,
            **{f"bind {bind}": f"bind 127.0.0.1:{port}" for bind, port in self.ports.items()},
        }.items():
            if old not in text:
                raise AssertionError(f"{name} has no {old!r}")
            text = text.replace(old, new)
        self.path = self.folder / name
        self.path.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> str:
        """
        C{haproxy -c}.

        @return: what it finds wrong, warnings too
        """
        done = subprocess.run([self._program, "-c", "-q", "-f", str(self.path)], capture_output=True, timeout=30)
        return (done.stdout + done.stderr).decode() + (f"status {done.returncode}" if done.returncode else "")

    def start(self) -> Balancer:
        """
        Start it; its gateways may come later.
        """
        with open(self.folder / "log", "ab") as log:
            # In the foreground.
            self._process = subprocess.Popen([self._program, "-db", "-f", str(self.path)], stdout=log, stderr=log)
        return self

    def statistics(self) -> dict[tuple[str, str], dict[str, str]]:
        """
        What its statistics page says of each server, by the names of its backend and its own.
        """
        with urlopen(f"http://127.0.0.1:{self.ports['127.0.0.1:8404']}/;csv", timeout=10) as answer:
            rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
        return {(row["pxname"], row["svname"]): row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")}

    def awaitState(self, server: str, state: str) -> None:
        """
        Wait until every backend sees a server so: C{"UP"}, C{"DOWN"}.
        """
        deadline = time.monotonic() + _READY
        while True:
            try:
                found = {place: row["status"] for place, row in self.statistics().items() if place[1] == server}
            except OSError:
                found = {}
            if found and all(each.startswith(state) for each in found.values()):
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{server} is not {state} but {found}: {(self.folder / 'log').read_text()[-2000:]}"
                )
            time.sleep(0.1)

    def close(self) -> None:
        """
        End it, and remove its folder.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

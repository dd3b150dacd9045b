"""
A real Prometheus of a test's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.services import freePort, requireProgram
from tests.services.services import spawn


class PrometheusProcess:
    """
    Debian's C{prometheus} on loopback, which scrapes every second.

    @ivar port: of its API
    """

    def __init__(self, targets: Sequence[str], rules: Path) -> None:
        """
        @param targets: HOST:PORT of what it scrapes, as the job C{binaryserver}
        @param rules: alert rules
        @raise SkipTest: it is not installed
        """
        self._program = requireProgram("prometheus", "prometheus")
        self.folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self.port = freePort()
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "binaryserver", "static_configs": [{"targets": list(targets)}]}],
        }
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> PrometheusProcess:
        """
        Start it and wait until it answers.
        """
        command = [self._program, f"--config.file={self.folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        self._process = spawn(command, self.folder / "log")
        deadline = time.monotonic() + 30
        while not self._isReady():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Prometheus does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def _isReady(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def ask(self, path: str, **arguments: str) -> Any:
        """
        What its API gives.
        """
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(arguments)}"
        with urlopen(url, timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """
        The series that an expression gives now: labels and value of each.
        """
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]]

    def close(self) -> None:
        """
        End it and remove its folder.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

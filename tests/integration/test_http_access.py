"""
The HTTP side's rules, and the erasing of a box, on real gateway processes asked by C{binaryserver-ctl}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority, replaceFile
from tests.gatewayprocess import ROOT, GatewayProcess, boxesEnd, startBoxes
from tests.ops.test_tokens import FIRST, SECOND
from tests.services import freePort

PATIENCE = 30.0


class HttpAccessTests(SynchronousTestCase):
    """
    One gateway each.
    """

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="http-access-", dir=Path(self.mktemp()).absolute().parent)
        self.tokens = f"{self.folder}/tokens"
        replaceFile(self.tokens, FIRST)
        self.authority = Authority()
        self.certificate, self.key = self.authority.issueServer().write(self.folder, "server")
        self.ca = f"{self.folder}/ca.pem"
        replaceFile(self.ca, self.authority.certificatePem())

    def gateway(self, *options: str) -> GatewayProcess:
        """
        One that runs.
        """
        gateway = GatewayProcess(*options)
        self.addCleanup(gateway.close)
        return gateway.start()

    def ctl(self, *arguments: str) -> tuple[int, str]:
        """
        Exit status, and all that was said.
        """
        done = subprocess.run(
            [sys.executable, "-m", "binaryserver.tools.ctl", *arguments],
            capture_output=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return done.returncode, (done.stdout + done.stderr).decode()

    def test_token(self) -> None:
        """
        On every address, with TLS and a token: whoever has it is served, nobody else is; a changed file counts without
        a restart, and no token stands in the log.
        """
        port = freePort()
        gateway = self.gateway(
            f"--http=tls:{port}:cert={self.certificate}:key={self.key}", f"--http-token-file={self.tokens}"
        )
        tail = ("tail", "--no-follow", f"--http=https://localhost:{port}", f"--ca={self.ca}")
        self.assertEqual(self.ctl(*tail, f"--token-file={self.tokens}"), (0, ""))
        status, said = self.ctl(*tail)
        self.assertEqual((status, "401 Unauthorized" in said), (1, True), said)
        own = f"{self.folder}/own"
        replaceFile(own, SECOND)
        self.assertEqual(self.ctl(*tail, f"--token-file={own}")[0], 1)
        replaceFile(self.tokens, SECOND)
        deadline = time.monotonic() + PATIENCE
        while self.ctl(*tail, f"--token-file={own}")[0]:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(gateway.terminate(), 0)
        for token in (FIRST, SECOND):
            self.assertNotIn(token.decode(), gateway.log())

    def test_refused(self) -> None:
        """
        Elsewhere than on loopback without rules, and with a token by plain TCP, the start ends with one line.
        """
        for options, words in (
            (
                ("--http=tcp:0",),
                "--http: tcp:0: without --http-token-file, or tls: with clientca=, it must be",
            ),
            (("--http=tcp:0", f"--http-token-file={self.tokens}"), "--http: tcp:0: a token can be read on its way"),
            (("--http-token-file=/none/such",), "--http-token-file: /none/such: No such file"),
            (("--http-behind-tls",), "--http-behind-tls: is of no use without --http-token-file"),
        ):
            gateway = GatewayProcess(*options)
            self.addCleanup(gateway.close)
            done = subprocess.run(gateway.command(), capture_output=True, timeout=60, cwd=gateway.folder)
            lines = [line for line in done.stderr.decode().splitlines() if line.startswith("binaryserver: ")]
            self.assertEqual((done.returncode, len(lines)), (1, 1), done.stderr)
            self.assertIn(words, lines[0])

    def test_erase(self) -> None:
        """
        A box that was there is erased, and its events cannot be read back any more; another one's can.
        """
        gateway = self.gateway()
        boxesEnd(startBoxes(gateway.port, "--boxes=2", "--tracks=20", "--batch=5", "--seed=4"))
        assets = sorted({event["asset"] for event in gateway.tail()})
        self.assertEqual(len(assets), 2)
        http = f"--http=http://127.0.0.1:{gateway.httpPort}"
        deadline = time.monotonic() + PATIENCE
        while "is connected" in (said := self.ctl("erase", http, "--yes", "--json", assets[0]))[1]:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(said[0], 0, said)
        removed = json.loads(said[1])["removed"]
        self.assertEqual((removed["sessions"], removed["streams"]), (1, 1))
        self.assertGreaterEqual(removed["records"], 20)
        for topic in ("tracks", "presences"):
            self.assertEqual({event["asset"] for event in gateway.tail(topic)}, {assets[1]}, topic)
        self.assertEqual(gateway.terminate(), 0)

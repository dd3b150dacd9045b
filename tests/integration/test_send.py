"""
C{binaryserver-ctl send} and C{binaryserver-box}, on every bus: a message to a box and its answer back, as a stranger
does it from a shell.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from tests.gatewayprocess import ROOT, GatewayProcess, startFleet
from tests.services import makeTopics, requireKafka, requireRedis, uniquePrefix

ASSET = "350000000000001"


class SendTests(SynchronousTestCase):
    """
    One gateway, one box, one shell.
    """

    def send(self, gateway: GatewayProcess, *arguments: str) -> tuple[int, list[dict[str, object]], str]:
        """
        C{binaryserver-ctl send --json}.

        @return: exit status, what it printed, and its errors
        """
        program = "import sys; from binaryserver.tools.ctl import main; sys.exit(main())"
        url = f"http://127.0.0.1:{gateway.httpPort}"
        ended = subprocess.run(
            [sys.executable, "-c", program, "send", f"--http={url}", "--json", "--timeout=30", *arguments],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
            check=False,
        )
        return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr.decode()

    def run_(self, bus: str = "", *options: str) -> None:
        """
        The whole story.
        """
        gateway = GatewayProcess(*options, bus=bus)
        self.addCleanup(gateway.close)
        gateway.start()
        status, _, error = self.send(gateway, ASSET, "config", "x")
        self.assertEqual((status, "no box" in error, error.count("\n")), (1, True, 1), error)
        output = Path(self.mktemp())
        with output.open("wb") as file:
            box = startFleet([gateway.port], "--tracks=0", "--stay", "--account=acme", output=file)
        self.addCleanup(box.kill)
        deadline = time.monotonic() + 15
        while not gateway.tail("presences"):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        status, lines, error = self.send(gateway, ASSET, "config", "interval=30", "--want-ack", "--wait", "--no-queue")
        self.assertEqual((status, error), (0, ""))
        self.assertEqual(lines[0]["account"], "acme")
        self.assertIn("ACKED", str(lines[-1]))
        box.send_signal(signal.SIGTERM)
        self.assertEqual(box.wait(15), 0)
        received = json.loads(output.read_text().splitlines()[0])
        self.assertEqual((received["asset"], received["channel"], received["id"]), (ASSET, "config", lines[0]["id"]))
        status, lines, _ = self.send(gateway, ASSET, "config", "now", "--no-queue", "--wait")
        self.assertEqual(status, 1)
        self.assertIn("BOX_AWAY", str(lines[-1]))
        status, lines, _ = self.send(gateway, ASSET, "config", "soon", "--expires=1", "--wait")
        self.assertEqual(status, 1)
        self.assertIn("EXPIRED", str(lines[-1]))
        self.assertEqual(gateway.terminate(), 0)

    def test_sqlite(self) -> None:
        """
        The embedded default.
        """
        self.run_()

    def test_workers(self) -> None:
        """
        Two workers on it: the message is consumed by one, and the box may be the other's.
        """
        self.run_("", "--workers=2")

    def test_memory(self) -> None:
        """
        Everything in memory.
        """
        self.run_("memory:", "--sessions=memory:")

    def test_kafka(self) -> None:
        """
        Kafka 4.4 and Redis.
        """
        host, port = requireRedis()
        prefix = uniquePrefix()
        kafka = requireKafka()
        makeTopics(kafka, Topics.named(prefix).all)
        sessions = f"--sessions=redis://{host}:{port}/9?prefix={prefix}"
        self.run_(f"kafka://{kafka}", f"--topic-prefix={prefix}", sessions)

    def test_pykafka(self) -> None:
        """
        Kafka 3.9 and 4.4 by pykafka.
        """
        for name in ("kafka39", "kafka44"):
            prefix = uniquePrefix()
            kafka = requireKafka(name)
            makeTopics(kafka, Topics.named(prefix).all)
            self.run_(f"pykafka://{kafka}", f"--topic-prefix={prefix}")

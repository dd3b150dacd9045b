"""
A real gateway that writes to both clouds, and a real Shovel beside it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from tests.gatewayprocess import GatewayProcess, boxesEnd, startBoxes
from tests.session.redisrig import RedisServer
from tests.shovel.process import ShovelProcess


class BothCloudsTests(SynchronousTestCase):
    """
    C{--cloudconnect}.
    """

    def setUp(self) -> None:
        """
        A Redis that may be stopped.
        """
        self.server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.addCleanup(self.server.close)
        self.server.start()
        self.rqueue = f"rqueue://127.0.0.1:{self.server.port}/0"

    def counts(self, shovel: ShovelProcess) -> dict[str, Any]:
        """
        What the Shovel has counted.
        """
        with urlopen(f"http://127.0.0.1:{shovel.httpPort}/counts", timeout=20) as answer:
            counts: dict[str, Any] = json.load(answer)
            return counts

    def test_both(self) -> None:
        """
        What is acked is in both; the Shovel leaves alone what CloudNext has, each once. While the second cloud is away
        nothing is acked, and boxes bring it again.
        """
        gateway = GatewayProcess(f"--cloudconnect={self.rqueue}")
        self.addCleanup(gateway.close)
        gateway.start()
        boxesEnd(startBoxes(gateway.port, "--boxes=5", "--tracks=100", "--batch=4"))
        self.assertEqual(len(gateway.tail()), 500)
        self.server.freeze()
        waiting = startBoxes(gateway.port, "--boxes=5", "--tracks=20", "--first-asset=450000000000001")
        time.sleep(3)
        self.assertIsNone(waiting.poll(), "acked without the second cloud")
        self.server.thaw()
        boxesEnd(waiting)
        names = Counter((event["asset"], event["stream"], event["index"]) for event in gateway.tail())
        self.assertEqual((len(names), set(names.values())), (600, {1}))
        shovel = ShovelProcess(f"--rqueue={self.rqueue}", f"--bus=sqlite:{gateway.folder}/other.sqlite")
        self.addCleanup(shovel.close)
        shovel.start()
        deadline = time.monotonic() + 20
        while self.counts(shovel)["skipped"]["track"] < 600 and time.monotonic() < deadline:
            time.sleep(0.2)
        counts = self.counts(shovel)
        self.assertEqual(counts["skipped"]["track"], 600)
        self.assertEqual(counts["copied"]["track"], 0)
        self.assertEqual(shovel.terminate(), 0)
        self.assertEqual(gateway.terminate(), 0)

    def test_badSpec(self) -> None:
        """
        One line that names the option.
        """
        for spec in ("rqueue:", "rqueue://127.0.0.1:1/0", "kafka://127.0.0.1:1"):
            gateway = GatewayProcess(f"--cloudconnect={spec}", "--start-timeout=1")
            self.addCleanup(gateway.close)
            error = str(self.assertRaises(AssertionError, gateway.start))
            self.assertIn("binaryserver: --cloudconnect: ", error)

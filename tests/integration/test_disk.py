"""
A gateway whose disk takes nothing for a while.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.gatewayprocess import GatewayProcess, boxesEnd, startBoxes

_PATIENCE = 60.0


class FullDiskTests(SynchronousTestCase):
    """
    Bus and sessions in SQLite, whose files may not grow.
    """

    def waitFor(self, isSo: Callable[[], bool], what: str) -> None:
        """
        Wait until something is so.
        """
        deadline = time.monotonic() + _PATIENCE
        while not isSo():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.1)

    def test_full(self) -> None:
        """
        It says so, acks nothing that is not there, and goes on by itself once there is room: each track is there once.
        """
        gateway = GatewayProcess()
        self.addCleanup(gateway.close)
        gateway.start()
        boxes = startBoxes(gateway.port, "--boxes=3", "--tracks=60", "--rate=10")
        self.addCleanup(boxes.kill)
        gateway.awaitTracks(10)
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (4096, hard))
        self.waitFor(lambda: not self.checks(gateway)["bus"], "the bus is said to be well")
        self.waitFor(lambda: not self.checks(gateway)["sessions"], "the sessions are said to be well")
        self.assertIsNone(boxes.poll(), "the boxes think that all is acked")
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (soft, hard))
        self.waitFor(lambda: all(self.checks(gateway).values()), "it is not ready again")
        self.assertEqual(boxesEnd(boxes)["acked"], 180)
        found = [(track["asset"], track["stream"], track["index"]) for track in gateway.tail()]
        self.assertEqual((len(found), len(set(found))), (180, 180))
        self.assertEqual(gateway.terminate(), 0)

    def checks(self, gateway: GatewayProcess) -> dict[str, bool]:
        """
        What C{/readyz} says, by its checks.
        """
        return {name: check["ok"] for name, check in gateway.ask("GET", "/readyz")[1]["checks"].items()}

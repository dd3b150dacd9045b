"""
Chaos from one seed: several gateways, their Redis and fleets of boxes, of which something dies or stands still all the
time (G1 to G6). C{python -m tests.chaos} does it from any.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.gatewayprocess import ROOT
from tests.services import requireKafka, requireProgram

_SEED = 329
_SECONDS = 12
_PATIENCE = 240.0


class ChaosTests(SynchronousTestCase):
    """
    The program, in a process and a session of its own.
    """

    def test_seed(self) -> None:
        """
        Instances are killed, frozen and drained, and Redis is frozen, while boxes move, tracks come and messages of
        every kind are sent; nothing that was promised is violated.
        """
        requireKafka()
        requireProgram("redis-server", "redis-server")
        command = [sys.executable, "-m", "tests.chaos", f"--seed={_SEED}", f"--seconds={_SECONDS}", "--kafka=shared"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        chaos = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = chaos.communicate(timeout=_PATIENCE)
        finally:
            if chaos.poll() is None:
                os.killpg(chaos.pid, signal.SIGKILL)
                chaos.wait()
        self.assertEqual(chaos.returncode, 0, output)

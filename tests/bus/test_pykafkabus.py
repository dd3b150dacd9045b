"""
L{binaryserver.bus.pykafkabus}: the whole bus on a Kafka without sockets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

import binaryserver
from binaryserver.bus.pykafkabus import PykafkaBus
from binaryserver.errors import BusError, BusUnavailable, RecordTooLarge
from binaryserver.interfaces import IBus, IBusPlugin
from binaryserver.plugins import BackEndContext, createBackEnd
from tests.bus.contract import StallingBusContractMixin
from tests.bus.fakekafka import FakeKafka
from tests.bus.pykafkarig import Rig, watch

reactor: Any = globalReactor


class PykafkaBusContractTests(StallingBusContractMixin, TestCase):
    """
    The contract, on a Kafka without sockets, in real time.
    """

    def setUp(self) -> None:
        self.kafka = FakeKafka(reactor)

    async def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> IBus:
        context = BackEndContext(reactor, "--bus", topics=tuple(topics), stopTimeout=stopTimeout, startTimeout=5.0)
        return PykafkaBus("pykafka://one:9092", context, self.kafka.makeLink)

    async def stall(self) -> None:
        self.kafka.stalled = True

    async def resume(self) -> None:
        self.kafka.resume()


class StartTests(SynchronousTestCase):
    """
    L{PykafkaBus.start} and what goes before it.
    """

    def test_plugin(self) -> None:
        """
        The scheme finds it.
        """
        context = BackEndContext(Clock(), "--bus")
        self.assertIsInstance(createBackEnd(IBusPlugin, "pykafka://one:9092", context), PykafkaBus)

    def test_importsLate(self) -> None:
        """
        Neither listing plugins nor the bus's module imports pykafka; and its import leaves no stand-in behind.
        """
        script = (
            "import sys\n"
            "from binaryserver.interfaces import IBusPlugin\n"
            "from binaryserver.plugins import backEnds\n"
            "import binaryserver.bus.pykafkabus\n"
            "assert 'pykafka' in backEnds(IBusPlugin)\n"
            "assert 'pykafka' not in sys.modules\n"
            "import binaryserver.bus.pykafka_link\n"
            "assert 'pykafka' in sys.modules\n"
            "assert 'pkg_resources' not in sys.modules or sys.modules['pkg_resources'].__spec__ is not None\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(binaryserver.__file__))}
        ran = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))

    def test_allBrokersDown(self) -> None:
        """
        A start that finds no broker fails after the start timeout, and says why.
        """
        rig = Rig(startTimeout=15.0)
        rig.kafka.down = {1, 2}
        results = watch(rig.bus.start())
        rig.run(14.9)
        self.assertEqual(results, [])
        rig.run(0.2)
        self.assertIsInstance(results[0], BusUnavailable)
        self.assertIn("one:9092: refused", str(results[0]))

    def test_brokerComesUp(self) -> None:
        """
        A start waits for a broker to come.
        """
        rig = Rig()
        rig.kafka.down = {1, 2}
        results = watch(rig.bus.start())
        rig.run(5)
        self.assertEqual(results, [])
        rig.kafka.down = {1}
        rig.run(1)
        self.assertEqual(results, [None])

    def test_otherSeed(self) -> None:
        """
        One of the brokers named is enough.
        """
        rig = Rig([2])
        rig.kafka.down = {1}
        rig.started()
        done = rig.publish(b"a")
        rig.run(1)
        self.assertEqual(done, [None])

    def test_tooOld(self) -> None:
        """
        A cluster that does not take our requests ends the start with their names.
        """
        rig = Rig()
        rig.kafka.versions[0] = (0, 2)
        results = watch(rig.bus.start())
        rig.run(1)
        self.assertIsInstance(results[0], BusError)
        self.assertIn("Produce 3", str(results[0]))

    def test_maxRecord(self) -> None:
        """
        The largest record is what the topic allows.
        """
        rig = Rig()
        rig.kafka.settings["max.message.bytes"] = "300000"
        rig.started()
        self.assertEqual(rig.bus.maxRecord, 300_000 - 1024)
        results = rig.publish(bytes(300_000))
        self.assertIsInstance(results[0], RecordTooLarge)

    def test_partitionWithoutLeader(self) -> None:
        """
        A partition without a leader does not hold up the start, nor the other partitions.
        """
        rig = Rig([1, -1]).started()
        stuck, done = rig.publish(b"a", partition=1), rig.publish(b"b")
        rig.run(2)
        self.assertEqual((stuck, done), ([], [None]))
        rig.kafka.leaders["t"][1] = 2
        rig.run(2)
        self.assertEqual(stuck, [None])

    def test_replicationTooHigh(self) -> None:
        """
        What the broker says against a topic is told.
        """
        rig = Rig()
        results = watch(rig.bus.createTopics(["new"], 3, 5))
        rig.run(1)
        self.assertIsInstance(results[0], BusError)
        self.assertIn("too few brokers", str(results[0]))

    def test_stopDuringStart(self) -> None:
        """
        A bus may be stopped before its start has ended; nothing is left to be called.
        """
        rig = Rig()
        rig.kafka.down = {1, 2}
        started = watch(rig.bus.start())
        rig.run(1)
        stopped = watch(rig.bus.stop())
        rig.run(0.5)
        self.assertEqual(stopped, [None])
        self.assertIsInstance(started[0], BusUnavailable)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

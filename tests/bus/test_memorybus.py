"""
Tests for L{binaryserver.bus.memorybus}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from twisted.internet.defer import succeed
from twisted.trial.unittest import TestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IBus
from binaryserver.plugins import BackEndContext
from tests.bus.contract import BusContractMixin, reactor


class MemoryBusContractTests(BusContractMixin, TestCase):
    """
    The contract.
    """

    makesTopicsAtStart = True
    knowsLag = True
    mustErase = True

    def setUp(self) -> None:
        """
        One bus a test, since its log is its own.
        """
        self.bus: MemoryBus | None = None

    def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> Awaitable[IBus]:
        """
        See L{BusContractMixin.makeBus}.
        """
        if self.bus is None or topics:
            self.bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=tuple(topics)))
        return succeed(self.bus)


class MemoryBusTests(TestCase):
    """
    What is its own.
    """

    def test_options(self) -> None:
        """
        What the specification may say, and what not.
        """
        context = BackEndContext(reactor, "--bus", topics=("t",))
        bus = MemoryBus("memory:?partitions=3&records=2", context)
        self.successResultOf(bus.start())
        self.assertEqual({bus.partitionFor("t", b"%d" % n) for n in range(50)}, {0, 1, 2})
        for spec in ("memory:x", "memory:?partitions=0", "memory:?partitions=a", "memory:?what=1"):
            error = self.assertRaises(ConfigError, MemoryBus, spec, context)
            self.assertTrue(str(error).startswith("--bus: "), str(error))

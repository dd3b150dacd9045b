"""
A L{PykafkaBus} on a L{FakeKafka}, with a clock that tests move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafkabus import PykafkaBus
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from tests.bus.fakekafka import FakeKafka


class Rig:
    """
    A bus, a Kafka and a clock.
    """

    def __init__(self, partitions: Sequence[int] = (1,), **context: Any) -> None:
        """
        @param partitions: the leader of each partition of topic C{t}
        """
        self.clock = Clock()
        self.kafka = FakeKafka(self.clock)
        self.kafka.brokers[2] = Address("two", 9092)
        self.kafka.leaders["t"] = list(partitions)
        self.context = BackEndContext(self.clock, "--bus", topics=("t",), **context)
        self.bus = PykafkaBus("pykafka://one:9092,two:9092", self.context, self.kafka.makeLink)

    def run(self, seconds: float, step: float = 0.01) -> None:
        """
        Let time pass.
        """
        self.clock.pump([step] * max(1, round(seconds / step)))

    def started(self) -> Rig:
        """
        With the bus started.
        """
        results = watch(self.bus.start())
        self.run(1.0)
        assert results == [None], results
        return self

    def publish(self, *values: bytes, partition: int = 0) -> list[Any]:
        """
        A flush of these values; gives the list that its result will stand in.
        """
        return watch(self.bus.publish("t", partition, [Record(b"k", value) for value in values]))

    def stored(self, partition: int = 0) -> list[bytes]:
        """
        The values that Kafka has.
        """
        return [record.value for record in self.kafka.records("t", partition)]


def watch(deferred: Deferred[Any]) -> list[Any]:
    """
    The list that the result will stand in; of a failure, its error.
    """
    results: list[Any] = []

    def note(result: Any) -> None:
        results.append(result.value if isinstance(result, Failure) else result)

    deferred.addBoth(note)
    return results

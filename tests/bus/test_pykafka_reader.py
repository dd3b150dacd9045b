"""
L{binaryserver.bus.pykafka_reader}, on a Kafka without sockets.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.pykafka_records import BadKafkaBytes
from binaryserver.errors import BusError, BusUnavailable
from binaryserver.interfaces import IBusReader
from tests.bus.pykafkarig import Rig, watch


class ReaderTests(SynchronousTestCase):
    """
    What a reader does when something goes wrong.
    """

    def opened(self, rig: Rig, fromStart: bool = True) -> IBusReader:
        """
        A reader of topic C{t}.
        """
        results = watch(rig.bus.openReader(["t"], fromStart))
        rig.run(0.5)
        reader: IBusReader = results[0]
        return reader

    def read(self, rig: Rig, reader: IBusReader, seconds: float = 0.6) -> list[bytes]:
        """
        The values of one read.
        """
        results = watch(reader.read(100))
        rig.run(seconds)
        self.assertEqual(len(results), 1)
        return [record.value for record in results[0]]

    def test_unknownTopic(self) -> None:
        """
        A topic that is not there cannot be read.
        """
        rig = Rig().started()
        results = watch(rig.bus.openReader(["nowhere"], True))
        rig.run(1)
        self.assertIsInstance(results[0], BusError)
        self.assertIn("nowhere", str(results[0]))

    def test_noLeader(self) -> None:
        """
        A partition without a leader fails the opening after the start timeout, with its name.
        """
        rig = Rig([1, -1], startTimeout=4.0).started()
        results = watch(rig.bus.openReader(["t"], True))
        rig.run(3.5)
        self.assertEqual(results, [])
        rig.run(1.5)
        self.assertIsInstance(results[0], BusUnavailable)
        self.assertIn("t/1", str(results[0]))

    def test_leaderMoves(self) -> None:
        """
        A partition that has moved is followed.
        """
        rig = Rig().started()
        rig.publish(b"a")
        rig.run(1)
        reader = self.opened(rig)
        self.assertEqual(self.read(rig, reader), [b"a"])
        rig.kafka.leaders["t"] = [2]
        rig.publish(b"b")
        rig.run(1)
        self.assertEqual(self.read(rig, reader) or self.read(rig, reader), [b"b"])

    def test_brokerAway(self) -> None:
        """
        While the broker is away reads give nothing; once it is back they give everything.
        """
        rig = Rig().started()
        reader = self.opened(rig)
        rig.publish(b"a")
        rig.run(1)
        rig.kafka.down = {1}
        self.assertEqual(self.read(rig, reader), [])
        self.assertFalse(self.read(rig, reader))
        rig.kafka.down = set()
        self.assertEqual(self.read(rig, reader), [b"a"])

    def test_retention(self) -> None:
        """
        Where records went before they were read, the reader goes on with the first that are left.
        """
        rig = Rig().started()
        for value in (b"a", b"b", b"c"):
            rig.publish(value)
            rig.run(1)
        reader = self.opened(rig)
        rig.kafka.trim("t", 0, 2)
        self.assertEqual(self.read(rig, reader), [b"c"])
        self.assertTrue(reader.caughtUp)

    def test_unreadable(self) -> None:
        """
        Records that cannot be read fail the read, and every one after it.
        """
        rig = Rig().started()
        rig.publish(b"a")
        rig.run(1)
        rig.kafka.corrupt("t", 0)
        reader = self.opened(rig)
        for _ in range(2):
            results = watch(reader.read(10))
            rig.run(1)
            self.assertIsInstance(results[0], BadKafkaBytes)

    def test_closeLeavesNothing(self) -> None:
        """
        After a close nothing of the reader is left to be called; nor after the bus's stop.
        """
        rig = Rig().started()
        reader = self.opened(rig)
        results = watch(reader.read(10))
        rig.kafka.down = {1}
        rig.run(0.1)
        watch(reader.close())
        self.assertEqual(results, [[]])
        watch(rig.bus.stop())
        rig.run(0.1)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

"""
L{binaryserver.bus.pykafka_sender} and L{binaryserver.bus.pykafka_queue}, on a Kafka without sockets.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.pykafka_options import Address
from binaryserver.errors import BusError, FlushTimeout, RecordTooLarge
from tests.bus.fakekafka import Mishap
from tests.bus.pykafkarig import Rig, watch


class PublishTests(SynchronousTestCase):
    """
    What becomes of flushes when something goes wrong.
    """

    def test_gathers(self) -> None:
        """
        Flushes that wait for one broker go in one request, one batch for each partition.
        """
        rig = Rig([1, 1]).started()
        results = [rig.publish(b"%d" % number, partition=number % 2) for number in range(10)]
        rig.run(1)
        self.assertEqual(results, [[None]] * 10)
        self.assertEqual(rig.kafka.produced, 1)
        self.assertEqual(rig.stored(1), [b"1", b"3", b"5", b"7", b"9"])

    def test_flushInterval(self) -> None:
        """
        A flush waits for others no longer than the flush interval; a large one not at all.
        """
        rig = Rig(flushInterval=0.5).started()
        small = rig.publish(b"warm")
        rig.run(1)
        small = rig.publish(b"a")
        rig.run(0.4)
        self.assertEqual(small, [])
        rig.run(0.2)
        self.assertEqual(small, [None])
        large = rig.publish(bytes(200_000))
        rig.run(0.1)
        self.assertEqual(large, [None])

    def test_splits(self) -> None:
        """
        A flush larger than a batch may be goes in several, in order, and fires once all are there.
        """
        rig = Rig().started()
        values = [bytes([number]) * 400_000 for number in range(10)]
        results = rig.publish(*values)
        after = rig.publish(b"after")
        rig.run(2)
        self.assertEqual((results, after), ([None], [None]))
        self.assertEqual(rig.stored(), [*values, b"after"])
        self.assertGreater(rig.kafka.produced, 4)

    def test_lostAnswer(self) -> None:
        """
        A batch that the broker took, though its answer was lost, is not there twice.
        """
        for mishap in (Mishap.lostAfter, Mishap.lostBefore, Mishap.silent):
            rig = Rig().started()
            rig.kafka.mishaps.append(mishap)
            first, second = rig.publish(b"a", b"b"), []
            rig.run(0.2)
            second = rig.publish(b"c")
            rig.run(15)
            self.assertEqual((first, second), ([None], [None]))
            self.assertEqual(rig.stored(), [b"a", b"b", b"c"])
            self.assertEqual(rig.bus.pendingBytes, 0)

    def test_deadline(self) -> None:
        """
        Whatever the broker does, a flush fails once its time is over, and nothing is pending then.
        """
        for mishap in (Mishap.silent, Mishap.lostBefore, Mishap.lostAfter):
            rig = Rig(batchDeadline=30.0).started()
            rig.kafka.mishaps.extend([mishap] * 1000)
            results = rig.publish(b"a")
            rig.run(29)
            self.assertEqual(results, [])
            rig.run(3)
            self.assertIsInstance(results[0], FlushTimeout)
            self.assertEqual(rig.bus.pendingBytes, 0)

    def test_afterTheDeadline(self) -> None:
        """
        A flush published after one that ran out of time does not wait for it, and commits once the broker is back.
        """
        rig = Rig(batchDeadline=30.0).started()
        rig.kafka.mishaps.extend([Mishap.silent] * 3)
        lost = rig.publish(b"lost")
        rig.run(32)
        self.assertIsInstance(lost[0], FlushTimeout)
        good = rig.publish(b"good")
        rig.run(15)
        self.assertEqual(good, [None])
        self.assertEqual(rig.stored(), [b"lost", b"good"])

    def test_neverSentAfterDeadline(self) -> None:
        """
        What ran out of time before it was sent is never sent.
        """
        rig = Rig(batchDeadline=5.0).started()
        rig.kafka.leaders["t"] = [-1]
        rig.kafka.errors.append(5)
        rig.publish(b"warm")
        rig.run(1)
        late = rig.publish(b"late")
        rig.run(10)
        self.assertIsInstance(late[0], FlushTimeout)
        rig.kafka.leaders["t"] = [1]
        good = rig.publish(b"good")
        rig.run(3)
        self.assertEqual(good, [None])
        self.assertEqual(rig.stored(), [b"good"])

    def test_leaderMoves(self) -> None:
        """
        A partition that has moved is followed.
        """
        rig = Rig().started()
        first = rig.publish(b"a")
        rig.run(1)
        rig.kafka.leaders["t"] = [2]
        second = rig.publish(b"b")
        rig.run(2)
        self.assertEqual((first, second), ([None], [None]))
        self.assertEqual(rig.stored(), [b"a", b"b"])

    def test_leaderDies(self) -> None:
        """
        A leader that is gone is replaced by the one that the others name.
        """
        rig = Rig().started()
        rig.kafka.down = {1}
        rig.kafka.leaders["t"] = [2]
        done = rig.publish(b"a")
        rig.run(3)
        self.assertEqual(done, [None])

    def test_brokerMoves(self) -> None:
        """
        A broker that listens elsewhere from now on is found by the brokers that are still where they were.
        """
        rig = Rig().started()
        rig.kafka.brokers[1] = Address("elsewhere", 9092)
        done = rig.publish(b"a")
        rig.run(3)
        self.assertEqual(done, [None])

    def test_otherBrokerStuck(self) -> None:
        """
        A broker that does not answer delays its own partitions only.
        """
        rig = Rig([1, 2]).started()
        rig.kafka.mishaps.append(Mishap.silent)
        stuck = rig.publish(b"a", partition=0)
        rig.run(0.5)
        done = rig.publish(b"b", partition=1)
        rig.run(1)
        self.assertEqual((stuck, done), ([], [None]))
        rig.run(12)
        self.assertEqual(stuck, [None])

    def test_retriableErrors(self) -> None:
        """
        Too few replicas in sync, or a slow replica, is retried until it works.
        """
        rig = Rig().started()
        rig.kafka.errors.extend([19, 20, 7, -1, 2, 56])
        done = rig.publish(b"a")
        rig.run(6)
        self.assertEqual(done, [None])
        self.assertEqual(rig.stored(), [b"a"])

    def test_producerForgotten(self) -> None:
        """
        A producer that the cluster no longer knows becomes a new one.
        """
        rig = Rig().started()
        rig.publish(b"a")
        rig.run(1)
        rig.kafka.errors.append(59)
        done = rig.publish(b"b"), rig.publish(b"c")
        rig.run(2)
        self.assertEqual(done, ([None], [None]))
        self.assertEqual(rig.stored(), [b"a", b"b", b"c"])

    def test_refused(self) -> None:
        """
        A batch that is refused for good fails its flushes at once; the next ones work.
        """
        rig = Rig().started()
        rig.kafka.errors.append(29)
        refused = rig.publish(b"a")
        rig.run(0.5)
        self.assertIsInstance(refused[0], BusError)
        self.assertIn("29", str(refused[0]))
        done = rig.publish(b"b")
        rig.run(0.5)
        self.assertEqual((done, rig.stored()), ([None], [b"b"]))

    def test_topicAllowsLess(self) -> None:
        """
        Where a topic allows less than it did at start, batches get smaller, and a record without a place fails alone.
        """
        rig = Rig().started()
        rig.kafka.limit = 100_000
        many = [rig.publish(*(b"%03d" % number + bytes(20_000) for number in range(10))) for _ in range(3)]
        large = rig.publish(bytes(150_000))
        after = rig.publish(b"after")
        rig.run(10)
        self.assertEqual((many, after), ([[None]] * 3, [None]))
        self.assertIsInstance(large[0], RecordTooLarge)
        self.assertEqual([value[:3] for value in rig.stored()], [*(b"%03d" % n for n in range(10))] * 3 + [b"aft"])

    def test_topicAllowsLessAmidFlush(self) -> None:
        """
        A record without a place in a flush whose others are there fails it, but not as one of which nothing is there.
        """
        rig = Rig().started()
        rig.kafka.limit = 100_000
        results = rig.publish(b"a", bytes(150_000), b"b")
        rig.run(10)
        self.assertIsInstance(results[0], BusError)
        self.assertNotIsInstance(results[0], RecordTooLarge)

    def test_stopLeavesNothing(self) -> None:
        """
        After a stop that gave up, nothing is left to be called.
        """
        rig = Rig(stopTimeout=3.0).started()
        rig.kafka.down = {1, 2}
        pending = rig.publish(b"a")
        stopped = watch(rig.bus.stop())
        rig.run(2.5)
        self.assertEqual((pending, stopped), ([], []))
        rig.run(10)
        self.assertIsInstance(pending[0], BusError)
        self.assertEqual(stopped, [None])
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    @settings(max_examples=200, deadline=None)
    @given(
        mishaps=st.lists(st.sampled_from(Mishap), max_size=12),
        errors=st.lists(st.sampled_from([0, 0, 6, 7, 19, 20, 45, 59, 10]), max_size=12),
        flushes=st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from([0.0, 0.02, 0.3])), min_size=1, max_size=20
        ),
        moves=st.lists(st.sampled_from([-1, 1, 2]), max_size=4),
    )
    def test_anyMishaps(
        self,
        mishaps: list[Mishap],
        errors: list[int],
        flushes: list[tuple[int, int, float]],
        moves: list[int],
    ) -> None:
        """
        Whatever goes wrong on the way: each flush ends, all that fired well is there, in order; and once, unless
        the broker forgot the producer or thought a batch too large that it had taken before.
        """
        rig = Rig([1, 2, 1], batchDeadline=40.0).started()
        rig.kafka.mishaps.extend(mishaps)
        rig.kafka.errors.extend(errors)
        published: list[tuple[int, list[bytes], list[Any]]] = []
        for number, (partition, count, pause) in enumerate(flushes):
            values = [b"%d.%d" % (number, part) for part in range(count)]
            published.append((partition, values, rig.publish(*values, partition=partition)))
            if pause:
                rig.run(pause)
            if moves and number % 4 == 0:
                rig.kafka.leaders["t"][partition] = moves.pop()
        rig.run(5)
        rig.kafka.leaders["t"] = [2, 1, 2]
        rig.run(60, 0.05)
        self.assertEqual([len(results) for _, _, results in published], [1] * len(published))
        self.assertEqual(rig.bus.pendingBytes, 0)
        for partition in range(3):
            stored = rig.stored(partition)
            good = [
                value
                for where, values, results in published
                for value in values
                if where == partition and results == [None]
            ]
            first = list(dict.fromkeys(stored))
            self.assertEqual([value for value in first if value in set(good)], good)
            if not {10, 45, 59} & set(errors):
                self.assertEqual(len(stored), len(first))

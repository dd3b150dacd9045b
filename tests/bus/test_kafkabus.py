"""
Tests for L{binaryserver.bus.kafkabus} with a producer in memory: what it queues, counts and retries. The same on a real
Kafka is in L{tests.integration.test_kafkabus}.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus import kafkabus
from binaryserver.bus.kafkabus import KafkaBus
from binaryserver.errors import BusError, RecordTooLarge
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext

TOPIC = "tracks"
PARTITIONS = 3
TICK = 0.01

Report = Callable[[KafkaError | None, object], None]


class MemoryProducer:
    """
    A producer that queues and delivers as librdkafka does: a bounded queue, order by partition, reports from C{poll}.

    @ivar configuration: as the bus made it
    @ivar capacity: records that fit into the queue
    @ivar away: partitions that have no leader
    @ivar refused: the error with which the broker refuses a value
    @ivar broken: the error with which C{produce} itself refuses a value
    @ivar stored: what arrived, by partition: value, key, headers
    @ivar ended: it was purged and closed
    """

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration
        self.capacity = 1_000_000
        self.away: set[int] = set()
        self.refused: dict[bytes, KafkaError] = {}
        self.broken: dict[bytes, KafkaError] = {}
        self.stored: dict[int, list[tuple[bytes, bytes, list[tuple[str, bytes]]]]] = {n: [] for n in range(PARTITIONS)}
        self.ended = False
        self._queues: dict[int, deque[tuple[bytes, bytes, list[tuple[str, bytes]], Report]]] = {
            n: deque() for n in range(PARTITIONS)
        }

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes,
        partition: int,
        callback: Report,
        on_delivery: None,
        timestamp: int,
        headers: list[tuple[str, bytes]],
    ) -> None:
        """
        Queue one record.
        """
        assert topic == TOPIC and on_delivery is None and timestamp == 0
        if value in self.broken:
            raise KafkaException(self.broken[value])
        if self.queued() >= self.capacity:
            raise BufferError("Local: Queue full")
        self._queues[partition].append((value, key, headers, callback))

    def queued(self) -> int:
        """
        How many records wait.
        """
        return sum(map(len, self._queues.values()))

    def poll(self, timeout: float) -> int:
        """
        Deliver what can be delivered, and report it.
        """
        assert timeout == 0, "the reactor's thread is blocked"
        reports = 0
        for partition, queue in self._queues.items():
            while queue and partition not in self.away:
                value, key, headers, report = queue.popleft()
                error = self.refused.get(value)
                if error is None:
                    self.stored[partition].append((value, key, headers))
                report(error, None)
                reports += 1
        return reports

    def purge(self) -> None:
        """
        Give up on what waits.
        """
        for queue in self._queues.values():
            while queue:
                queue.popleft()[3](KafkaError(KafkaError._PURGE_QUEUE), None)

    def flush(self, timeout: float) -> int:
        """
        Nothing is left after a purge.
        """
        return self.queued()

    def close(self) -> None:
        """
        End it.
        """
        self.ended = True

    def values(self, partition: int) -> list[bytes]:
        """
        The values that arrived in a partition.
        """
        return [value for value, _, _ in self.stored[partition]]


class _NoThreads:
    # A pool for calls that are made at once.
    started = False

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.started = False


class _ClockWithThreads(Clock):
    # A reactor whose threads run their work at once.
    def callInThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)


def records(*values: bytes) -> list[Record]:
    """
    Records of one box.
    """
    return [Record(b"acme/1", value) for value in values]


class KafkaBusTests(SynchronousTestCase):
    """
    A bus that has started on a L{MemoryProducer}.
    """

    def setUp(self) -> None:
        """
        Start it; its threads work at once, and Kafka's answer about the topics is given.
        """
        self.patch(kafkabus, "ThreadPool", _NoThreads)
        self.patch(kafkabus, "deferToThreadPool", lambda _, __, call, *rest: maybeDeferred(call, *rest))
        self.patch(kafkabus, "describeTopics", lambda *_: ({TOPIC: PARTITIONS}, 1_000_000, []))
        self.clock = _ClockWithThreads()
        self.producers: list[MemoryProducer] = []
        context = BackEndContext(self.clock, "--bus", flushInterval=TICK, stopTimeout=5.0, topics=(TOPIC,))
        self.bus = KafkaBus("kafka://127.0.0.1:9092", context, self.makeProducer)
        started = self.bus.start()
        self.assertNoResult(started)
        self.clock.advance(1)
        self.successResultOf(started)
        self.producer = self.producers[0]

    def makeProducer(self, configuration: dict[str, Any]) -> MemoryProducer:
        """
        A producer of the bus.
        """
        self.producers.append(MemoryProducer(configuration))
        return self.producers[-1]

    def publish(self, partition: int, *values: bytes) -> Deferred[None]:
        """
        One flush.
        """
        return self.bus.publish(TOPIC, partition, records(*values))

    def tick(self, times: int = 1) -> None:
        """
        Let the bus poll.
        """
        self.clock.pump([TICK] * times)

    def assertFailed(self, flushes: Sequence[Deferred[None]], *types: type[BusError]) -> None:
        """
        Each has failed with one of these very types.
        """
        for flush in flushes:
            self.assertIn(type(self.failureResultOf(flush).value), types)

    def test_promises(self) -> None:
        """
        The producer is idempotent, waits for all replicas and for ever, and lingers for the flush interval.
        """
        wanted = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 0, "linger.ms": TICK * 1000}
        self.assertEqual({name: self.producer.configuration[name] for name in wanted}, wanted)

    def test_recordsGoOutWhole(self) -> None:
        """
        Key, value, headers and partition are handed on as they came, whichever sequence the headers are.
        """
        headers = [("ce_id", b"1"), ("content-type", b"x")]
        done = self.bus.publish(TOPIC, 2, [Record(b"k", b"v", tuple(headers)), Record(b"k", b"w", headers)])
        self.tick()
        self.successResultOf(done)
        self.assertEqual(self.producer.stored[2], [(b"v", b"k", headers), (b"w", b"k", headers)])

    def test_firesOnceAllAreDelivered(self) -> None:
        """
        Nothing fires while one record of the flush is undelivered, and each flush has its own Deferred.
        """
        self.producer.away = {0}
        first, second = self.publish(0, b"1", b"2"), self.publish(0, b"3")
        self.tick(500)
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.assertGreater(self.bus.pendingBytes, 0)
        self.producer.away.clear()
        self.tick()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.bus.pendingBytes, 0)

    def test_leaderlessPartitionDelaysItsOwn(self) -> None:
        """
        A partition without a leader holds its own flushes back and no others.
        """
        self.producer.away = {1}
        stuck, free = self.publish(1, b"1"), self.publish(2, b"2")
        self.tick(3)
        self.assertNoResult(stuck)
        self.successResultOf(free)

    def test_fullQueueKeepsOrder(self) -> None:
        """
        What the queue has no room for waits in order, a flush cut in the middle included; nothing raises or is lost.
        """
        self.producer.capacity = 5
        values = [b"%d" % number for number in range(60)]
        flushes = [self.publish(0, *values[at : at + 3]) for at in range(0, 60, 3)]
        self.assertEqual(self.producer.queued(), 5)
        self.tick(30)
        for flush in flushes:
            self.successResultOf(flush)
        self.assertEqual(self.producer.values(0), values)
        self.assertEqual(self.bus.pendingBytes, 0)

    def test_fullQueueLetsOthersPass(self) -> None:
        """
        A partition that has no leader and waits for room does not hold back one that gets some.
        """
        self.producer.capacity = 2
        self.producer.away = {0}
        stuck = self.publish(0, b"a", b"b", b"c")
        free = self.publish(1, b"1")
        self.tick(3)
        self.assertNoResult(free)
        self.producer.capacity = 4
        self.tick(3)
        self.assertNoResult(stuck)
        self.successResultOf(free)
        self.producer.away.clear()
        self.tick(3)
        self.successResultOf(stuck)
        self.assertEqual(self.producer.values(0), [b"a", b"b", b"c"])

    def test_oneRefusedRecordFailsItsFlush(self) -> None:
        """
        A flush with a record that the broker refuses fails, whichever of its records that is, and no other does.
        """
        for refused in (b"1", b"2", b"3"):
            self.producer.refused = {refused: KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)}
            bad, good = self.publish(0, b"1", b"2", b"3"), self.publish(0, b"4")
            self.tick()
            self.assertFailed([bad], BusError)
            self.successResultOf(good)
            self.assertEqual(self.bus.pendingBytes, 0)

    def test_pollsOnceLingered(self) -> None:
        """
        Nothing is polled for before the oldest flush has lingered: there can be no report.
        """
        times: list[float] = []
        poll = self.producer.poll

        def noted(timeout: float) -> int:
            times.append(self.clock.seconds())
            return poll(timeout)

        self.patch(self.producer, "poll", noted)
        began = self.clock.seconds()
        self.publish(0, b"1")
        self.clock.pump([0.001] * 5)
        self.publish(0, b"2")
        self.clock.pump([0.001] * 10)
        self.assertGreaterEqual(times[0] - began, 0.8 * TICK)
        self.assertLess(times[0] - began, TICK)

    def test_brokerSaysTooLarge(self) -> None:
        """
        What only the broker knows to be too large fails its flush, of which others may be there.
        """
        self.producer.refused = {b"1": KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)}
        flush = self.publish(0, b"1")
        self.tick()
        self.assertFailed([flush], BusError)

    def test_tooLargeIsNotTried(self) -> None:
        """
        A flush with a record beyond C{maxRecord} fails at once, and nothing of it is produced.
        """
        flush = self.publish(0, b"1", bytes(self.bus.maxRecord), b"2")
        self.assertFailed([flush], RecordTooLarge)
        self.assertEqual((self.producer.queued(), self.bus.pendingBytes), (0, 0))

    def test_producerRefuses(self) -> None:
        """
        When C{produce} itself refuses a record, what is behind it in the flush is not sent, and the flush fails.
        """
        self.producer.broken = {b"2": KafkaError(KafkaError._INVALID_ARG)}
        flush = self.publish(0, b"1", b"2", b"3")
        alone = self.publish(0, b"2")
        self.tick()
        self.assertFailed([flush, alone], BusError)
        self.assertEqual(self.producer.values(0), [b"1"])
        self.assertEqual(self.bus.pendingBytes, 0)

    def test_fatalErrorMakesNewProducer(self) -> None:
        """
        A fatal error fails every open flush, those that waited for room included; the bus goes on with a new producer.
        """
        self.producer.capacity = 2
        self.producer.away = {0, 1}
        flushes = [self.publish(0, b"1", b"2", b"3"), self.publish(0, b"4"), self.publish(1, b"5")]
        fatal = KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "sequence lost", True)
        self.producer.configuration["error_cb"](fatal)
        self.tick()
        self.assertFailed(flushes, BusError)
        self.assertEqual(self.bus.pendingBytes, 0)
        self.assertTrue(self.producer.ended)
        self.assertEqual(len(self.producers), 2)
        after = self.publish(0, b"6")
        self.tick()
        self.successResultOf(after)
        self.assertEqual(self.producers[1].values(0), [b"6"])
        self.assertEqual(self.bus.pendingBytes, 0)

    def test_passingErrorFailsNothing(self) -> None:
        """
        A broker that is away is no reason to fail: the flush waits.
        """
        self.producer.away = {0}
        flush = self.publish(0, b"1")
        self.producer.configuration["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN))
        self.tick(3)
        self.assertNoResult(flush)
        self.assertEqual(len(self.producers), 1)
        self.producer.away.clear()
        self.tick()
        self.successResultOf(flush)

    def test_publishFromCallback(self) -> None:
        """
        What is published as a flush fires goes out like any other.
        """
        second: list[Deferred[None]] = []
        first = self.publish(0, b"1").addCallback(lambda _: second.append(self.publish(0, b"2")))
        self.tick(2)
        self.successResultOf(first)
        self.successResultOf(second[0])
        self.assertEqual(self.producer.values(0), [b"1", b"2"])

    def test_polling(self) -> None:
        """
        Reports are fetched every few ms while something is pending, and seldom while nothing is.
        """
        times: list[float] = []
        poll = self.producer.poll

        def noted(timeout: float) -> int:
            times.append(self.clock.seconds())
            return poll(timeout)

        self.patch(self.producer, "poll", noted)
        self.clock.pump([0.001] * 1000)
        self.assertLessEqual(len(times), 5)
        del times[:]
        self.producer.away = {0}
        self.publish(0, b"1")
        self.clock.pump([0.001] * 1000)
        self.assertGreater(len(times), 100)

    def test_stopWaits(self) -> None:
        """
        A stop lets what is pending end, and then ends the producer.
        """
        self.producer.away = {0}
        flush = self.publish(0, b"1")
        stopped = self.bus.stop()
        self.tick(10)
        self.assertNoResult(stopped)
        self.producer.away.clear()
        self.tick()
        self.successResultOf(flush)
        self.successResultOf(stopped)
        self.assertTrue(self.producer.ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopGivesUp(self) -> None:
        """
        What has not ended after the stop timeout fails, so that every Deferred has fired; nothing is left behind.
        """
        self.producer.away = {0}
        flushes = [self.publish(0, b"1"), self.publish(0, b"2")]
        stopped = self.bus.stop()
        self.clock.pump([TICK] * 490)
        self.assertNoResult(stopped)
        self.clock.pump([TICK] * 20)
        self.assertFailed(flushes, BusError)
        self.successResultOf(stopped)
        self.assertTrue(self.producer.ended)
        self.assertEqual((self.bus.pendingBytes, self.clock.getDelayedCalls()), (0, []))
        self.assertFailed([self.publish(0, b"3")], BusError)

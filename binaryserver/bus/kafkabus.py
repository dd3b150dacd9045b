"""
Apache Kafka by confluent-kafka: idempotent, acknowledged by all in-sync replicas.

librdkafka is the buffer and the retry: C{--flush-interval} is its C{linger.ms}, and it keeps records for as long as the
broker is away (C{message.timeout.ms} 0). What is here counts the delivery reports of each flush and fires its Deferred.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from binaryserver.bus.kafka_consumer import KafkaConsumer
from binaryserver.bus.kafka_flush import Flush
from binaryserver.bus.kafka_reader import KafkaReader
from binaryserver.bus.kafka_settings import KafkaSettings
from binaryserver.bus.kafka_topics import describeTopics, makeTopics
from binaryserver.bus.memorybus import recordSize
from binaryserver.bus.partitioner import partition
from binaryserver.errors import BusError, ConfigError, RecordTooLarge
from binaryserver.interfaces import IBus, IBusConsumer, IBusReader
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext

_value = itemgetter(1)

# As a record's timestamp.
_NOW = 0

_POLL_BUSY = 0.004
_POLL_IDLE = 0.25
_WARM_UP = 0.6
_MAX_THREADS = 8

# What a record carries beside key, value and headers.
_RECORD_OVERHEAD = 1024


@implementer(IBus)
class KafkaBus:
    """
    C{kafka://HOST:PORT[,HOST:PORT...][?option=value]}: options are librdkafka's.
    """

    log = Logger()

    def __init__(
        self, spec: str, context: BackEndContext, makeProducer: Callable[[dict[str, Any]], Any] = Producer
    ) -> None:
        """
        @param makeProducer: gives a producer of a configuration
        """
        self._settings = KafkaSettings(spec, context)
        self._context = context
        self._clock = context.reactor
        self._makeProducer = makeProducer
        self.maxRecord = self._settings.maxMessage - _RECORD_OVERHEAD
        self._surelyFits = self.maxRecord // 2
        self.pendingBytes = 0
        self._producer: Any = None
        self._readers: set[KafkaReader] = set()
        self._consumers: set[KafkaConsumer] = set()
        self._threads = ThreadPool(0, _MAX_THREADS, "kafka")
        self._partitions: dict[str, int] = {}
        self._open: dict[Flush, None] = {}
        self._settledNow: list[Flush] = []
        self._backlog: dict[tuple[str, int], deque[Flush]] = {}
        self._poll: IDelayedCall | None = None
        self._fatal: KafkaError | None = None
        self._lastError = KafkaError.NO_ERROR
        # Counts the producers: an old one may still speak up.
        self._generation = 0
        # How long a record lingers, for sure: until then polls would find nothing.
        self._quiet = context.flushInterval * 0.8
        self._isStopping = False
        self._whenEmpty: Deferred[None] | None = None
        self._logger = _bridge(self.log, self._settings.isDebugged)

    # Life.

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        self._threads.start()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            self._producer = self._makeProducer(self._producerSettings())
        except KafkaException as error:
            raise ConfigError(self._context.option, error.args[0].str()) from error
        partitions, largest, warnings = await self._inThread(
            describeTopics, self._settings, self._context, self._producer, self._logger
        )
        self._partitions = partitions
        self.maxRecord = largest - _RECORD_OVERHEAD
        self._surelyFits = self.maxRecord // 2
        for warning in warnings:
            self.log.warn("{text}", text=warning)
        # The producer asks for its id as soon as it has a broker, and tries again every half second: not to be waited
        # for by the first box.
        warm: Deferred[None] = Deferred()
        self._clock.callLater(_WARM_UP, warm.callback, None)
        await warm
        self._producer.poll(0)
        self._schedule()

    def _producerSettings(self) -> dict[str, Any]:
        return {
            **self._settings.producer(self._context.flushInterval),
            "error_cb": partial(self._errorReported, self._generation),
            "logger": self._logger,
        }

    def _inThread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(self._clock, self._threads, function, *arguments)

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._isStopping:
            return
        self._isStopping = True
        for reader in list(self._readers):
            await reader.close()
        await gatherResults([consumer.close() for consumer in list(self._consumers)])
        if self._open:
            empty: Deferred[None] = Deferred()
            self._whenEmpty = empty
            giveUp = self._clock.callLater(self._context.stopTimeout, self._giveUp)
            await empty
            if giveUp.active():
                giveUp.cancel()
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        producer, self._producer = self._producer, None
        if self._threads.started:
            if producer is not None:
                await self._inThread(_destroy, producer)
            await _stopThreads(self._clock, self._threads)

    def _giveUp(self) -> None:
        self._failAll(BusError("the gateway stopped before Kafka took it"))

    # Producing.

    def partitionFor(self, topic: str, key: bytes) -> int:
        """
        See L{IBus.partitionFor}.
        """
        return partition(key, self._partitions[topic])

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        if self._isStopping or self._producer is None:
            return fail(BusError("the bus is stopped"))
        if not 0 <= partition < self._partitions.get(topic, 0):
            return fail(BusError(f"there is no partition {partition} of {topic}"))
        if not records:
            return succeed(None)
        size = sum(map(len, map(_value, records)))
        if size > self._surelyFits and max(map(len, map(_value, records))) > self._surelyFits:
            largest = max(map(recordSize, records))
            if largest > self.maxRecord:
                return fail(RecordTooLarge(f"a record has {largest} bytes, {self.maxRecord} at most"))
        # Near enough: keys and headers of a flush's records differ by a few bytes.
        size += len(records) * (recordSize(records[0]) - len(records[0].value))
        pollAt = self._clock.seconds() + self._quiet
        flush = Flush(topic, partition, records, size, pollAt, self._settledNow.append)
        self.pendingBytes += size
        self._open[flush] = None
        if len(self._open) == 1:
            self._schedule()
        waiting = self._backlog.get((topic, partition))
        if waiting is not None:
            waiting.append(flush)
        elif not self._produce(flush):
            self._backlog[topic, partition] = deque([flush])
        return flush.done

    def _produce(self, flush: Flush) -> bool:
        """
        Hand a flush's records to librdkafka.

        @return: whether all are; if not, its queue is full, and C{flush.records} are what remains
        """
        produce = self._producer.produce
        report: Callable[..., object] = flush.noteError
        topic, partition = flush.topic, flush.partition
        records = flush.records
        flush.records = ()
        remaining = len(records)
        for key, value, headers in records:
            if remaining == 1:
                report = flush.delivered
            try:
                # By position, which costs the client less. It takes no other sequence of headers than a list.
                produce(
                    topic,
                    value,
                    key,
                    partition,
                    report,
                    None,
                    _NOW,
                    headers if type(headers) is list else list(headers),
                )
            except BufferError:
                flush.records = records[-remaining:]
                return False
            except KafkaException as error:
                # None of the rest is sent: what is behind a missing record must not be there without it.
                flush.delivered(error.args[0], None)
                break
            remaining -= 1
        return True

    def _schedule(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        delay = _POLL_IDLE
        if self._open:
            # The oldest: what is behind it lingers for longer, so that there is nothing to report either.
            delay = min(max(next(iter(self._open)).pollAt - self._clock.seconds(), _POLL_BUSY), delay)
        self._poll = self._clock.callLater(delay, self._polled)

    def _polled(self) -> None:
        self._poll = None
        self._producer.poll(0)
        self._fireSettled()
        if self._fatal is not None:
            self._rebuild()
        if self._backlog:
            self._workOff()
            self._fireSettled()
        if self._producer is not None and self._poll is None:
            self._schedule()

    def _fireSettled(self) -> None:
        settled = self._settledNow[:]
        if not settled:
            return
        self._settledNow.clear()
        for flush in settled:
            if flush not in self._open:
                continue
            del self._open[flush]
            self.pendingBytes -= flush.size
            error = flush.error
            if error is None:
                self._lastError = KafkaError.NO_ERROR
                flush.done.callback(None)
            else:
                flush.done.errback(BusError(error.str()))
        self._checkEmpty()

    def _checkEmpty(self) -> None:
        if not self._open and self._whenEmpty is not None:
            empty, self._whenEmpty = self._whenEmpty, None
            empty.callback(None)

    def _workOff(self) -> None:
        """
        Go on with what librdkafka's queue had no room for.
        """
        for key, waiting in list(self._backlog.items()):
            while waiting:
                if waiting[0] in self._open and not self._produce(waiting[0]):
                    break
                waiting.popleft()
            else:
                del self._backlog[key]

    # Failing.

    def _errorReported(self, generation: int, error: KafkaError) -> None:
        if error.fatal() and generation == self._generation:
            self._fatal = error
        elif error.code() != self._lastError and not self._isStopping:
            # Once, not at each of librdkafka's attempts.
            self._lastError = error.code()
            self.log.warn("kafka: {error}", error=error.str())

    def _rebuild(self) -> None:
        """
        After a fatal error a producer sends nothing any more: fail what it holds, and take a new one.
        """
        fatal, self._fatal = self._fatal, None
        assert fatal is not None
        self.log.error("kafka producer failed, a new one is made: {error}", error=fatal.str())
        self._generation += 1
        old, self._producer = self._producer, self._makeProducer(self._producerSettings())
        self._inThread(_destroy, old).addErrback(self._destroyFailed)
        self._failAll(BusError(f"the producer failed: {fatal.str()}"))

    def _destroyFailed(self, failure: Failure) -> None:
        self.log.failure("a failed producer could not be ended", failure)

    def _failAll(self, error: BusError) -> None:
        flushes, self._open = self._open, {}
        self._backlog = {}
        for flush in flushes:
            self.pendingBytes -= flush.size
            flush.done.errback(error)
        self._checkEmpty()

    # The rest.

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        alone = not self._threads.started
        if alone:
            self._threads.start()
        made = self._inThread(makeTopics, self._settings, self._context, topics, partitions, replication, self._logger)
        if alone:

            def stopThreads(result: Any) -> Deferred[Any]:
                self._threads, used = ThreadPool(0, _MAX_THREADS, "kafka"), self._threads
                return _stopThreads(self._clock, used).addCallback(lambda _: result)

            made.addBoth(stopThreads)
        return made

    def erase(self, key: bytes) -> Deferred[int | None]:
        """
        See L{IBus.erase}. Kafka keeps records by the topics' own retention.
        """
        return succeed(None)

    def openReader(self, topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        See L{IBus.openReader}.
        """
        if self._isStopping or self._producer is None:
            return fail(BusError("the bus is stopped"))
        reader = KafkaReader(self._settings, self._logger, self._inThread, self._readers.discard)

        def opened(_: object) -> IBusReader:
            self._readers.add(reader)
            return reader

        return reader.open(topics, fromStart, self._context.startTimeout).addCallback(opened)

    def openConsumer(self, topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        See L{IBus.openConsumer}.
        """
        if self._isStopping or self._producer is None:
            return fail(BusError("the bus is stopped"))
        # A member that waits for records has a thread of its own, however many readers there are.
        self._threads.adjustPoolsize(maxthreads=self._threads.max + 1)
        consumer = KafkaConsumer(self._settings, self._logger, self._clock, self._inThread, self._consumerClosed)
        self._consumers.add(consumer)

        def failed(failure: Failure) -> Failure:
            consumer.close()
            return failure

        return consumer.open(topics, group, self._context.startTimeout).addErrback(failed)

    def _consumerClosed(self, consumer: KafkaConsumer) -> None:
        self._consumers.discard(consumer)
        self._threads.adjustPoolsize(maxthreads=self._threads.max - 1)


def _destroy(producer: Any) -> None:
    """
    End a producer; blocks until its threads have ended.
    """
    producer.purge()
    producer.flush(1)
    producer.close()


def _stopThreads(clock: Any, threads: ThreadPool) -> Deferred[None]:
    """
    Stop a pool without waiting for its threads in the reactor's.
    """
    stopped: Deferred[None] = Deferred()

    def stop() -> None:
        threads.stop()
        clock.callFromThread(stopped.callback, None)

    clock.callInThread(stop)
    return stopped


class _Bridge(logging.Handler):
    """
    librdkafka's log lines into the gateway's.
    """

    def __init__(self, log: Logger) -> None:
        logging.Handler.__init__(self)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """
        See L{logging.Handler.emit}.
        """
        self._log.debug("librdkafka: {line}", line=record.getMessage())


def _bridge(log: Logger, isWanted: bool) -> logging.Logger:
    """
    @param isWanted: the librdkafka option C{debug} asks for its lines; what an operator is to know is logged without
    """
    logger = logging.Logger("binaryserver.bus.kafka")
    logger.addHandler(_Bridge(log) if isWanted else logging.NullHandler())
    return logger

"""
Sends flushes to the brokers: one produce request at a time to each, everything that waits for that broker in it.

All of it runs in the reactor's thread; only L{IBrokerLink.ask} reaches into others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from binaryserver.bus.pykafka_cluster import Cluster
from binaryserver.bus.pykafka_link import IBrokerLink, reasonOf
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_queue import Batch, Flush, PartitionQueue, PartitionState, settle, timeout
from binaryserver.bus.pykafka_records import recordSize
from binaryserver.bus.pykafka_requests import (
    InitProducerIdRequest,
    InitProducerIdResponse,
    ProduceRequest,
    ProduceResponse,
    TopicPartition,
)
from binaryserver.bus.pykafka_verdicts import NO_PRODUCER_YET, VERDICTS, Verdict
from binaryserver.errors import BusError, BusUnavailable, RecordTooLarge
from binaryserver.model import Record

FLUSH_BYTES = 128 * 1024
"""Bytes waiting for one partition that are sent without waiting for more."""
REQUEST_BYTES = 8 * 1024 * 1024
"""Bytes of one produce request, passed by at most one batch. A broker takes 100 MiB (socket.request.max.bytes)."""
FIRST_BACKOFF = 0.1
"""s before the first retry; doubled for each one more."""
LAST_BACKOFF = 1.0
"""s: the longest wait between retries."""
REPLICATION_SHARE = 0.8
"""Of the request's time, what the leader may wait for the replicas, so that its answer is still in time."""


_S = PartitionState


class Sender:
    """
    The producer's side of the bus.

    @ivar pendingBytes: see L{IBus.pendingBytes}
    @ivar batchLimit: the most bytes of one batch; it falls where a topic turns out to allow less
    """

    log = Logger()

    def __init__(self, reactor: Any, cluster: Cluster, flushInterval: float, batchDeadline: float) -> None:
        """
        @param reactor: C{IReactorTime}
        @param flushInterval: s that a flush waits for others to go with it
        @param batchDeadline: s after which a flush fails
        """
        self.pendingBytes = 0
        self.batchLimit = 1_000_000
        self._reactor = reactor
        self._cluster = cluster
        self._flushInterval = flushInterval
        self._batchDeadline = batchDeadline
        self._queues: dict[TopicPartition, PartitionQueue] = {}
        # Those that have something to send or under way, the longest unserved first.
        self._active: dict[TopicPartition, PartitionQueue] = {}
        self._links: dict[int, tuple[Address, IBrokerLink]] = {}
        self._inFlight: set[int] = set()
        # What fails now and has been told: broker ids, and the names of other things.
        self._troubled: set[int | str] = set()
        self._refreshing = False
        self._closing = False
        self._open = 0
        self._drained: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._expiry = LoopingCall(self._expire)
        self._expiry.clock = reactor

    def start(self) -> None:
        """
        Begin to watch over deadlines.
        """
        self._expiry.start(min(1.0, self._batchDeadline / 20), now=False).addErrback(self._broken)

    def send(self, topic: str, partition: int, records: Sequence[Record], maxRecord: int) -> Deferred[None]:
        """
        See L{IBus.publish}.

        @param maxRecord: see L{IBus.maxRecord}
        """
        if self._closing:
            return fail(BusUnavailable("the bus is stopping"))
        if not records:
            return succeed(None)
        sizes = [recordSize(record) for record in records]
        if max(sizes) > maxRecord:
            return fail(RecordTooLarge(f"a record of {max(sizes)} bytes; {topic} takes {maxRecord}"))
        place = TopicPartition(topic, partition)
        now = self._reactor.seconds()
        flush = Flush(records, sum(sizes), now + self._flushInterval, now + self._batchDeadline)
        done = flush.done
        assert done is not None
        self.pendingBytes += flush.size
        self._open += 1
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = PartitionQueue(place)
        queue.add(flush)
        if queue.state is _S.awaitingRecords:
            queue.become(_S.awaitingTurn)
            self._active[place] = queue
            # A producer id is asked for while the flush still waits for others.
            self._wakeAt(now if queue.producer is None else flush.due)
        if queue.waitingBytes >= FLUSH_BYTES and queue.state is _S.awaitingTurn:
            self._wakeAt(now)
        return done

    def stop(self, patience: float) -> Deferred[None]:
        """
        Take no more. Fires when nothing is open: at the latest after C{patience} seconds, with what is left failed.
        """
        self._closing = True
        drained: Deferred[None] = Deferred()
        self._drained = drained
        giveUp = self._reactor.callLater(patience, self._abandon)
        self._wakeAt(self._reactor.seconds())
        self._checkDrained()

        def over(_: None) -> None:
            if giveUp.active():
                giveUp.cancel()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._expiry.running:
                self._expiry.stop()

        return drained.addCallback(over)

    async def newProducer(self) -> InitProducerIdResponse:
        """
        Get a producer id from the cluster.

        @raise BusUnavailable: there is none to be had now
        @raise BusError: we may not have one
        """
        answer: InitProducerIdResponse = await self._cluster.ask(InitProducerIdRequest, InitProducerIdResponse)
        if answer.error in NO_PRODUCER_YET:
            raise BusUnavailable(f"the broker has no producer id to give yet (error {answer.error})")
        if answer.error:
            raise BusError(f"the broker gives no producer id (error {answer.error})")
        return answer

    def _wakeAt(self, when: float) -> None:
        if not self._open:
            return
        delay = max(0.0, when - self._reactor.seconds())
        if self._timer is None:
            self._timer = self._reactor.callLater(delay, self._pump)
        elif self._timer.getTime() > when:
            self._timer.reset(delay)

    def _pump(self) -> None:
        """
        Send what is due, and sleep until something else is.
        """
        self._timer = None
        now = self._reactor.seconds()
        ready: dict[tuple[int, Address], list[PartitionQueue]] = {}
        wake: list[float] = []
        for queue in list(self._active.values()):
            if queue.state is _S.awaitingRetry:
                if queue.retryAt > now:
                    wake.append(queue.retryAt)
                    continue
                queue.become(_S.awaitingTurn)
            if queue.state is not _S.awaitingTurn:
                continue
            leader = self._cluster.leader(queue.place)
            if leader is None:
                self._retryLater(queue)
                self._refresh()
            elif queue.batch is None and queue.producer is None:
                queue.become(_S.awaitingProducer)
                self._askProducer(queue)
            elif leader[0] not in self._inFlight:
                ready.setdefault(leader, []).append(queue)
        for (broker, address), queues in ready.items():
            due = min(queue.due for queue in queues)
            if due <= now or self._closing or any(queue.waitingBytes >= FLUSH_BYTES for queue in queues):
                self._produce(broker, address, queues)
            else:
                wake.append(due)
        if wake:
            self._wakeAt(min(wake))

    def _produce(self, leader: int, address: Address, queues: Sequence[PartitionQueue]) -> None:
        batches: dict[TopicPartition, Batch] = {}
        sent: list[PartitionQueue] = []
        room = REQUEST_BYTES
        nowMs = int(self._reactor.seconds() * 1000)
        for queue in queues:
            if room <= 0:
                break
            batches[queue.place] = queue.take(self.batchLimit, nowMs)
            room -= min(self.batchLimit, sum(flush.size for flush, _, _ in batches[queue.place].parts))
            queue.become(_S.awaitingAnswer)
            sent.append(queue)
            # To the end of the line.
            self._active[queue.place] = self._active.pop(queue.place)
        self._inFlight.add(leader)
        seconds = self._cluster.settings.requestTimeout

        def build() -> ProduceRequest:
            encoded = {place: batch.encoded() for place, batch in batches.items()}
            return ProduceRequest(encoded, int(seconds * REPLICATION_SHARE * 1000))

        asked: Deferred[ProduceResponse] = self._link(leader, address).ask(build, ProduceResponse, seconds)
        asked.addCallbacks(self._answered, self._unanswered, (leader, sent), {}, (leader, sent))
        asked.addErrback(self._broken)

    def _link(self, leader: int, address: Address) -> IBrokerLink:
        known = self._links.get(leader)
        if known is not None:
            if known[0] == address:
                return known[1]
            self._cluster.release(known[1])
        link = self._cluster.open(address)
        self._links[leader] = (address, link)
        return link

    def _answered(self, answer: ProduceResponse, leader: int, sent: Sequence[PartitionQueue]) -> None:
        self._inFlight.discard(leader)
        if leader in self._troubled:
            self._troubled.discard(leader)
            self.log.info("broker {broker} answers again", broker=leader)
        settled: list[tuple[Flush, BusError | None]] = []
        for queue in sent:
            # One that the answer does not speak of may or may not be there: as if unknown to the server.
            error = answer.errors.get(queue.place, -1)
            settled += self._judge(queue, error)
        for flush, failed in settled:
            self._settle(flush, failed)
        self._wakeAt(self._reactor.seconds())

    def _judge(self, queue: PartitionQueue, error: int) -> Sequence[tuple[Flush, BusError | None]]:
        """
        Do with a partition's batch what its error code says; give the flushes that end by it.
        """
        verdict = VERDICTS.get(error, Verdict.refused)
        if verdict is Verdict.committed:
            ended: list[tuple[Flush, BusError | None]] = [(flush, None) for flush in queue.commit()]
            self._goOn(queue)
            return ended
        place = queue.place
        self.log.emit(
            LogLevel.debug if queue.retries else LogLevel.warn,
            "batch for {topic}/{partition}: error {error}, {verdict}",
            topic=place.topic,
            partition=place.partition,
            error=error,
            verdict=verdict.name,
        )
        if verdict is Verdict.tooLarge and queue.batch is not None:
            self.batchLimit = max(1, min(self.batchLimit, len(queue.batch.encoded())) // 2)
            ended = [*queue.tooLarge()]
            self._goOn(queue)
            return ended
        if verdict is Verdict.refused:
            why = BusError(f"{place.topic}/{place.partition} refused a batch (Kafka's error {error})")
            ended = [*queue.refuse(why)]
            self._goOn(queue)
            return ended
        if verdict is Verdict.producerLost:
            queue.rewind()
        elif verdict is Verdict.moved:
            self._cluster.moved(place)
            self._refresh()
        self._retryLater(queue)
        return ()

    def _unanswered(self, failure: Failure, leader: int, sent: Sequence[PartitionQueue]) -> None:
        """
        What became of the batches is unknown: they are sent again as they are.
        """
        self._inFlight.discard(leader)
        self._complain(leader, "broker {broker} fails, retrying: {reason}", failure, broker=leader)
        for queue in sent:
            self._retryLater(queue)
        self._refresh()

    def _complain(self, what: int | str, text: str, failure: Failure, **fields: object) -> None:
        """
        Log a failure that will be retried: once, until that thing has worked again.
        """
        if what not in self._troubled:
            self._troubled.add(what)
            self.log.warn(text, reason=reasonOf(failure), **fields)

    def _goOn(self, queue: PartitionQueue) -> None:
        if queue.busy:
            queue.become(_S.awaitingTurn)
        else:
            queue.become(_S.awaitingRecords)
            self._active.pop(queue.place, None)

    def _retryLater(self, queue: PartitionQueue) -> None:
        queue.dropUnwanted()
        if not queue.busy:
            self._goOn(queue)
            return
        queue.become(_S.awaitingRetry)
        queue.retries += 1
        wait: float = min(FIRST_BACKOFF * 2 ** min(queue.retries - 1, 10), LAST_BACKOFF)
        queue.retryAt = self._reactor.seconds() + wait
        self._wakeAt(queue.retryAt)

    def _askProducer(self, queue: PartitionQueue) -> None:
        def given(answer: InitProducerIdResponse) -> None:
            self._troubled.discard("producer id")
            queue.assign(answer.producerId, answer.epoch)
            self._goOn(queue)
            self._wakeAt(self._reactor.seconds())

        def denied(failure: Failure) -> None:
            self._complain("producer id", "no producer id: {reason}", failure)
            self._retryLater(queue)

        Deferred.fromCoroutine(self.newProducer()).addCallbacks(given, denied).addErrback(self._broken)

    def _refresh(self) -> None:
        if self._refreshing or not self._open:
            return
        self._refreshing = True

        def over(result: object) -> None:
            self._refreshing = False
            if isinstance(result, Failure):
                self._complain("lookup", "cannot look leaders up: {reason}", result)
            else:
                self._troubled.discard("lookup")

        Deferred.fromCoroutine(self._cluster.lookup(tuple(self._cluster.partitions))).addBoth(over).addErrback(
            self._broken
        )

    def _expire(self) -> None:
        now = self._reactor.seconds()
        for queue in list(self._active.values()):
            deadline = queue.deadline
            if deadline is None or deadline > now:
                continue
            for flush in queue.expire(now):
                self._settle(flush, timeout(queue.place, self._batchDeadline))
            if queue.state in (_S.awaitingTurn, _S.awaitingRetry):
                queue.dropUnwanted()
                if not queue.busy:
                    self._goOn(queue)

    def _abandon(self) -> None:
        for queue in list(self._active.values()):
            for flush in queue.abandon():
                self._settle(flush, BusError("the bus stopped before a flush was committed"))
        self._active.clear()
        self._checkDrained()

    def _settle(self, flush: Flush, error: BusError | None) -> None:
        if flush.done is not None:
            self.pendingBytes -= flush.size
            self._open -= 1
            settle(flush, error)
            self._checkDrained()

    def _checkDrained(self) -> None:
        drained = self._drained
        if drained is not None and not self._open:
            self._drained = None
            drained.callback(None)

    def _broken(self, failure: Failure) -> None:
        self.log.failure("the pykafka producer is at fault", failure=failure)

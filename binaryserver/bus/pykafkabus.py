"""
C{pykafka:} Kafka by pykafka, with an adapter for what pykafka does not know of Kafka 4.

pykafka itself is imported when a L{PykafkaBus} is made.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, TimeoutError, fail, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.partitioner import partition
from binaryserver.bus.pykafka_options import parseSpec
from binaryserver.bus.topics import prefixOption
from binaryserver.errors import BusError, BusUnavailable, ConfigError
from binaryserver.interfaces import IBus, IBusConsumer, IBusReader
from binaryserver.model import Record

if TYPE_CHECKING:
    from binaryserver.bus.pykafka_cluster import Cluster
    from binaryserver.bus.pykafka_consumer import PykafkaConsumer
    from binaryserver.bus.pykafka_link import IBrokerLink
    from binaryserver.bus.pykafka_options import Address
    from binaryserver.bus.pykafka_reader import PykafkaReader
    from binaryserver.plugins import BackEndContext

_T = TypeVar("_T")

MESSAGE_BYTES = 1_048_588
"""Kafka's own C{max.message.bytes}, where a topic's cannot be asked for."""
RECORD_MARGIN = 1024
"""Bytes of C{max.message.bytes} left for what surrounds a record."""
THREAD_PATIENCE = 2.0
"""s that a stop waits for threads; one that hangs in a name look-up ends when that does."""


@implementer(IBus)
class PykafkaBus:
    """
    An L{IBus} on Kafka 2.2 and later, 4 included.

    @ivar maxRecord: see L{IBus.maxRecord}; known for the topics in use once L{start} has fired
    """

    log = Logger()

    def __init__(
        self, spec: str, context: BackEndContext, makeLink: Callable[[Address], IBrokerLink] | None = None
    ) -> None:
        """
        @param spec: C{pykafka://HOST:PORT[,HOST:PORT...][?option=value]}, see L{parseSpec}
        @param makeLink: makes the link to a broker; L{None}: a real one
        @raise ConfigError: C{spec} cannot be understood, or pykafka is not installed
        """
        self._spec = spec
        try:
            from binaryserver.bus import (
                pykafka_admin,
                pykafka_cluster,
                pykafka_consumer,
                pykafka_reader,
                pykafka_sender,
            )
        except ImportError as error:
            raise ConfigError(
                context.option,
                f"pykafka: cannot be used, as a package is missing: {error}; try: pip install pykafka google-crc32c",
            ) from error
        self.maxRecord = MESSAGE_BYTES - RECORD_MARGIN
        self._context = context
        self._reactor = context.reactor
        settings = parseSpec(spec, context.option)
        self._admin = pykafka_admin
        self._newReader = pykafka_reader.PykafkaReader
        self._newConsumer = pykafka_consumer.PykafkaConsumer
        self._newCluster: Callable[[], Cluster] = partial(pykafka_cluster.Cluster, context.reactor, settings, makeLink)
        self._cluster = self._newCluster()
        self._sender = pykafka_sender.Sender(
            context.reactor, self._cluster, context.flushInterval, context.batchDeadline
        )
        self._readers: set[PykafkaReader] = set()
        self._consumers: set[PykafkaConsumer] = set()
        self._stopped: Deferred[None] | None = None

    @property
    def pendingBytes(self) -> int:
        """
        See L{IBus.pendingBytes}.
        """
        return self._sender.pendingBytes

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        return self._limited(self._start(), self._cluster)

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop())
        again: Deferred[None] = Deferred()

        def over(result: None) -> None:
            again.callback(None)
            return result

        self._stopped.addBoth(over)
        return again

    def partitionFor(self, topic: str, key: bytes) -> int:
        """
        See L{IBus.partitionFor}.
        """
        return partition(key, self._cluster.partitions[topic])

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        if not 0 <= partition < self._cluster.partitions.get(topic, 0):
            return fail(BusError(f"there is no partition {partition} of topic {topic} on the bus"))
        return self._sender.send(topic, partition, records, self.maxRecord)

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        if not topics:
            return succeed([])
        cluster = self._newCluster()
        made = self._limited(self._admin.makeTopics(self._reactor, cluster, topics, partitions, replication), cluster)

        def over(result: list[str] | Failure) -> list[str] | Failure:
            cluster.close()
            return result

        return made.addBoth(over)

    def erase(self, key: bytes) -> Deferred[int | None]:
        """
        See L{IBus.erase}. Kafka keeps records by the topics' own retention.
        """
        return succeed(None)

    def openReader(self, topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        See L{IBus.openReader}.
        """
        return Deferred.fromCoroutine(self._open(topics, fromStart))

    def openConsumer(self, topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        See L{IBus.openConsumer}.
        """
        if self._cluster.closed or self._stopped is not None:
            return fail(BusError("the bus is stopped"))
        return Deferred.fromCoroutine(self._join(topics, group))

    async def _start(self) -> None:
        await self._admin.persist(self._reactor, self._cluster, self._connect)
        self._sender.start()

    async def _connect(self) -> None:
        topics = self._context.topics
        missing = await self._admin.findTopics(self._reactor, self._cluster, topics)
        if missing:
            raise ConfigError(
                self._context.option,
                f"these topics are missing: {', '.join(missing)}; "
                f"make them with: binaryserver-ctl topics create --bus '{self._spec}'{prefixOption(topics)}",
            )
        # Warms up: for its first producer id a broker has to ask the controller for a block of them.
        await self._sender.newProducer()
        await self._learnSettings(topics)

    async def _learnSettings(self, topics: Sequence[str]) -> None:
        settings = await self._admin.topicSettings(self._cluster, topics)
        for topic, (_, replicas) in settings.items():
            if replicas < 2:
                self.log.warn(
                    "topic {topic} has min.insync.replicas={replicas}: a broker that dies may take acked data with it",
                    topic=topic,
                    replicas=replicas,
                )
        smallest = min([MESSAGE_BYTES, *(most for most, _ in settings.values())])
        self.maxRecord = smallest - RECORD_MARGIN
        self._sender.batchLimit = smallest - RECORD_MARGIN

    async def _open(self, topics: Sequence[str], fromStart: bool) -> IBusReader:
        reader = self._newReader(self._reactor, self._cluster, topics)
        self._readers = {each for each in self._readers if not each.closed} | {reader}
        try:
            await reader.open(fromStart, self._context.startTimeout)
        except BusError:
            reader.close()
            raise
        return reader

    async def _join(self, topics: Sequence[str], group: str) -> IBusConsumer:
        consumer = self._newConsumer(self._reactor, self._cluster, topics, group)
        self._consumers = {each for each in self._consumers if not each.closed} | {consumer}
        try:
            await consumer.open()
        except BusError:
            consumer.close()
            raise
        return consumer

    async def _stop(self) -> None:
        leaving = gatherResults([consumer.close() for consumer in self._consumers])
        await self._sender.stop(self._context.stopTimeout)
        await leaving
        closing = [*(reader.close() for reader in self._readers), self._cluster.close()]
        try:
            await gatherResults(closing).addTimeout(THREAD_PATIENCE, self._reactor)
        except TimeoutError:
            self.log.warn("a thread of the bus still waits for the network; it ends when that gives up")

    def _limited(self, work: Coroutine[Deferred[Any], Any, _T], cluster: Cluster) -> Deferred[_T]:
        """
        Give work up after the start timeout.
        """
        seconds = self._context.startTimeout
        limited = Deferred.fromCoroutine(work).addTimeout(seconds, self._reactor)

        def late(failure: Failure) -> Failure:
            if isinstance(failure.value, TimeoutError):
                raise BusUnavailable(f"Kafka cannot be used after {seconds:g} s: {cluster.trouble}")
            return failure

        return limited.addErrback(late)

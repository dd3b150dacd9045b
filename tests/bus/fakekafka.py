"""
A Kafka without sockets, for L{binaryserver.bus.pykafkabus}: it takes requests as bytes and answers in bytes, keeps
batches and gives them back, and drops those that an idempotent producer sends again. Its links can misbehave on demand.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall

from binaryserver.bus.pykafka_grouprequests import GROUP_NEEDED
from binaryserver.bus.pykafka_import import unpackFrom
from binaryserver.bus.pykafka_link import Sendable
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_records import BadKafkaBytes, decodeBatches
from binaryserver.bus.pykafka_requests import EARLIEST, NEEDED, TopicPartition, parseWith
from binaryserver.errors import BusUnavailable
from binaryserver.model import StoredRecord
from tests.bus.fakegroups import FakeGroups

_T = TypeVar("_T")

_BATCH = struct.Struct("!qiibIhiqqqhii")

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, CREATE_TOPICS, INIT_PRODUCER_ID, DESCRIBE_CONFIGS = (
    0,
    1,
    2,
    3,
    18,
    19,
    22,
    32,
)


GROUP_KEYS = frozenset(request.API_KEY for request, _ in GROUP_NEEDED)


class Mishap(Enum):
    """
    What may become of a produce request.
    """

    none = auto()
    lostBefore = auto()
    """The connection breaks; the broker never saw the request."""
    lostAfter = auto()
    """The broker took it; the connection breaks before its answer."""
    silent = auto()
    """The broker took it and never answers."""


def _string(text: str) -> bytes:
    return struct.pack("!h", len(text)) + text.encode()


def _array(items: Iterable[bytes]) -> bytes:
    parts = list(items)
    return struct.pack("!i", len(parts)) + b"".join(parts)


class FakeKafka:
    """
    A cluster.

    @ivar brokers: by id
    @ivar groups: its consumer groups
    @ivar leaders: broker ids (-1: none) by partition, by topic
    @ivar mishaps: of the produce requests to come, in order; then none
    @ivar errors: error codes for the produced batches to come, in order, instead of taking them; then none
    @ivar down: ids of brokers that refuse connections
    @ivar stalled: no produce request is answered nor taken, until L{resume}
    @ivar produced: how many produce requests came
    @ivar limit: C{max.message.bytes} that is kept
    @ivar settings: what C{DescribeConfigs} says
    """

    def __init__(self, clock: Any) -> None:
        """
        @param clock: C{IReactorTime}
        """
        self.clock = clock
        self.brokers = {1: Address("one", 9092)}
        self.groups = FakeGroups(clock, self.brokers)
        self.leaders: dict[str, list[int]] = {}
        self.mishaps: deque[Mishap] = deque()
        self.errors: deque[int] = deque()
        self.down: set[int] = set()
        self.stalled = False
        self.produced = 0
        self.limit = 1_048_588
        self.settings = {"max.message.bytes": "1048588", "min.insync.replicas": "2"}
        self.versions = {request.API_KEY: (0, 99) for request, _ in (*NEEDED, *GROUP_NEEDED)}
        self.nextProducer = 100
        self._batches: dict[TopicPartition, list[bytes]] = {}
        self._sequences: dict[tuple[TopicPartition, int], list[tuple[int, int]]] = {}
        self._begin: dict[TopicPartition, int] = {}
        self._held: list[Callable[[], None]] = []

    def makeLink(self, address: Address) -> FakeLink:
        """
        See L{binaryserver.bus.pykafka_cluster.Cluster}.
        """
        return FakeLink(self, address)

    def records(self, topic: str, partition: int) -> list[StoredRecord]:
        """
        Everything in a partition.
        """
        found, _ = decodeBatches(topic, partition, b"".join(self._batches.get(TopicPartition(topic, partition), ())), 0)
        return found

    def trim(self, topic: str, partition: int, batches: int) -> None:
        """
        Lose the first batches of a partition, as retention does.
        """
        place = TopicPartition(topic, partition)
        self._begin[place] = self._behind(self._batches[place][batches - 1])
        del self._batches[place][:batches]

    def corrupt(self, topic: str, partition: int) -> None:
        """
        Change the last byte of a partition.
        """
        batches = self._batches[TopicPartition(topic, partition)]
        batches[-1] = batches[-1][:-1] + bytes([batches[-1][-1] ^ 1])

    def resume(self) -> None:
        """
        Go on after C{stalled}.
        """
        self.stalled = False
        held, self._held = self._held, []
        for go in held:
            go()

    def brokerAt(self, address: Address) -> int | None:
        """
        The broker that listens there.
        """
        for number, known in self.brokers.items():
            if known == address and number not in self.down:
                return number
        return None

    def hold(self, go: Callable[[], None]) -> None:
        """
        Call when resumed.
        """
        self._held.append(go)

    def answer(self, broker: int, request: bytes) -> bytes | None:
        """
        Take a request. L{None}: no answer yet, ask again later (a fetch that waits).
        """
        length, key, _version, _correlation, nameLength = struct.unpack_from("!ihhih", request)
        assert length == len(request) - 4
        body = memoryview(request)[14 + nameLength :]
        takers: dict[int, Callable[[int, memoryview], bytes | None]] = {
            PRODUCE: self._produce,
            FETCH: self._fetch,
            LIST_OFFSETS: self._listOffsets,
            METADATA: self._metadata,
            API_VERSIONS: self._apiVersions,
            CREATE_TOPICS: self._createTopics,
            INIT_PRODUCER_ID: self._initProducerId,
            DESCRIBE_CONFIGS: self._describeConfigs,
        }
        return takers[key](broker, body)

    def _produce(self, broker: int, body: memoryview) -> bytes:
        self.produced += 1
        _transaction, acks, _timeout, topics = unpackFrom("h h i [S [i Y]]", body)
        assert acks == -1
        answers = []
        for name, partitions in topics:
            topic = name.decode()
            parts = []
            for partition, batch in partitions:
                error = self._append(broker, TopicPartition(topic, partition), batch)
                parts.append(struct.pack("!ihqq", partition, error, 0, -1))
            answers.append(_string(topic) + _array(parts))
        return _array(answers) + struct.pack("!i", 0)

    def _append(self, broker: int, place: TopicPartition, batch: bytes) -> int:
        if place.topic not in self.leaders:
            return 3
        if self.leaders[place.topic][place.partition] != broker:
            return 6
        if self.errors and (error := self.errors.popleft()):
            return error
        if len(batch) > self.limit:
            return 10
        fields = _BATCH.unpack_from(batch)
        producer, sequence, count = fields[9], fields[11], fields[12]
        known = self._sequences.setdefault((place, producer), [])
        if (sequence, count) in known:
            return 0
        if known and sequence != known[-1][0] + known[-1][1]:
            return 45
        known.append((sequence, count))
        self._batches.setdefault(place, []).append(struct.pack("!q", self._end(place)) + batch[8:])
        return 0

    def _end(self, place: TopicPartition) -> int:
        batches = self._batches.get(place)
        if not batches:
            return 0
        fields = _BATCH.unpack_from(batches[-1])
        end: int = fields[0] + fields[6] + 1
        return end

    def _fetch(self, broker: int, body: memoryview) -> bytes | None:
        _replica, _wait, _least, _most, _isolation, topics = unpackFrom("i i i i b [S [i q i]]", body)
        answers = []
        anything = False
        for name, partitions in topics:
            topic = name.decode()
            parts = []
            for partition, offset, _bytes in partitions:
                place = TopicPartition(topic, partition)
                error, found = 0, b""
                if self.leaders[topic][partition] != broker:
                    error = 6
                elif offset < self._begin.get(place, 0):
                    error = 1
                else:
                    batches = self._batches.get(place, [])
                    found = b"".join(one for one in batches if self._behind(one) > offset)
                anything = anything or bool(found) or bool(error)
                parts.append(struct.pack("!ihqqii", partition, error, 0, 0, -1, len(found)) + found)
            answers.append(_string(topic) + _array(parts))
        return struct.pack("!i", 0) + _array(answers) if anything else None

    def _offset(self, place: TopicPartition, time: int) -> int:
        return self._begin.get(place, 0) if time == EARLIEST else self._end(place)

    @staticmethod
    def _behind(batch: bytes) -> int:
        fields = _BATCH.unpack_from(batch)
        behind: int = fields[0] + fields[6] + 1
        return behind

    def _listOffsets(self, broker: int, body: memoryview) -> bytes:
        _replica, topics = unpackFrom("i [S [i q]]", body)
        answers = []
        for name, partitions in topics:
            topic = name.decode()
            parts = []
            for partition, time in partitions:
                place = TopicPartition(topic, partition)
                error = 0 if self.leaders[topic][partition] == broker else 6
                parts.append(struct.pack("!ihqq", partition, error, -1, self._offset(place, time)))
            answers.append(_string(topic) + _array(parts))
        return _array(answers)

    def _metadata(self, broker: int, body: memoryview) -> bytes:
        topics, _create = unpackFrom("[S] b", body)
        brokers = _array(
            struct.pack("!i", number) + _string(address.host) + struct.pack("!ih", address.port, -1)
            for number, address in self.brokers.items()
        )
        answers = []
        for name in topics:
            topic = name.decode()
            known = topic in self.leaders
            parts = _array(
                struct.pack("!hii", 0 if leader > 0 else 5, number, leader) + _array(()) + _array(())
                for number, leader in enumerate(self.leaders.get(topic, ()))
            )
            answers.append(struct.pack("!h", 0 if known else 3) + _string(topic) + b"\0" + parts)
        return struct.pack("!i", 0) + brokers + _string("cluster") + struct.pack("!i", 1) + _array(answers)

    def _apiVersions(self, broker: int, body: memoryview) -> bytes:
        assert not len(body)
        return struct.pack("!h", 0) + _array(struct.pack("!hhh", key, *span) for key, span in self.versions.items())

    def _createTopics(self, broker: int, body: memoryview) -> bytes:
        topics, _timeout, _validate = unpackFrom("[S i h [i [i]] [S S]] i b", body)
        answers = []
        for name, partitions, replication, _assignment, _configs in topics:
            topic = name.decode()
            error, words = 0, struct.pack("!h", -1)
            if topic in self.leaders:
                error = 36
            elif replication > len(self.brokers):
                error, words = 38, _string("too few brokers")
            else:
                self.leaders[topic] = [1 + number % len(self.brokers) for number in range(partitions)]
            answers.append(_string(topic) + struct.pack("!h", error) + words)
        return struct.pack("!i", 0) + _array(answers)

    def _initProducerId(self, broker: int, body: memoryview) -> bytes:
        self.nextProducer += 1
        return struct.pack("!ihqh", 0, 0, self.nextProducer, 0)

    def _describeConfigs(self, broker: int, body: memoryview) -> bytes:
        resources, _synonyms = unpackFrom("[b S [S]] b", body)
        answers = []
        for kind, name, _names in resources:
            entries = _array(
                _string(key) + _string(value) + b"\0\x05\0" + _array(()) for key, value in self.settings.items()
            )
            answers.append(struct.pack("!hhb", 0, -1, kind) + _string(name.decode()) + entries)
        return struct.pack("!i", 0) + _array(answers)


class FakeLink:
    """
    An C{IBrokerLink} to one of a L{FakeKafka}'s brokers. Answers after a millisecond.
    """

    def __init__(self, kafka: FakeKafka, address: Address) -> None:
        self._kafka = kafka
        self._address = address
        self._waiting: set[Deferred[Any]] = set()
        self._calls: set[IDelayedCall] = set()
        self._closed = False

    def ask(self, build: Callable[[], Sendable], parse: Callable[[memoryview], _T], timeout: float) -> Deferred[_T]:
        """
        See C{IBrokerLink.ask}.
        """
        if self._closed:
            return fail(BusUnavailable("closed"))
        answered: Deferred[_T] = Deferred()
        self._waiting.add(answered)
        request = bytes(build().get_bytes())
        if request[5] == PRODUCE and self._kafka.stalled:
            self._kafka.hold(lambda: self._take(request, parse, answered, Mishap.none))
        else:
            mishap = Mishap.none
            if request[5] == PRODUCE and self._kafka.mishaps:
                mishap = self._kafka.mishaps.popleft()
            if mishap is Mishap.silent:
                self._later(timeout, lambda: self._fail(answered, "no answer"))
            self._later(0.001, lambda: self._take(request, parse, answered, mishap))
        return answered

    def close(self) -> Deferred[None]:
        """
        See C{IBrokerLink.close}.
        """
        self._closed = True
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        for answered in list(self._waiting):
            self._fail(answered, "closed")
        return succeed(None)

    def _take(self, request: bytes, parse: Callable[[memoryview], _T], answered: Deferred[_T], mishap: Mishap) -> None:
        if answered not in self._waiting:
            return
        broker = self._kafka.brokerAt(self._address)
        if broker is None or mishap is Mishap.lostBefore:
            self._fail(answered, "refused" if broker is None else "broken")
            return
        _length, key, _version, _correlation, nameLength = struct.unpack_from("!ihhih", request)
        if key in GROUP_KEYS:
            taken = self._kafka.groups.take(broker, key, memoryview(request)[14 + nameLength :])
            taken.addCallback(lambda answer: self._later(0, lambda: self._answer(answered, parse, answer)))
            return
        answer = self._kafka.answer(broker, request)
        if mishap is Mishap.lostAfter:
            self._fail(answered, "broken")
        elif mishap is Mishap.silent:
            return
        elif answer is None:
            self._wait(request, parse, answered, 40)
        else:
            self._answer(answered, parse, answer)

    def _answer(self, answered: Deferred[_T], parse: Callable[[memoryview], _T], answer: bytes) -> None:
        if answered not in self._waiting:
            return
        self._waiting.discard(answered)
        try:
            parsed = parseWith(parse, memoryview(answer))
        except BadKafkaBytes as error:
            answered.errback(error)
        else:
            answered.callback(parsed)

    def _wait(self, request: bytes, parse: Callable[[memoryview], _T], answered: Deferred[_T], left: int) -> None:
        """
        A fetch that waits for records: looks again every 10 ms.
        """

        def again() -> None:
            broker = self._kafka.brokerAt(self._address)
            answer = None if broker is None else self._kafka.answer(broker, request)
            if answer is None and left:
                self._wait(request, parse, answered, left - 1)
            else:
                self._answer(answered, parse, answer or bytes(8))

        self._later(0.01, again)

    def _fail(self, answered: Deferred[Any], why: str) -> None:
        if answered in self._waiting:
            self._waiting.discard(answered)
            answered.errback(BusUnavailable(f"{self._address}: {why}"))

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        def run() -> None:
            self._calls.discard(call)
            what()

        if self._closed:
            return
        call: IDelayedCall = self._kafka.clock.callLater(seconds, run)
        self._calls.add(call)

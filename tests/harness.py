"""
A whole gateway without sockets and without sleep: a clock that is advanced, a bus whose flushes are let through or
failed by hand, the memory session store, and links on string transports.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.admission.passwords import PasswordChecker
from binaryserver.bus.partitioner import partition
from binaryserver.bus.topics import Topics
from binaryserver.directory.cache import Directory
from binaryserver.directory.opendirectory import OpenDirectory
from binaryserver.errors import BusError
from binaryserver.gateway import Gateway, Limits
from binaryserver.ids import IdSource
from binaryserver.interfaces import IBus, IBusConsumer, IBusReader, IDirectorySource, IPeers, ISessionStore
from binaryserver.md30.protocol import Md30, Md30Link
from binaryserver.model import Record, StoredRecord
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import IndexNotice, Track, TrackBatch, Value
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.registry import NoPeers
from binaryserver.transcode.codecs import JsonCodec, ProtobufCodec
from binaryserver.transcode.pseudonyms import Pseudonyms

NOW_MS = 1_790_000_000_000
ASSET = "350000000000001"


class HandReactor(MemoryReactorClock):
    """
    A reactor whose threads do their work at once.
    """

    def getThreadPool(self) -> HandReactor:
        """
        See C{IReactorThreads}.
        """
        return self

    def callInThreadWithCallback(
        self, onResult: Callable[[bool, Any], None], function: Callable[..., Any], *arguments: Any
    ) -> None:
        """
        See L{twisted.python.threadpool.ThreadPool.callInThreadWithCallback}.
        """
        try:
            result = function(*arguments)
        except Exception:
            onResult(False, Failure())
        else:
            onResult(True, result)

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        """
        See C{IReactorFromThreads}.
        """
        self.callLater(0, function, *arguments)


@implementer(IBusConsumer)
class HandConsumer:
    """
    Gives out what the test brings.

    @ivar committed: the offsets that were committed, by topic and partition
    """

    lag: int | None = None

    def __init__(self) -> None:
        self.committed: dict[tuple[str, int], int] = {}
        self.isClosed = False
        self._reading: Deferred[list[StoredRecord]] | None = None
        self._offset = 0

    def bring(self, *messages: cloudnext_pb2.DownlinkMessage | StoredRecord) -> None:
        """
        Let these be read at once, each at the next offset.
        """
        records = []
        for one in messages:
            if not isinstance(one, StoredRecord):
                key = f"{one.account}/{one.asset}".encode()
                one = StoredRecord(Topics.named().downlink, 0, 0, NOW_MS, key, one.SerializeToString())
            records.append(one._replace(offset=self._offset))
            self._offset += 1
        reading, self._reading = self._reading, None
        assert reading is not None, "nobody reads"
        reading.callback(records)

    def fail(self) -> None:
        """
        Let the read fail.
        """
        reading, self._reading = self._reading, None
        assert reading is not None, "nobody reads"
        reading.errback(BusError("failed by the test"))

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusConsumer.read}.
        """
        self._reading = Deferred()
        return self._reading

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Deferred[None]:
        """
        See L{IBusConsumer.commit}.
        """
        self.committed.update(offsets)
        return succeed(None)

    def close(self) -> Deferred[None]:
        """
        See L{IBusConsumer.close}.
        """
        self.isClosed = True
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.callback([])
        return succeed(None)


@implementer(IBus)
class HandBus:
    """
    Keeps flushes until the test lets them commit or fail.

    @ivar isOpen: flushes commit at once
    @ivar committed: topic and record of all that is durable, in its order
    """

    maxRecord = 1_000_000
    consumer: HandConsumer

    def __init__(self) -> None:
        self.isOpen = True
        self.committed: list[tuple[str, Record]] = []
        self.waiting: deque[tuple[str, int, Sequence[Record], Deferred[None]]] = deque()
        self.pendingBytes = 0

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        return succeed(None)

    def partitionFor(self, topic: str, key: bytes) -> int:
        """
        See L{IBus.partitionFor}.
        """
        return partition(key, 8)

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        self.pendingBytes += sum(len(record.value) for record in records)
        done: Deferred[None] = Deferred()
        self.waiting.append((topic, partition, records, done))
        if self.isOpen:
            self.commit()
        return done

    def commit(self, place: int = 0) -> None:
        """
        Make one waiting flush durable.
        """
        self.waiting.rotate(-place)
        topic, _, records, done = self.waiting.popleft()
        self.waiting.rotate(place)
        self.pendingBytes -= sum(len(record.value) for record in records)
        self.committed += [(topic, record) for record in records]
        done.callback(None)

    def fail(self, place: int = 0, isThere: bool = False) -> None:
        """
        Fail one waiting flush.

        @param isThere: its records are durable nevertheless
        """
        self.waiting.rotate(-place)
        topic, _, records, done = self.waiting.popleft()
        self.waiting.rotate(place)
        self.pendingBytes -= sum(len(record.value) for record in records)
        if isThere:
            self.committed += [(topic, record) for record in records]
        done.errback(BusError("failed by the test"))

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        return succeed([])

    def erase(self, key: bytes) -> Deferred[int | None]:
        """
        See L{IBus.erase}.
        """
        before = len(self.committed)
        self.committed = [(topic, record) for topic, record in self.committed if record.key != key]
        return succeed(before - len(self.committed))

    def openConsumer(self, topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        See L{IBus.openConsumer}.
        """
        self.consumer = HandConsumer()
        return succeed(self.consumer)

    def openReader(self, topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        See L{IBus.openReader}.
        """
        return fail(BusError("this bus is not read back"))

    def events(self, topic: str) -> list[cloudnext_pb2.Event]:
        """
        What was committed to one of the topics, by its short name.
        """
        name = getattr(Topics.named(), topic)
        return [cloudnext_pb2.Event.FromString(record.value) for topic_, record in self.committed if topic_ == name]

    def rejects(self) -> list[cloudnext_pb2.Reject]:
        """
        What was committed to C{rejects}.
        """
        name = Topics.named().rejects
        return [cloudnext_pb2.Reject.FromString(record.value) for topic, record in self.committed if topic == name]


class LinkTransport(StringTransport):
    """
    A transport as the links use it.
    """

    def __init__(self) -> None:
        StringTransport.__init__(self, peerAddress=IPv4Address("TCP", "192.0.2.7", 40000))
        self.isAborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        See C{ITCPTransport}.
        """

    def unregisterProducer(self) -> None:
        """
        See C{IConsumer}; a transport that is done with forgives it.
        """
        self.producer = None

    def abortConnection(self) -> None:
        """
        See C{ITCPTransport}.
        """
        self.isAborted = True
        self.disconnected = True

    @property
    def isReading(self) -> bool:
        """
        Not paused.
        """
        return bool(self.producerState == "producing")


class Box:
    """
    A client, as bytes.
    """

    def __init__(self, world: World, asset: str = ASSET) -> None:
        self.world = world
        self.asset = asset
        self.transport = LinkTransport()
        link = world.factory.buildProtocol(None)
        assert isinstance(link, Md30Link)
        self.link = link
        link.makeConnection(self.transport)

    def connect(self, clean: bool = True, keepAlive: int = 0, will: tuple[str, bytes] | None = None) -> Box:
        """
        CONNECT, and see it accepted.
        """
        flags = (2 if clean else 0) | (0x04 if will else 0)
        body = b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, keepAlive) + text(self.asset)
        if will:
            body += text(will[0]) + struct.pack(">H", len(will[1])) + will[1]
        self.send(b"\x10" + varint(len(body)) + body)
        return self

    def send(self, data: bytes) -> None:
        """
        Bytes to the gateway, and a turn of its reactor.
        """
        self.link.dataReceived(data)
        self.world.turn()

    def publish(self, topic: str, payload: bytes, packetId: int = 1, qos: int = 1, dup: bool = False) -> None:
        """
        PUBLISH.
        """
        self.send(publish(topic, payload, packetId, qos, dup))

    def tracks(self, first: int, count: int = 1, packetId: int = 1, stream: int = 9, ageMs: int = 0) -> None:
        """
        PUBLISH a batch of tracks recorded one a second from L{NOW_MS} - 1 h on, by their indices.
        """
        self.publish("t", batch(first, count, stream, ageMs), packetId)

    def subscribe(self, *filters: str, packetId: int = 100) -> None:
        """
        SUBSCRIBE with QoS 1.
        """
        body = struct.pack(">H", packetId) + b"".join(text(one) + b"\x01" for one in filters)
        self.send(b"\x82" + varint(len(body)) + body)

    def received(self) -> list[bytes]:
        """
        The packets that the gateway has sent since last asked.
        """
        data = self.transport.value()
        self.transport.clear()
        packets = []
        while data:
            length, shift, at = 0, 0, 1
            while True:
                length |= (data[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if not data[at - 1] & 128:
                    break
            packets.append(data[: at + length])
            data = data[at + length :]
        return packets

    def acks(self) -> list[int]:
        """
        The packet ids of the PUBACKs received since last asked; nothing else may have come.
        """
        packets = self.received()
        assert all(packet[0] == 0x40 for packet in packets), packets
        return [struct.unpack(">H", packet[2:])[0] for packet in packets]

    def lose(self, reason: Exception | None = None) -> None:
        """
        The connection is gone.
        """
        self.link.connectionLost(Failure(reason or ConnectionDone()))
        self.world.turn()


class World:
    """
    One gateway.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        store: ISessionStore | None = None,
        bus: HandBus | None = None,
        peers: IPeers | None = None,
        incarnation: str = "test@1",
        directory: IDirectorySource | None = None,
    ) -> None:
        self.clock: Any = HandReactor()
        self.bus = bus or HandBus()
        context = BackEndContext(self.clock, "--test")
        self.store: ISessionStore = store or MemorySessionStore("memory:", context)
        self.directory = Directory(directory or OpenDirectory("open:", context), self.clock)
        self.directory.start()
        self.gateway = Gateway(
            self.clock,
            lambda: NOW_MS + int(self.clock.seconds() * 1000),
            "test",
            incarnation,
            self.bus,
            self.store,
            self.directory,
            PasswordChecker(self.inThread, 10),
            Pseudonyms(b"x" * 32),
            peers or NoPeers(),
            Topics.named(),
            limits or Limits(),
            (ProtobufCodec(), JsonCodec()),
        )
        self.gateway.ids = IdSource(1, self.gateway.nowMs)
        self.store.leaseWorker(incarnation)
        self.gateway.sweeper.start()
        self.gateway.delivery.start()
        self.factory = Md30().buildFactory(self.gateway)

    def inThread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        What threads do, at once.
        """
        return maybeDeferred(function, *arguments)

    def turn(self) -> None:
        """
        Let everything happen that needs no time.
        """
        for _ in range(10):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(0.1, end - self.clock.seconds() + 1e-9))

    def box(self, asset: str = ASSET, **options: Any) -> Box:
        """
        A box that is connected; its CONNACK is taken off.
        """
        box = Box(self, asset).connect(**options)
        packets = box.received()
        assert packets[0][:2] == b"\x20\x02" and packets[0][3] == 0, packets
        return box


def varint(value: int) -> bytes:
    """
    MQTT's remaining length.
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str) -> bytes:
    """
    MQTT's string.
    """
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def publish(topic: str, payload: bytes, packetId: int = 1, qos: int = 1, dup: bool = False) -> bytes:
    """
    A PUBLISH packet.
    """
    body = text(topic) + (struct.pack(">H", packetId) if qos else b"") + payload
    return bytes([0x30 | qos << 1 | dup << 3]) + varint(len(body)) + body


def makeTrack(index: int, ageMs: int = 0) -> Track:
    """
    The track of an index.
    """
    return Track(
        recorded_at=NOW_MS - 3_600_000 + index * 1000 - ageMs,
        latitude=488_566_000,
        longitude=23_522_000,
        field_numbers=[8],
        field_values=[Value(int_value=index)],
    )


def batch(first: int, count: int = 1, stream: int = 9, ageMs: int = 0) -> bytes:
    """
    A serialized C{TrackBatch}.
    """
    tracks = [makeTrack(index, ageMs) for index in range(first, first + count)]
    return TrackBatch(stream=stream, first_index=first, tracks=tracks).SerializeToString()


def notice(packet: bytes) -> tuple[str, int, int]:
    """
    Topic, stream and last index of an index notice.
    """
    assert packet[0] == 0x30, packet
    at = 2
    length = struct.unpack(">H", packet[at : at + 2])[0]
    topic = packet[at + 2 : at + 2 + length].decode()
    read = IndexNotice.FromString(packet[at + 2 + length :])
    return topic, read.stream, read.last_index

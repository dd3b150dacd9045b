"""
What it costs to send tracks the long way: to RQueue as MessagePack, and by the Shovel to the bus as protobuf.

    python -m benchmarks.shovel [--redis 127.0.0.1:16379] [--bus kafka://127.0.0.1:19092] [--tracks 50000] [--boxes 50]

Tracks have ten fields. First the two transcoders alone, on one core; then the push to Redis, as the gateway does it;
then the Shovel, in this process: CPU time is the process's own, user and system, all threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from binaryserver.bus.rqueue import RQueue
from binaryserver.bus.rqueue_settings import parseRQueue
from binaryserver.bus.topics import Topics
from binaryserver.interfaces import IBus, IBusPlugin
from binaryserver.model import BoxKey, Record
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.session.redislink import RedisLink
from binaryserver.shovel.service import Pace, ShovelService
from binaryserver.transcode.cloudconnect import encodeEvent
from binaryserver.transcode.cloudconnect_layout import Kind
from binaryserver.transcode.cloudconnect_reading import decodeEvent
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.labels import FieldLabels
from binaryserver.transcode.tracks import TrackEncoder

_FLUSH = 20
_NUMBERS = (8, 9, 10, 14, 50, 51, 52, 53, 54, 55)


class _Dictionary:
    """
    Ten fields, as an account's dictionary has them.
    """

    def fieldName(self, account: str, number: int) -> tuple[str, str] | None:
        """
        See L{binaryserver.interfaces.IDirectorySource.fieldName}.
        """
        return f"MDI_FIELD_{number}", "int"


def makeRecords(boxes: int, tracks: int) -> list[list[Record]]:
    """
    Flushes of tracks, the boxes in turn, as the gateway would publish them.
    """
    nowMs = time.time_ns() // 1_000_000
    flushes = []
    directory: Any = _Dictionary()
    encoders = [
        TrackEncoder(
            Envelope(BoxKey("acme", f"35000000000{box:04}"), 1 << 60, 1 << 39, "host-0", cloudnext_pb2.PROTOCOL_MD30),
            FieldLabels(directory, "acme"),
            1_000_000,
        )
        for box in range(boxes)
    ]
    for first in range(0, tracks // boxes, _FLUSH):
        for encoder in encoders:
            batch = [
                Track(
                    recorded_at=nowMs - 1000 + index,
                    latitude=488_566_140 + index,
                    longitude=23_522_190 - index,
                    field_numbers=_NUMBERS,
                    field_values=[Value(int_value=index * number) for number in _NUMBERS],
                )
                for index in range(first, first + _FLUSH)
            ]
            bodies, times = [track.SerializeToString() for track in batch], [track.recorded_at for track in batch]
            flushes.append(encoder.encode(batch, bodies, times, 12345, first, 0, nowMs)[0])
    return flushes


def perItem(name: str, count: int, work: Callable[[], object]) -> None:
    """
    Measure something that takes the processor alone.
    """
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    print(f"{name:42} {best / count * 1e6:8.1f} CPU µs a track")


class _Measured:
    """
    Wall and CPU time of a part.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def end(self) -> None:
        """
        Say it.
        """
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        print(
            f"{self._name:42} {cpu / self._count * 1e6:8.1f} CPU µs a track, {self._count / wall:10,.0f} tracks/s, "
            f"{cpu / wall:.2f} cores"
        )


async def measure(reactor: Any, arguments: argparse.Namespace) -> None:
    """
    All of it.
    """
    flushes = makeRecords(arguments.boxes, arguments.tracks)
    records = [record for flush in flushes for record in flush]
    packed = [encodeEvent(Kind.track, record) for record in records]
    count = len(records)
    sizes = (sum(len(record.value) for record in records) / count, sum(map(len, packed)) / count)
    print(
        f"{count} tracks of {arguments.boxes} boxes; bytes a track: protobuf {sizes[0]:.0f}, MessagePack {sizes[1]:.0f}"
    )
    some, somePacked = records[:5000], packed[:5000]
    perItem("protobuf to MessagePack", len(some), lambda: [encodeEvent(Kind.track, record) for record in some])
    perItem("MessagePack to protobuf", len(some), lambda: [decodeEvent(each) for each in somePacked])

    mark = uuid4().hex[:12]
    spec = f"rqueue://{arguments.redis}/0?prefix=bench-{mark}:&max-length=100000000"
    topics = Topics.named(f"bench-{mark}.")
    queue = RQueue(spec, BackEndContext(reactor, "--redis"), topics)
    await queue.start()
    measured = _Measured("to RQueue", count)
    await published(reactor, queue, topics.tracks, flushes)
    measured.end()

    wanted = (topics.tracks, topics.messages, topics.presences, topics.rejects)
    bus: IBus = createBackEnd(IBusPlugin, arguments.bus, BackEndContext(reactor, "--bus", 0.005, topics=wanted))
    await bus.createTopics(wanted, 8, 1)
    await bus.start()
    pace = Pace(batch=arguments.batch)
    shovel = ShovelService(reactor, lambda: time.time_ns() // 1_000_000, spec, "--redis", bus, topics, "bench", pace)
    measured = _Measured(f"Shovel to {arguments.bus.partition(':')[0]}, {arguments.batch} a batch", count)
    await shovel.begin()
    while shovel.counts.copied["track"] < count:
        await deferLater(reactor, 0.02)
    measured.end()
    await shovel.end()
    await bus.stop()
    await queue.stop()
    await removeKeys(reactor, spec)


async def removeKeys(reactor: Any, spec: str) -> None:
    """
    Leave nothing in Redis.
    """
    settings = parseRQueue(spec, "--redis").redis
    link = RedisLink(reactor, settings, "--redis")
    await link.start(10)
    keys = await link.call("KEYS", f"{settings.prefix}*")
    if keys:
        await link.call("DEL", *keys)
    await link.stop(1)


async def published(reactor: Any, queue: RQueue, topic: str, flushes: Sequence[Sequence[Record]]) -> None:
    """
    Publish, some hundred flushes a turn of the reactor.
    """
    done: list[Deferred[None]] = []
    for number, flush in enumerate(flushes):
        done.append(queue.publish(topic, 0, flush))
        if number % 50 == 0:
            await deferLater(reactor, 0)
    await gatherResults(done)


def main() -> None:
    """
    Measure.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", default="127.0.0.1:16379")
    parser.add_argument("--bus", default="kafka://127.0.0.1:19092")
    parser.add_argument("--tracks", type=int, default=50_000)
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=500)
    arguments = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(measure(reactor, arguments)))


if __name__ == "__main__":
    main()

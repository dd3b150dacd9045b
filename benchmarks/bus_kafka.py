"""
What publishing through the Kafka bus costs, beside the same records with C{confluent_kafka} alone.

    python -m benchmarks.bus_kafka HOST:PORT [SECONDS]

HOST:PORT is a Kafka to make a topic at (C{make services} starts one at 127.0.0.1:19092; the topic is deleted again);
SECONDS (6) is for each size of flush. Those that are compared take turns, round by round, in one process with one
configuration. CPU is the whole process's, librdkafka's threads included; records have 200 bytes and the five headers of
CloudEvents.
"""

from __future__ import annotations

import sys
import time
from typing import Any
from uuid import uuid4

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from binaryserver.bus.kafkabus import KafkaBus
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext

FLUSHES = (1, 16, 256)
ROUND = 20_480
"""Records a round: a whole number of flushes of each size, all handed over before the first is awaited."""

PARTITIONS = 4
LINGER = 0.005
"""s; short, so that a round's time is its records' and not the wait for the last batch."""

HEADERS = [
    ("ce_id", b"acme/356938035643809/7/123456"),
    ("ce_type", b"cloudnext.v1.Track"),
    ("ce_source", b"/binaryserver/gateway-1"),
    ("ce_time", b"2026-01-01T00:00:00.000Z"),
    ("content-type", b"application/protobuf"),
]
RECORD = Record(b"acme/356938035643809", bytes(200), HEADERS)


def rawRound(producer: Any, topic: str, flush: int) -> None:
    """
    One round without the bus: C{produce} for each record, one counted callback, and a wait for all; partitions take
    turns as in L{busRound}. Blocks.
    """
    delivered = 0

    def report(error: Any, message: Any) -> None:
        nonlocal delivered
        assert error is None, error
        delivered += 1

    produce = producer.produce
    key, value, headers = RECORD
    for number in range(ROUND):
        produce(topic, value, key, number // flush % PARTITIONS, report, headers=headers)
        if not number % 256:
            producer.poll(0)
    producer.flush(60)
    assert delivered == ROUND


async def busRound(bus: KafkaBus, topic: str, flush: int) -> None:
    """
    One round through the bus, in flushes of one size.
    """
    records = [RECORD] * flush
    flushes: list[Deferred[None]] = [bus.publish(topic, n % PARTITIONS, records) for n in range(ROUND // flush)]
    await gatherResults(flushes)


async def compare(reactor: Any, address: str, seconds: float) -> None:
    """
    All sizes of flush, each against raw rounds of its own.
    """
    topic = f"benchmark-{uuid4().hex[:12]}"
    context = BackEndContext(reactor, "--bus", flushInterval=LINGER, topics=(topic,))
    bus = KafkaBus(f"kafka://{address}", context)
    await bus.createTopics([topic], PARTITIONS, 1)
    await bus.start()
    raw: Any = Producer(
        {"bootstrap.servers": address, "enable.idempotence": True, "acks": "all", "linger.ms": LINGER * 1000}
    )
    try:
        await busRound(bus, topic, 256)
        await deferToThread(rawRound, raw, topic, 256)
        print(f"{'':24}{'records/s':>12}{'µs CPU':>9}{'rate':>8}{'CPU':>7}   (ratios to raw)")
        for flush in FLUSHES:
            walls, cpus, rounds = [0.0, 0.0], [0.0, 0.0], 0
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or not rounds:
                for which in (0, 1) if rounds % 2 else (1, 0):
                    wall, cpu = time.perf_counter(), time.process_time()
                    await (busRound(bus, topic, flush) if which else deferToThread(rawRound, raw, topic, flush))
                    walls[which] += time.perf_counter() - wall
                    cpus[which] += time.process_time() - cpu
                rounds += 1
            total = rounds * ROUND
            for which, name in enumerate(("confluent_kafka alone", f"bus, flushes of {flush}")):
                print(
                    f"{name:24}{total / walls[which]:>12,.0f}{cpus[which] / total * 1e6:>9.2f}"
                    f"{walls[0] / walls[which]:>7.2f}x{cpus[which] / cpus[0]:>6.2f}x",
                    flush=True,
                )
    finally:
        await bus.stop()
        admin = AdminClient({"bootstrap.servers": address})
        await deferToThread(admin.delete_topics([topic])[topic].result, 10)


def main(reactor: Any, address: str, seconds: str = "6") -> Deferred[None]:
    """
    The command line.
    """
    return Deferred.fromCoroutine(compare(reactor, address, float(seconds)))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.bus_kafka HOST:PORT [SECONDS]")
    react(main, sys.argv[1:])

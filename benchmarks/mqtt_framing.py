"""
What a QoS 1 PUBLISH costs from bytes to event, beside a parser written the plain way.

    python -m benchmarks.mqtt_framing

Each line is a topic, how many PUBLISHes one read brings, and their payload: ns a PUBLISH for
C{Connection.receiveData}, for the plain parser, how many times as long that takes, and ns a PUBLISH for the making of
the PUBACKs. The best of several rounds, in which those that are compared take turns. At the end, the memory of an idle
connection.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from binaryserver.mqtt import packets
from binaryserver.mqtt.connection import Connection

ROUNDS = 5
SECONDS = 0.02
TOPICS = ("t", "boxes/356938035643809/tracks")


@dataclass
class PlainPublish:
    """
    What the plain parser gives.
    """

    topic: str
    payload: bytes
    qos: int
    packetId: int
    dup: bool
    retain: bool


class PlainParser:
    """
    One packet after another: header, body, fields; the buffer is cut after each.
    """

    def __init__(self) -> None:
        self._buffer = b""

    def receiveData(self, data: bytes) -> list[PlainPublish]:
        """
        Take what one read brought.
        """
        self._buffer += data
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def _next(self) -> PlainPublish | None:
        length = shift = 0
        position = 1
        while True:
            if position >= len(self._buffer):
                return None
            byte = self._buffer[position]
            length |= (byte & 127) << shift
            shift += 7
            position += 1
            if byte < 128:
                break
        if len(self._buffer) < position + length:
            return None
        first = self._buffer[0]
        body = self._buffer[position : position + length]
        self._buffer = self._buffer[position + length :]
        return self._publish(first, body)

    def _publish(self, first: int, body: bytes) -> PlainPublish:
        (size,) = struct.unpack(">H", body[:2])
        topic = body[2 : 2 + size].decode("utf-8")
        if "\0" in topic or "+" in topic or "#" in topic:
            raise ValueError("not a topic name")
        (packetId,) = struct.unpack(">H", body[2 + size : 4 + size])
        return PlainPublish(topic, body[4 + size :], first >> 1 & 3, packetId, bool(first & 8), bool(first & 1))


def opened() -> Connection:
    """
    A connection that has accepted a client.
    """
    connection = Connection(0.0)
    connection.receiveData(packets.encodeConnect("box"), 0.0)
    connection.accept(False, 60)
    connection.dataToSend()
    return connection


def measure(run: Callable[[], object]) -> float:
    """
    ns of CPU that one call takes, over about L{SECONDS}.
    """
    count = 1
    while True:
        begin = time.process_time_ns()
        for _ in range(count):
            run()
        taken = time.process_time_ns() - begin
        if taken >= SECONDS * 1e9:
            return taken / count
        count *= 2


def main() -> None:
    """
    Measure and print.
    """
    columns = ("topic", "a read", "bytes", "ours, ns", "plain, ns", "plain/ours", "PUBACK, ns")
    print("{:30} {:>6} {:>6} {:>9} {:>9} {:>10} {:>10}".format(*columns))
    for topic in TOPICS:
        for count in (1, 16):
            for size in (100, 2000):
                ids = list(range(1000, 1000 + count))
                data = b"".join(packets.encodePublish(topic, bytes(size), 1, packetId) for packetId in ids)
                ours, plain = opened(), PlainParser()
                assert [tuple(event) for event in ours.receiveData(data, 0.0)] == [
                    (event.topic, event.payload, event.qos, event.packetId, event.dup, event.retain)
                    for event in plain.receiveData(data)
                ]

                def acknowledge(connection: Connection = ours, ids: list[int] = ids) -> None:
                    connection.puback(ids)
                    connection.dataToSend()

                runs = (
                    lambda ours=ours, data=data: ours.receiveData(data, 0.0),
                    lambda plain=plain, data=data: plain.receiveData(data),
                    acknowledge,
                )
                best = [
                    min(times) / count
                    for times in zip(*([measure(run) for run in runs] for _ in range(ROUNDS)), strict=True)
                ]
                own, other, puback = best
                print(f"{topic:30} {count:6} {size:6} {own:9.0f} {other:9.0f} {other / own:10.1f} {puback:10.0f}")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    connections = [opened() for _ in range(1000)]
    print(f"an idle connection: {(tracemalloc.get_traced_memory()[0] - before) / len(connections):.0f} bytes")


if __name__ == "__main__":
    main()

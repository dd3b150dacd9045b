"""
A load of MD30 links, as cheap as Python makes it, for the benchmarks: packets are prepared, sockets are raw.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import time
from collections import deque

from binaryserver.proto.md30_pb2 import Track, TrackBatch, Value

_FIRST_INDEX = 1 << 28  # its varint has five bytes for the next 30 thousand million indices
_FIELDS = (3, 8, 9, 10, 14, 15, 55, 73, 235, 239)


def makeTrack(recordedAt: int, number: int) -> Track:
    """
    A track of ten fields.
    """
    return Track(
        recorded_at=recordedAt,
        latitude=488_566_000 + number,
        longitude=23_522_000 - number,
        field_numbers=_FIELDS,
        field_values=[
            Value(string_value="A")
            if field == 3
            else Value(bool_value=True)
            if field == 14
            else Value(int_value=field * 37 + number)
            for field in _FIELDS
        ],
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Link:
    """
    One box: sends as the acks allow.
    """

    def __init__(self, asset: str, address: tuple[str, int], batch: int, topic: bytes) -> None:
        self.batch = batch
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = asset.encode()
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(client)) + client
        self.sock.sendall(b"\x10" + _varint(len(body)) + body)
        answer = self.sock.recv(4)
        if answer != b"\x20\x02\x00\x00":
            raise SystemExit(f"no link: {answer!r}")
        self.sock.setblocking(False)
        now = time.time_ns() // 1_000_000
        tracks = TrackBatch(tracks=[makeTrack(now - 1000 * (batch - n), n) for n in range(batch)]).SerializeToString()
        stream = b"\x08" + _varint((hash(asset) & 0xFFFFFFFF) | 1 << 40)
        length = 2 + len(topic) + 2 + len(stream) + 6 + len(tracks)
        self._head = b"\x32" + _varint(length) + struct.pack(">H", len(topic)) + topic
        self._stream = stream + b"\x10"
        self._tracks = tracks
        self.index = _FIRST_INDEX
        self.packetId = 0
        self.acked = 0
        self.rest = b""
        self.out = b""
        self.sentAt: deque[float] = deque()

    def packets(self, count: int, now: float) -> bytes:
        """
        The next PUBLISHes.
        """
        parts: list[bytes] = []
        for _ in range(count):
            self.packetId = self.packetId % 65_535 + 1
            parts += (self._head, struct.pack(">H", self.packetId), self._stream, _varint(self.index), self._tracks)
            self.index += self.batch
            self.sentAt.append(now)
        return b"".join(parts)


def run(
    address: tuple[str, int], links: int, inFlight: int, batch: int, seconds: float, topic: bytes
) -> dict[str, object]:
    """
    Send for some time.

    @return: tracks acked, seconds, ack latencies in ms, and when (Unix s) the measured part began and ended
    """
    boxes = [Link(f"bench-{n:06d}", address, batch, topic) for n in range(links)]
    selector = selectors.DefaultSelector()
    for box in boxes:
        selector.register(box.sock, selectors.EVENT_READ, box)
    started = time.monotonic()
    for box in boxes:
        box.out = box.packets(inFlight, started)
        _send(box, selector)
    warm = started + min(2.0, seconds / 4)
    end = warm + seconds
    counted = 0
    acked = 0
    latencies: list[float] = []
    beganAt = None
    while (now := time.monotonic()) < end:
        if beganAt is None and now >= warm:
            beganAt, counted, latencies = now, acked, []
        for key, mask in selector.select(0.1):
            box = key.data
            if mask & selectors.EVENT_WRITE:
                _send(box, selector)
            if mask & selectors.EVENT_READ:
                data = box.sock.recv(65_536)
                if not data:
                    raise SystemExit("a link was closed")
                data = box.rest + data
                count = len(data) // 4
                box.rest = data[count * 4 :]
                acked += count
                at = time.monotonic()
                for _ in range(count):
                    latencies.append(at - box.sentAt.popleft())
                box.out += box.packets(count, at)
                _send(box, selector)
    took = time.monotonic() - (beganAt or started)
    for box in boxes:
        box.sock.close()
    latencies.sort()
    return {
        "tracks": (acked - counted) * batch,
        "seconds": took,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
    }


def _send(box: Link, selector: selectors.BaseSelector) -> None:
    try:
        sent = box.sock.send(box.out)
    except BlockingIOError:
        sent = 0
    box.out = box.out[sent:]
    selector.modify(box.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if box.out else 0), box)


def main() -> None:
    """
    Run as a process of its own, so that the load's CPU is not the gateway's.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--links", type=int, default=100)
    parser.add_argument("--inflight", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--topic", default="t")
    options = parser.parse_args()
    result = run(
        ("127.0.0.1", options.port),
        options.links,
        options.inflight,
        options.batch,
        options.seconds,
        options.topic.encode(),
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""
A list of 100,000 boxes: how long it takes, what memory, and what the other boxes notice of it.

    python -m benchmarks.listing [--boxes 100000] [--links 20] [--rate 400] [--rounds 5] [--redis 127.0.0.1:16379]

The store is filled by claims, half of the boxes released again. Then C{--links} boxes send a track each in turn,
C{--rate} in all a second, and wait for its ack; and in every second part of the run the list is read as lines, over and
over. Printed, for each store: seconds a list, what the gateway's resident memory grew by while it was read, p50 and p99
of the acks with it and without, and their ratio, which is the figure: it is to be at most 1.2. The parts take turns, so
that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from statistics import median
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from benchmarks.mqttload import makeTrack
from benchmarks.pipeline import freePort, rssBytes, startGateway
from binaryserver.interfaces import ISessionStorePlugin
from binaryserver.model import BoxKey
from binaryserver.mqtt.packets import encodeConnect, encodePublish
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.proto.md30_pb2 import TrackBatch

_CHUNK = 500
_WARM = 2.0
"""s of load before anything counts"""


def fill(reactor: Any, spec: str, count: int) -> Deferred[None]:
    """
    Have a store keep that many boxes.
    """

    async def filled() -> None:
        store: Any = createBackEnd(ISessionStorePlugin, spec, BackEndContext(reactor, "--sessions"))
        await store.start()
        now = time.time_ns() // 1_000_000
        for start in range(0, count, _CHUNK):
            boxes = [BoxKey("dev", f"listed-{number:07d}") for number in range(start, min(start + _CHUNK, count))]
            claims = await gatherResults(
                [store.claim(box, "filler@1", "md30", "192.0.2.1", now, True, "1") for box in boxes]
            )
            ends = list(zip(boxes, claims, strict=True))[::2]
            await gatherResults([store.release(box, claim.linkEpoch, now) for box, claim in ends])
        await store.stop()

    return Deferred.fromCoroutine(filled())


def empty(reactor: Any, spec: str) -> Deferred[None]:
    """
    Remove from a Redis what stands behind the prefix.
    """

    async def emptied() -> None:
        store: Any = createBackEnd(ISessionStorePlugin, spec, BackEndContext(reactor, "--sessions"))
        await store.start()
        cursor = b"0"
        while True:
            cursor, keys = await store._link.call("SCAN", cursor, "MATCH", f"{store._settings.prefix}*", "COUNT", 1000)
            if keys:
                await store._link.call("UNLINK", *keys)
            if cursor == b"0":
                break
        await store.stop()

    return Deferred.fromCoroutine(emptied())


def read(port: int, count: int) -> None:
    """
    Read the list, over and over; print the seconds of each. In a process of its own: it costs the boxes nothing here.
    """
    while True:
        began = time.monotonic()
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("GET", "/api/boxes?prefix=listed-", headers={"Accept": "application/x-ndjson"})
        answer = connection.getresponse()
        lines = 0
        while data := answer.read1(65_536):
            lines += data.count(b"\n")
        if lines != count:
            raise SystemExit(f"{lines} of {count} boxes were listed")
        print(time.monotonic() - began, flush=True)


async def box(port: int, number: int, period: float, until: float, latencies: list[tuple[float, float]]) -> None:
    """
    One that sends a track every period, and waits for its ack.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(encodeConnect(f"busy-{number:04d}", keepAlive=0))
    await reader.readexactly(4)
    index = 1
    due = time.monotonic() + period * number / 1000
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        track = makeTrack(time.time_ns() // 1_000_000, index)
        payload = TrackBatch(stream=7, first_index=index, tracks=[track]).SerializeToString()
        sent = time.monotonic()
        writer.write(encodePublish("t", payload, 1, index % 65_000 + 1))
        answer = await reader.readexactly(4)
        if answer != b"\x40\x02" + struct.pack(">H", index % 65_000 + 1):
            raise SystemExit("a track was not acked")
        latencies.append((sent, time.monotonic() - sent))
        index += 1
        due = max(due + period, time.monotonic() - period)
    writer.close()


def percentile(values: Sequence[float], share: float) -> float:
    """
    ms.
    """
    return sorted(values)[int(len(values) * share)] * 1000


def measure(store: str, options: argparse.Namespace) -> dict[str, Any]:
    """
    Of one store.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = f"sqlite:{folder}/sessions.sqlite"
        if store == "redis":
            spec = f"redis://{options.redis}/9?prefix=bench-{uuid4().hex}:"
        port, httpPort = freePort(), freePort()
        command = [sys.executable, "-m", "benchmarks.listing", f"--fill={spec}", f"--boxes={options.boxes}"]
        subprocess.run(command, check=True)
        process = startGateway(
            port,
            folder,
            f"--bus=sqlite:{folder}/bus.sqlite",
            f"--sessions={spec}",
            f"--http=tcp:{httpPort}:interface=127.0.0.1",
            "--flush-interval=0.005",
            # Or it would find who has filled the store dead, and tell all its boxes gone.
            "--lease=3600",
        )
        try:
            return run(port, httpPort, process.pid, options)
        finally:
            process.terminate()
            process.wait()
            if store == "redis":
                subprocess.run([sys.executable, "-m", "benchmarks.listing", f"--empty={spec}"], check=True)


def run(port: int, httpPort: int, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    """
    The load, with and without the list in turns.
    """
    latencies: list[tuple[float, float]] = []
    spans: list[tuple[float, float, bool]] = []
    seconds: list[float] = []
    grown = 0
    period = options.links / options.rate
    whole = _WARM + options.rounds * 2 * options.seconds
    started = time.monotonic()

    async def load() -> None:
        until = started + whole
        await asyncio.gather(*(box(port, number, period, until, latencies) for number in range(options.links)))

    def turns() -> None:
        nonlocal grown
        time.sleep(_WARM)
        for _ in range(options.rounds):
            spans.append((time.monotonic(), time.monotonic() + options.seconds, False))
            time.sleep(options.seconds)
            before = rssBytes(pid)
            command = [sys.executable, "-m", "benchmarks.listing", f"--read={httpPort}", f"--boxes={options.boxes}"]
            # As an operator would, from another machine.
            listing = subprocess.Popen(["nice", *command], stdout=subprocess.PIPE)
            spans.append((time.monotonic(), time.monotonic() + options.seconds, True))
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                grown = max(grown, rssBytes(pid) - before)
                time.sleep(0.1)
            listing.terminate()
            told, _ = listing.communicate()
            seconds.extend(map(float, told.split()))

    thread = threading.Thread(target=turns, daemon=True)
    thread.start()
    asyncio.run(load())
    thread.join()

    def each(isListing: bool, share: float) -> float:
        parts = [
            percentile([latency for sent, latency in latencies if start <= sent < end], share)
            for start, end, isListed in spans
            if isListed is isListing
        ]
        # Of all parts the one in the middle: what happens to the machine in some of them says nothing.
        return median(parts)

    p99, p99Listing = each(False, 0.99), each(True, 0.99)
    return {
        "boxes": options.boxes,
        "lists": len(seconds),
        "seconds_a_list": round(sum(seconds) / len(seconds), 2) if seconds else None,
        "grown_kib": grown // 1024,
        "p50_ms": round(each(False, 0.5), 2),
        "p50_listing_ms": round(each(True, 0.5), 2),
        "p99_ms": round(p99, 2),
        "p99_listing_ms": round(p99Listing, 2),
        "p99_ratio": round(p99Listing / p99, 3),
        "acks": len(latencies),
    }


def main() -> None:
    """
    Print a JSON object for each store.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument("--links", type=int, default=20)
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each part")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--redis", default="127.0.0.1:16379")
    parser.add_argument("--stores", default="sqlite,redis")
    parser.add_argument("--fill", default="", metavar="SPEC", help="fill that store, and do nothing else")
    parser.add_argument("--empty", default="", metavar="SPEC", help="empty that Redis, and do nothing else")
    parser.add_argument("--read", type=int, default=0, metavar="PORT", help="read the list there, for ever")
    options = parser.parse_args()
    if options.read:
        read(options.read, options.boxes)
    if options.fill:
        react(fill, (options.fill, options.boxes))
    if options.empty:
        react(empty, (options.empty,))
    for store in options.stores.split(","):
        print(json.dumps({"store": store, **measure(store, options)}), flush=True)


if __name__ == "__main__":
    main()

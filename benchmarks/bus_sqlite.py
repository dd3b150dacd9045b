"""
What the embedded bus and session store cost, beside the same inserts and updates with C{sqlite3} alone.

    python -m benchmarks.bus_sqlite [FOLDER] [SECONDS]

FOLDER is on the disk that is meant; SECONDS (8) is for each comparison. How long a disk takes to sync may change
several times over from one second to the next: so those that are compared take turns, flush by flush, each as often as
the others. Rates of small flushes are the disk's; the CPU is ours.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from binaryserver.bus.sqlitebus import SqliteBus
from binaryserver.model import BoxKey, MarkUpdate, Record
from binaryserver.plugins import BackEndContext
from binaryserver.session.sqlitestore import SqliteSessionStore

RECORD = Record(b"acme/356938035643809", bytes(200), (("ce_id", b"acme/box/1/123456"), ("ce_type", b"track")))
FLUSHES = (1, 100, 1000)
BOXES = 1000

# Flushes that are published before the first of them is awaited, as a gateway does; a commit may hold several.
AT_ONCE = 8

Step = Callable[[], Coroutine[Any, Any, int]]
"""Does some and says how many."""


async def compare(seconds: float, steps: dict[str, Step]) -> None:
    """
    Let steps take turns, and print a line for each, with its ratios to the first one.

    @param seconds: for all of them together
    """
    done, walls, cpus = (dict.fromkeys(steps, 0.0) for _ in range(3))
    order = list(steps)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        order.append(order.pop(0))
        for name in order:
            wall, cpu = time.perf_counter(), time.process_time()
            done[name] += await steps[name]()
            walls[name] += time.perf_counter() - wall
            cpus[name] += time.process_time() - cpu
    first = next(iter(steps))
    base = done[first] / walls[first], cpus[first] / done[first]
    for name in steps:
        rate, cpu = done[name] / walls[name], cpus[name] / done[name]
        print(
            f"{name:40} {rate:>9,.0f}/s {cpu * 1e6:>7.2f} µs CPU {rate / base[0]:>6.2f}x {cpu / base[1]:>5.2f}x",
            flush=True,
        )


def rawConnection(path: str, schema: str) -> sqlite3.Connection:
    """
    A file as durable as the bus's.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(schema)
    return connection


async def benchmarkBus(reactor: Any, folder: str, seconds: float, flush: int) -> None:
    """
    Flushes of one size.

    @param flush: records
    """
    connection = rawConnection(
        f"{folder}/raw{flush}",
        "CREATE TABLE records (id INTEGER PRIMARY KEY, topic INTEGER, partition INTEGER, timestamp INTEGER, "
        "key BLOB, value BLOB, headers BLOB)",
    )
    headers = b"".join(name.encode() + value for name, value in RECORD.headers)
    rows = [(1, 2, 1_790_000_000_000, RECORD.key, RECORD.value, headers)] * flush
    records = [RECORD] * flush
    bus = SqliteBus(f"sqlite:{folder}/bus{flush}", BackEndContext(reactor, "--bus", 0.0, topics=("tracks",)))
    await bus.start()

    async def alone() -> int:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO records VALUES (NULL, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        return flush

    async def one() -> int:
        await bus.publish("tracks", 2, records)
        return flush

    async def several() -> int:
        await gatherResults([bus.publish("tracks", place, records) for place in range(AT_ONCE)])
        return AT_ONCE * flush

    steps: dict[str, Step] = {
        f"sqlite3 alone, commits of {flush}": alone,
        f"bus, flushes of {flush}, one at a time": one,
        f"bus, flushes of {flush}, {AT_ONCE} at once": several,
    }
    await compare(seconds, steps)
    await bus.stop()
    connection.close()


async def benchmarkMarks(reactor: Any, folder: str, seconds: float) -> None:
    """
    The marks of many boxes, in one call and in a call for each that wait together; and their claims.
    """
    boxes = [BoxKey("acme", f"35693803{number:07}") for number in range(BOXES)]
    connection = rawConnection(
        f"{folder}/rawmarks",
        "CREATE TABLE marks (account TEXT, asset TEXT, stream INTEGER, committed INTEGER, latest INTEGER, "
        "PRIMARY KEY (account, asset, stream)) WITHOUT ROWID",
    )
    connection.executemany("INSERT INTO marks VALUES (?, ?, 7, 0, 0)", boxes)
    store = SqliteSessionStore(f"sqlite:{folder}/sessions", BackEndContext(reactor, "--sessions"))
    await store.start()
    numbers = count(1)

    async def alone() -> int:
        number = next(numbers)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE marks SET committed = max(committed, ?), latest = max(latest, ?) "
            "WHERE account = ? AND asset = ? AND stream = 7",
            [(number, number, *box) for box in boxes],
        )
        connection.execute("COMMIT")
        return BOXES

    async def together() -> int:
        number = next(numbers)
        await store.commitMarks([MarkUpdate(box, 7, number, number) for box in boxes])
        return BOXES

    async def apart() -> int:
        number = next(numbers)
        await gatherResults([store.commitMarks([MarkUpdate(box, 7, number, number)]) for box in boxes])
        return BOXES

    async def claims() -> int:
        await gatherResults([store.claim(box, "bench@1", "md30", "192.0.2.1", 0, False, "1") for box in boxes])
        return BOXES

    steps: dict[str, Step] = {
        f"sqlite3 alone, {BOXES} marks a commit": alone,
        f"sessions, marks of {BOXES} boxes in a call": together,
        f"sessions, {BOXES} calls waiting": apart,
        f"sessions, {BOXES} claims waiting": claims,
    }
    await compare(seconds, steps)
    await store.stop()
    connection.close()


async def main(reactor: Any, folder: str = "", seconds: str = "8") -> None:
    """
    All of it, in a folder of its own that is deleted afterwards.
    """
    with tempfile.TemporaryDirectory(dir=os.path.abspath(folder) if folder else None) as place:
        print(f"{'':40} {'rate':>11} {'CPU of each':>14}  ratios to sqlite3 alone")
        for flush in FLUSHES:
            await benchmarkBus(reactor, place, float(seconds), flush)
        await benchmarkMarks(reactor, place, float(seconds))


if __name__ == "__main__":
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])

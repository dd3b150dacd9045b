"""
What the embedded bus and session store cost, beside the same inserts and updates with C{sqlite3} alone.

C{python -m benchmarks.bus_sqlite [FOLDER] [SECONDS]}: FOLDER must be on the disk that is meant; SECONDS is for each line.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
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
PIPELINED = 8

Step = Callable[[], Coroutine[Any, Any, int]]
"""Does some and says how many."""


async def measure(seconds: float, step: Step) -> tuple[float, float]:
    """
    Repeat a step.

    @return: how many a second, and µs of this process's CPU for each
    """
    done = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        done += await step()
    return done / (time.perf_counter() - wall), (time.process_time() - cpu) * 1e6 / done


def show(name: str, result: tuple[float, float], base: tuple[float, float]) -> None:
    """
    Print one line, with its ratios to what C{sqlite3} alone did.
    """
    rate, cpu = result
    print(f"{name:44} {rate:>10,.0f}/s {cpu:>8.2f} µs CPU   {rate / base[0]:>5.2f}x {cpu / base[1]:>5.2f}x", flush=True)


def rawConnection(path: str, schema: str) -> sqlite3.Connection:
    """
    A file as durable as the bus's.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(schema)
    return connection


async def benchmarkBus(reactor: Any, folder: str, seconds: float) -> None:
    """
    Flushes of several sizes.
    """
    context = BackEndContext(reactor, "--bus", flushInterval=0.0, topics=("tracks",))
    for flush in FLUSHES:
        connection = rawConnection(
            f"{folder}/raw{flush}",
            "CREATE TABLE records (id INTEGER PRIMARY KEY, topic INTEGER, partition INTEGER, timestamp INTEGER, "
            "key BLOB, value BLOB, headers BLOB)",
        )
        headers = b"".join(name.encode() + value for name, value in RECORD.headers)
        row = (1, 2, 1_790_000_000_000, RECORD.key, RECORD.value, headers)

        async def raw(connection: sqlite3.Connection = connection, flush: int = flush, row: Any = row) -> int:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO records VALUES (NULL, ?, ?, ?, ?, ?, ?)", [row] * flush)
            connection.execute("COMMIT")
            return flush

        base = await measure(seconds, raw)
        connection.close()
        show(f"sqlite3 alone, commits of {flush}", base, base)

        bus = SqliteBus(f"sqlite:{folder}/bus{flush}", context)
        await bus.start()

        async def one(bus: SqliteBus = bus, records: list[Record] = [RECORD] * flush) -> int:  # noqa: B006, RUF005
            await bus.publish("tracks", 2, records)
            return len(records)

        async def several(bus: SqliteBus = bus, records: list[Record] = [RECORD] * flush) -> int:  # noqa: B006, RUF005
            flushes: list[Deferred[None]] = [bus.publish("tracks", place, records) for place in range(PIPELINED)]
            await gatherResults(flushes)
            return PIPELINED * len(records)

        show(f"sqlite: bus, flushes of {flush}, one at a time", await measure(seconds, one), base)
        show(f"sqlite: bus, flushes of {flush}, {PIPELINED} at once", await measure(seconds, several), base)
        await bus.stop()


async def benchmarkMarks(reactor: Any, folder: str, seconds: float) -> None:
    """
    The marks of many boxes, in one call and in a call for each that wait together.
    """
    boxes = [BoxKey("acme", f"35693803{number:07}") for number in range(BOXES)]
    connection = rawConnection(
        f"{folder}/rawmarks",
        "CREATE TABLE marks (account TEXT, asset TEXT, stream INTEGER, committed INTEGER, latest INTEGER, "
        "PRIMARY KEY (account, asset, stream)) WITHOUT ROWID",
    )
    connection.executemany("INSERT INTO marks VALUES (?, ?, 7, 0, 0)", boxes)
    number = 0

    async def raw() -> int:
        nonlocal number
        number += 1
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE marks SET committed = max(committed, ?), latest = max(latest, ?) "
            "WHERE account = ? AND asset = ? AND stream = 7",
            [(number, number, *box) for box in boxes],
        )
        connection.execute("COMMIT")
        return BOXES

    base = await measure(seconds, raw)
    connection.close()
    show(f"sqlite3 alone, {BOXES} marks a commit", base, base)

    store = SqliteSessionStore(f"sqlite:{folder}/sessions", BackEndContext(reactor, "--sessions"))
    await store.start()

    async def together() -> int:
        nonlocal number
        number += 1
        await store.commitMarks([MarkUpdate(box, 7, number, number) for box in boxes])
        return BOXES

    async def apart() -> int:
        nonlocal number
        number += 1
        await gatherResults([store.commitMarks([MarkUpdate(box, 7, number, number)]) for box in boxes])
        return BOXES

    async def claims() -> int:
        await gatherResults([store.claim(box, "bench@1", "md30", "192.0.2.1", 0, False) for box in boxes])
        return BOXES

    show(f"sqlite: sessions, marks of {BOXES} boxes in a call", await measure(seconds, together), base)
    show(f"sqlite: sessions, {BOXES} calls waiting", await measure(seconds, apart), base)
    show(f"sqlite: sessions, {BOXES} claims waiting", await measure(seconds, claims), base)
    await store.stop()


async def main(reactor: Any, folder: str = "", seconds: str = "2") -> None:
    """
    All of it, in a folder of its own that is deleted afterwards.
    """
    with tempfile.TemporaryDirectory(dir=os.path.abspath(folder) if folder else None) as place:
        print(f"{'':44} {'rate':>12} {'CPU each':>15}   ratios to sqlite3 alone")
        await benchmarkBus(reactor, place, float(seconds))
        await benchmarkMarks(reactor, place, float(seconds))


if __name__ == "__main__":
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])

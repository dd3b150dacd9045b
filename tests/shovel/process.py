"""
Real Shovel processes, and what they copy from and to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from binaryserver.bus.rqueue import RQueue
from binaryserver.bus.topics import Topics
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from tests.services import consumeAll, freePort, makeTopics, uniquePrefix
from tests.session.contract_base import reactor
from tests.session.redisrig import RedisServer
from tests.shovel.events import idOf, trackRecords

ROOT = Path(__file__).resolve().parent.parent.parent
_READY = 30.0


class ShovelProcess:
    """
    C{twistd -n binaryserver-shovel} in a folder of its own.

    @ivar httpPort: of the HTTP side
    """

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="shovel-"))
        self.httpPort = freePort()
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """
        The command line.
        """
        return [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from twisted.scripts.twistd import run; run()",
            str(ROOT),
            "-n",
            f"--pidfile={self.folder}/pid",
            "binaryserver-shovel",
            f"--http=tcp:{self.httpPort}:interface=127.0.0.1",
            *self._options,
        ]

    def start(self) -> ShovelProcess:
        """
        Start it and wait until it is ready.
        """
        with open(self.folder / "log", "ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=environment, cwd=self.folder)
        deadline = time.monotonic() + _READY
        while "is ready" not in self.log():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the Shovel does not start: {self.log()[-3000:]}")
            time.sleep(0.05)
        return self

    def log(self) -> str:
        """
        What it has logged.
        """
        return (self.folder / "log").read_text(errors="replace")

    def kill9(self) -> None:
        """
        C{kill -9}.
        """
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        """
        Send it a signal.
        """
        assert self.process is not None
        self.process.send_signal(number)

    def terminate(self) -> int:
        """
        SIGTERM.

        @return: the exit status
        """
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def close(self) -> None:
        """
        End it, and remove its folder.
        """
        if self.process is not None and self.process.poll() is None:
            self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, page: str) -> Any:
        """
        A page of its HTTP side.
        """
        with urlopen(f"http://127.0.0.1:{self.httpPort}/{page}", timeout=10) as answer:
            return json.loads(answer.read())


class ShovelTestCase(TestCase):
    """
    A Redis and topics of the test's own, and Shovels between them.

    @ivar kafka: the address of the Kafka
    """

    timeout = 120
    kafka = ""

    def startRedis(self) -> RedisServer:
        """
        One that keeps what it acks.
        """
        server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.addCleanup(server.close)
        server.start()
        self.redis = server
        self.prefix = f"test-{uuid4().hex[:12]}:"
        self.rqueue = f"rqueue://127.0.0.1:{server.port}/0?prefix={self.prefix}"
        return server

    def makeTopics(self, bootstrap: str) -> Topics:
        """
        Topics under a prefix that no other test uses.
        """
        self.kafka = bootstrap
        self.topicPrefix = uniquePrefix()
        topics = Topics.named(self.topicPrefix)
        makeTopics(bootstrap, topics.all)
        return topics

    async def startQueue(self, topics: Topics, options: str = "") -> RQueue:
        """
        The gateway's side.
        """
        queue = RQueue(self.rqueue + options, BackEndContext(reactor, "--cloudconnect", stopTimeout=5), topics)
        self.addCleanup(queue.stop)
        await queue.start()
        return queue

    def shovel(self, *options: str) -> ShovelProcess:
        """
        A Shovel.
        """
        process = ShovelProcess(
            f"--rqueue={self.rqueue}",
            f"--bus=kafka://{self.kafka}",
            f"--topic-prefix={self.topicPrefix}",
            "--lease=2",
            *options,
        )
        self.addCleanup(process.close)
        return process.start()

    async def until(self, isSo: Callable[[], bool], patience: float = 40.0) -> None:
        """
        Wait.
        """
        deadline = reactor.seconds() + patience
        while not isSo():
            if reactor.seconds() > deadline:
                raise AssertionError("it does not come to be so")
            await deferLater(reactor, 0.1)

    def consume(self, topic: str) -> dict[int, list[Record]]:
        """
        What stands in a topic, by partition.
        """
        found: dict[int, list[Record]] = {}
        for _, partition, _, key, value, headers in consumeAll(self.kafka, [topic]):
            found.setdefault(partition, []).append(Record(key, value, list(headers.items())))
        return found

    def assertAtLeastOnce(self, topic: str, expected: Sequence[Record]) -> int:
        """
        Everything is there, as it was published, each box's in order but for repeats, which have the same ids.

        @return: how many repeats there are
        """
        places = self.consume(topic)
        found = [record for records in places.values() for record in records]
        byId = {idOf(record): record for record in expected}
        self.assertEqual(len(byId), len(expected))
        self.assertEqual({idOf(record) for record in found}, set(byId))
        for record in found:
            self.assertEqual(record, byId[idOf(record)])
        for key in {record.key for record in expected}:
            (records,) = [each for each in places.values() if any(record.key == key for record in each)]
            firsts = list(dict.fromkeys(idOf(record) for record in records if record.key == key))
            self.assertEqual(firsts, [idOf(record) for record in expected if record.key == key])
        return sum(Counter(map(idOf, found)).values()) - len(expected)


async def publishAll(queue: RQueue, topic: str, boxes: int, tracks: int, pause: float = 0.0) -> list[Record]:
    """
    Tracks of some boxes, interleaved.

    @return: all of them, in the order of each box
    """
    done: list[Deferred[None]] = []
    records: list[Record] = []
    for first in range(0, tracks, 10):
        for box in range(boxes):
            part = trackRecords(first, min(10, tracks - first), f"box-{box}")
            records += part
            done.append(queue.publish(topic, 0, part))
        if pause:
            await deferLater(reactor, pause)
    for each in done:
        await each
    return records

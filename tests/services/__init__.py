"""
Real servers for tests: the shared ones of C{services.py}, and private ones that a test may kill.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.trial.unittest import SkipTest

from tests.services.services import (
    KAFKA,
    REDIS_PORT,
    ROOT,
    ServiceError,
    formatKafka,
    isListening,
    kafkaCommand,
    kafkaJars,
    kafkaProperties,
    spawn,
    start,
)

REQUIRE = "BINARYSERVER_REQUIRE_SERVICES"
"""Set to 1 in the environment: a service that is missing fails the tests that need it."""


def _missing(what: str) -> Exception:
    sentence = f"{what}: make services starts it"
    return AssertionError(sentence) if os.environ.get(REQUIRE) == "1" else SkipTest(sentence)


def requireProgram(name: str, package: str) -> str:
    """
    The path of a program that the tests call; skips, or fails where services are required.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        sentence = f"{name} is missing (Debian: {package})"
        raise AssertionError(sentence) if os.environ.get(REQUIRE) == "1" else SkipTest(sentence)
    return path


def requireKafka(name: str = "kafka44") -> str:
    """
    The address of the shared Kafka of a version, C{kafka44} or C{kafka39}; started if its files are there.

    @raise SkipTest: there is none
    """
    version = KAFKA[name]
    if not isListening(version.port):
        if not (ROOT / "jars" / version.version / "complete").exists():
            raise _missing(f"Kafka {version.version} does not run")
        try:
            start(name)
        except ServiceError as error:
            raise _missing(str(error)) from error
    return f"127.0.0.1:{version.port}"


def requireRedis() -> tuple[str, int]:
    """
    Host and port of the shared Redis.

    @raise SkipTest: there is none
    """
    if not isListening(REDIS_PORT):
        try:
            start("redis")
        except ServiceError as error:
            raise _missing(str(error)) from error
    return "127.0.0.1", REDIS_PORT


def uniquePrefix() -> str:
    """
    A topic prefix that no other test uses.
    """
    return f"test-{uuid4().hex[:12]}."


def freePort() -> int:
    """
    A loopback port that nobody listens on, below those that outgoing connections take.
    """
    # Processes whose ids are close to each other look in different places.
    for port in range(20000 + os.getpid() * 101 % 12000, 32768):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _taken:
                _taken.add(port)
                return port
    raise AssertionError("no port is free")


_taken: set[int] = set()


class KafkaProcess:
    """
    A broker of a test's own, in a folder of its own: to be killed and frozen.

    @ivar bootstrap: its address
    """

    def __init__(self, name: str = "kafka44") -> None:
        """
        @raise SkipTest: there is no Kafka on this machine
        """
        if not (ROOT / "jars" / KAFKA[name].version / "complete").exists():
            raise _missing(f"Kafka {KAFKA[name].version} is not here")
        self._jars = kafkaJars(name)
        self.folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self.port = freePort()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = kafkaProperties(self.folder, self.port, freePort())
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start it, and wait until it listens.
        """
        formatKafka(self._jars, self.folder, self._properties)
        command = kafkaCommand(self._jars, "kafka.Kafka", str(self._properties), heap="384m")
        self._process = spawn(command, self.folder / "log")
        deadline = time.monotonic() + 60
        while not isListening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Kafka does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill9(self) -> None:
        """
        C{kill -9}.
        """
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """
        SIGSTOP: it keeps its connections and answers nothing.
        """
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        SIGCONT.
        """
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """
        End it and remove its folder.
        """
        if self._process is not None and self._process.poll() is None:
            self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)


def makeTopics(bootstrap: str, topics: Sequence[str], partitions: int = 4) -> None:
    """
    Make topics, by a client that is not under test.
    """
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    admin = AdminClient({"bootstrap.servers": bootstrap})
    for answer in admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics]).values():
        answer.result(30)


def consumeAll(bootstrap: str, topics: Sequence[str]) -> list[tuple[str, int, int, bytes, bytes, dict[str, bytes]]]:
    """
    All that stands in some topics: topic, partition, offset, key, value, headers, in the order of each partition.
    """
    from confluent_kafka import Consumer, TopicPartition

    consumer: Any = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        known = consumer.list_topics(timeout=30).topics
        places = [TopicPartition(topic, number, 0) for topic in topics for number in known[topic].partitions]
        consumer.assign(places)
        ended: set[tuple[str, int]] = set()
        found = []
        deadline = time.monotonic() + 60
        while len(ended) < len(places):
            if time.monotonic() > deadline:
                raise AssertionError("the topics could not be read whole")
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error() is not None:
                if message.error().name() == "_PARTITION_EOF":
                    ended.add((message.topic(), message.partition()))
                continue
            found.append(
                (
                    message.topic(),
                    message.partition(),
                    message.offset(),
                    message.key(),
                    message.value(),
                    dict(message.headers() or ()),
                )
            )
        return found
    finally:
        consumer.close()

"""
What the chaos test runs and breaks: servers of its own, gateways, fleets of boxes, a sender; and what it reads back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple
from uuid import uuid4

from google.protobuf.json_format import MessageToJson

from binaryserver.proto import cloudnext_pb2
from tests.gatewayprocess import GatewayProcess, startFleet

CHANNELS: Final = ("a", "b")
_START: Final = 90.0
"""s that an instance may need to start, its bus or its store being away."""


class Squad(NamedTuple):
    """
    Boxes of one kind.

    @ivar first: the first asset
    @ivar ack: what their applications answer
    """

    name: str
    first: int
    boxes: int
    ack: str
    options: tuple[str, ...]

    @property
    def assets(self) -> list[str]:
        """
        Of all its boxes.
        """
        return [str(self.first + number) for number in range(self.boxes)]


class Fleet:
    """
    The process of a squad.

    @ivar output: what its boxes printed
    """

    def __init__(self, squad: Squad, ports: Sequence[int], folder: Path, *options: str) -> None:
        self.squad = squad
        self.output = folder / f"{squad.name}.json"
        given = (f"--first-asset={squad.first}", f"--boxes={squad.boxes}", f"--ack={squad.ack}", *squad.options)
        with self.output.open("wb") as output:
            self._process: subprocess.Popen[bytes] = startFleet(ports, "--stay", *given, *options, output=output)

    def leave(self) -> None:
        """
        The boxes leave, once all is acked.
        """
        self._process.send_signal(signal.SIGTERM)

    def wait(self, patience: float) -> int:
        """
        The exit status.
        """
        return self._process.wait(patience)

    def close(self) -> None:
        """
        End it.
        """
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Instance:
    """
    A gateway process that is ended and started again; with workers, their parent and they.
    """

    def __init__(self, name: str, workers: int, bus: str, *options: str) -> None:
        self.name = name
        self.workers = workers
        given = (f"--instance={name}", f"--workers={workers}") if workers > 1 else (f"--instance={name}",)
        self.gateway = GatewayProcess(*given, *options, bus=bus)

    def start(self) -> None:
        """
        Start it, again and again until it stays: so would whoever looks after it.
        """
        deadline = time.monotonic() + _START
        while True:
            try:
                self.gateway.start()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                process = self.gateway.process
                if process is not None and process.poll() is None:
                    self.gateway.kill9()
                time.sleep(0.3)
            else:
                return

    def _workers(self) -> list[int]:
        pid = self.gateway.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def kill(self, downFor: float, random: Random) -> None:
        """
        C{kill -9}, and start again; or one of the workers, which the parent starts again.
        """
        workers = self._workers() if self.workers > 1 and random.random() < 0.5 else []
        if workers:
            self._signal(random.choice(workers), signal.SIGKILL)
            time.sleep(downFor)
        else:
            self.gateway.kill9()
            time.sleep(downFor)
            self.start()

    def freeze(self, seconds: float, random: Random) -> None:
        """
        SIGSTOP and SIGCONT: of all its processes, or of one of the workers.
        """
        pids = [self.gateway.pid]
        if self.workers > 1:
            workers = self._workers()
            pids = [random.choice(workers)] if workers and random.random() < 0.5 else [*pids, *workers]
        for pid in pids:
            self._signal(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in pids:
            self._signal(pid, signal.SIGCONT)

    def drain(self, downFor: float) -> int:
        """
        SIGTERM, and start again.

        @return: the exit status
        """
        status = self.gateway.terminate(40)
        time.sleep(downFor)
        self.start()
        return status

    def stop(self) -> int:
        """
        SIGTERM.

        @return: the exit status
        """
        return self.gateway.terminate(40)

    def close(self) -> None:
        """
        End it.
        """
        if self.gateway.process is not None:
            for pid in self._workers() if self.gateway.process.poll() is None else []:
                self._signal(pid, signal.SIGKILL)
        self.gateway.close()

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        # A worker may have ended meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Seen(NamedTuple):
    """
    One record as it was read.
    """

    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]


class Follower:
    """
    Reads topics from their beginnings, more with each look.

    @ivar records: of each topic, those of a partition in their order
    """

    def __init__(self, bootstrap: str, topics: Sequence[str]) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self.records: dict[str, list[Seen]] = {topic: [] for topic in topics}
        self._consumer: Any = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": uuid4().hex,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "reconnect.backoff.max.ms": 1000,
                "log_level": 0,
            }
        )
        known = self._consumer.list_topics(timeout=30).topics
        self._consumer.assign([TopicPartition(topic, each, 0) for topic in topics for each in known[topic].partitions])

    def look(self) -> None:
        """
        Read what has come; what comes all the time does not keep it.
        """
        while messages := self._consumer.consume(2000, 0.3):
            self._keep(messages)
            if len(messages) < 200:
                break

    def readOut(self, seconds: float = 2.0) -> None:
        """
        Read until nothing comes for so long.
        """
        while messages := self._consumer.consume(2000, seconds):
            self._keep(messages)

    def _keep(self, messages: Sequence[Any]) -> None:
        for message in messages:
            if message.error() is None:
                place = (message.partition(), message.offset(), message.key(), message.value())
                self.records[message.topic()].append(Seen(*place, dict(message.headers() or ())))

    def close(self) -> None:
        """
        Look no more.
        """
        self._consumer.close()


class Sender:
    """
    Sends messages of every kind.

    @ivar sent: how many of each kind
    """

    def __init__(self, bootstrap: str, topic: str, squads: Sequence[Squad], missing: Sequence[str], seed: int) -> None:
        from confluent_kafka import Producer

        self.sent: Counter[str] = Counter()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 0,
            }
        )
        self._topic = topic
        self._assets = [asset for squad in squads for asset in squad.assets]
        self._missing = missing
        self._random = Random(seed)
        self._numbers: dict[tuple[str, str], int] = defaultdict(int)
        self._kinds: dict[Callable[[str, cloudnext_pb2.DownlinkMessage], None], int] = {
            self._plain: 40,
            self._wantAck: 18,
            self._noQueue: 12,
            self._noQueueWantAck: 6,
            self._shortLived: 8,
            self._twice: 5,
            self._absent: 4,
            self._garbage: 2,
            self._badChannel: 2,
            self._nameless: 4,
            self._json: 4,
        }

    def run(self, until: float, rate: float) -> None:
        """
        Send until then, and see that all is durable.

        @param until: s of the monotonic clock
        @param rate: messages a second
        """
        begun, count = time.monotonic(), 0
        while (now := time.monotonic()) < until:
            while count < (now - begun) * rate:
                self._one()
                count += 1
            self._producer.poll(0.01)
        if self._producer.flush(60):
            raise AssertionError("the bus did not take the sender's messages")

    def _one(self) -> None:
        (kind,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
        self.sent[kind.__name__.lstrip("_")] += 1
        asset = self._random.choice(self._assets)
        kind(asset, self._message(asset))

    def _message(self, asset: str) -> cloudnext_pb2.DownlinkMessage:
        channel = self._random.choice(CHANNELS)
        self._numbers[asset, channel] += 1
        number = self._numbers[asset, channel]
        return cloudnext_pb2.DownlinkMessage(
            id=f"{channel}{number}", account="dev", asset=asset, channel=channel, payload=b"%d" % number
        )

    def _produce(self, asset: str, value: bytes, contentType: str = "") -> None:
        headers: list[tuple[str, str | bytes | None]] = [("content-type", contentType)] if contentType else []
        self._producer.produce(self._topic, value, f"dev/{asset}".encode(), headers=headers)

    def _plain(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        self._produce(asset, message.SerializeToString())

    def _wantAck(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.want_ack = True
        self._plain(asset, message)

    def _noQueue(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.no_queue = True
        self._plain(asset, message)

    def _noQueueWantAck(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.no_queue = message.want_ack = True
        self._plain(asset, message)

    def _shortLived(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.want_ack = self._random.random() < 0.5
        message.expires_at = int((time.time() + self._random.uniform(0.02, 4)) * 1000)
        self._plain(asset, message)

    def _twice(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.want_ack = self._random.random() < 0.3
        message.no_queue = self._random.random() < 0.3
        self._plain(asset, message)
        for _ in range(self._random.randint(0, 3)):
            self._one()
        self._plain(asset, message)

    def _absent(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.asset = self._random.choice(self._missing)
        message.id = f"{asset}-{message.id}"
        if self._random.random() < 0.5:
            message.no_queue = True
        else:
            message.expires_at = int((time.time() + self._random.uniform(0.1, 4)) * 1000)
        self._plain(message.asset, message)

    def _garbage(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        self._produce(asset, b"\xff" + self._random.randbytes(20))

    def _badChannel(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.id, message.channel = f"bad-{message.id}", "no channel"
        self._plain(asset, message)

    def _nameless(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.id = ""
        message.want_ack = self._random.random() < 0.3
        self._plain(asset, message)

    def _json(self, asset: str, message: cloudnext_pb2.DownlinkMessage) -> None:
        message.want_ack = self._random.random() < 0.5
        value = MessageToJson(message, preserving_proto_field_name=True).encode()
        self._produce(asset, value, "application/json")


def complaints(log: str) -> Iterator[str]:
    """
    What a gateway should never have logged: the first of each kind, and how many there are of it.
    """
    lines = log.splitlines()
    kinds: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines):
        if "unforeseen" in line or "Unhandled" in line or "#critical]" in line:
            told = [line]
            for more in lines[number + 1 : number + 80]:
                if not more.startswith(("\t", " ")):
                    break
                told.append(more)
            kind = " ".join(told[-2:]).strip() if len(told) > 1 else line.partition("]")[2]
            counts[kind] += 1
            kinds.setdefault(kind, told)
    for kind, told in kinds.items():
        yield f"{counts[kind]} times\n" + "\n".join(told)

"""
What the tests of several real gateways share: instances on one Kafka and one Redis, fleets, and what is told of them.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.proto import cloudnext_pb2
from tests.gatewayprocess import GatewayProcess, startFleet
from tests.services import consumeAll, makeTopics, requireKafka, requireRedis, uniquePrefix

_FINAL = {
    cloudnext_pb2.DELIVERY_STATUS_ACKED,
    cloudnext_pb2.DELIVERY_STATUS_REFUSED,
    cloudnext_pb2.DELIVERY_STATUS_EXPIRED,
    cloudnext_pb2.DELIVERY_STATUS_REJECTED,
}
GONE = cloudnext_pb2.PRESENCE_TYPE_DISCONNECT
_FIRST = 350000000000001


def assets(count: int) -> list[str]:
    """
    The assets of a fleet.
    """
    return [str(_FIRST + number) for number in range(count)]


class InstancesTestCase(SynchronousTestCase):
    """
    Several gateway processes on one Kafka and one Redis.
    """

    def setUp(self) -> None:
        """
        Topics and keys of this test's own.
        """
        self.kafka = requireKafka()
        host, port = requireRedis()
        self.redis = f"{host}:{port}/9"
        self.prefix = uniquePrefix()
        self.topics = Topics.named(self.prefix)
        makeTopics(self.kafka, self.topics.all, 8)
        self.producer = Producer({"bootstrap.servers": self.kafka, "linger.ms": 5})

    def gateway(self, name: str) -> GatewayProcess:
        """
        One instance, started.
        """
        gateway = GatewayProcess(
            f"--topic-prefix={self.prefix}",
            f"--instance={name}",
            f"--sessions=redis://{self.redis}?prefix={self.prefix}",
            bus=f"kafka://{self.kafka}",
        )
        self.addCleanup(gateway.close)
        return gateway.start()

    def fleet(self, gateways: Sequence[GatewayProcess], *options: str) -> subprocess.Popen[bytes]:
        """
        Boxes that go from gateway to gateway.
        """
        self.output = Path(self.mktemp())
        with self.output.open("wb") as output:
            boxes = startFleet([gateway.port for gateway in gateways], "--tracks=0", *options, output=output)

        def end() -> None:
            if boxes.poll() is None:
                boxes.kill()
                boxes.wait()

        self.addCleanup(end)
        return boxes

    def send(self, **fields: Any) -> None:
        """
        One message into C{downlink}.
        """
        message = cloudnext_pb2.DownlinkMessage(account="dev", channel="test", **fields)
        key = f"dev/{message.asset}"
        self.producer.produce(self.topics.downlink, message.SerializeToString(), key)
        self.producer.poll(0)

    def events(self, topic: str) -> list[cloudnext_pb2.Event]:
        """
        All of a topic.
        """
        return [cloudnext_pb2.Event.FromString(record[4]) for record in consumeAll(self.kafka, [topic])]

    def finals(self) -> dict[str, list[cloudnext_pb2.Event]]:
        """
        The final statuses told so far, by message.
        """
        found: dict[str, list[cloudnext_pb2.Event]] = defaultdict(list)
        for event in self.events(self.topics.statuses):
            if event.message_status.status in _FINAL:
                found[event.message_status.message_id].append(event)
        return found

    def until(self, isSo: Callable[[], bool], seconds: float, what: str) -> None:
        """
        Wait for something.
        """
        deadline = time.monotonic() + seconds
        while not isSo():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s")
            time.sleep(0.3)

    def present(self) -> set[str]:
        """
        The boxes that are connected, as a consumer sees it that keeps the highest link epoch of each.
        """
        latest: dict[str, cloudnext_pb2.Event] = {}
        for event in self.events(self.topics.presences):
            known = latest.get(event.asset)
            if known is None or event.link_epoch >= known.link_epoch:
                latest[event.asset] = event
        return {asset for asset, event in latest.items() if event.presence.type != GONE}

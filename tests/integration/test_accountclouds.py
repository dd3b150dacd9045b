"""
Accounts of each cloud on one gateway, with boxes of MD21 and of MD30: where their events are, and what happens when an
account moves from one cloud to another.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from argon2 import PasswordHasher
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.md21 import values
from binaryserver.md21.values import HeaderStatus
from binaryserver.mqtt.packets import encodeConnect
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.cloudconnect_reading import decodeEvent
from tests.certificates import Authority, replaceFile
from tests.directory.samples import toml
from tests.gatewayprocess import GatewayProcess, connect
from tests.harness import batch, publish
from tests.md21.socketbox import SocketBox
from tests.md21.world import START, makeBlock, makeHeader
from tests.services import consumeAll, makeTopics, requireKafka, uniquePrefix
from tests.session.redisrig import RedisServer
from tests.shovel.process import ShovelProcess

SECRET = "its own"
HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(SECRET)
CLOUDS = ("cloudnext", "cloudconnect", "both")
OLD, NEW = "350000000000021", "350000000000030"
"""A box of MD21, and one of MD30, of each account."""


class Name(NamedTuple):
    """
    What tells an event from all others: of a track, the box and the number of the track.
    """

    account: str
    asset: str
    number: int


class NewBox:
    """
    One of MD30.
    """

    def __init__(self, gateway: GatewayProcess, account: str) -> None:
        self.link: socket.socket = connect(gateway.port)
        self.link.settimeout(20)
        self.link.sendall(encodeConnect(NEW, True, 0, account, SECRET.encode()))
        answer = self.link.recv(4)
        assert answer == b"\x20\x02\x00\x00", answer

    def send(self, number: int) -> None:
        """
        The n-th track.
        """
        self.link.sendall(publish("t", batch(number), number))

    def acked(self, number: int) -> None:
        """
        Its ack, which is the next.
        """
        answer = self.link.recv(4)
        assert answer == b"\x40\x02" + struct.pack(">H", number), answer


class CloudsCase(SynchronousTestCase):
    """
    One gateway on Kafka, and on a Redis of the test's own.
    """

    def setUp(self) -> None:
        """
        Three accounts, one of each cloud.
        """
        self.kafka = requireKafka()
        self.prefix = uniquePrefix()
        self.topics = Topics.named(self.prefix)
        # One partition: what is of several accounts comes together as often as can be.
        makeTopics(self.kafka, self.topics.all, 1)
        self.server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.addCleanup(self.server.close)
        self.server.start()
        self.rqueue = f"rqueue://127.0.0.1:{self.server.port}/0"
        self.file = Path(self.mktemp())
        self.write(*(self.account(cloud, cloud) for cloud in CLOUDS))

    def account(self, name: str, cloud: str, **changes: Any) -> dict[str, Any]:
        """
        An account of two boxes.
        """
        boxes = [{"asset": asset} for asset in (OLD, NEW)]
        return {"name": name, "cloud": cloud, "secret_hash": HASH, "box": boxes, **changes}

    def write(self, *accounts: dict[str, Any]) -> None:
        """
        The directory says this from now on.
        """
        if self.file.exists():
            replaceFile(str(self.file), toml(list(accounts)).encode())
        else:
            self.file.write_text(toml(list(accounts)))

    def gateway(self, *options: str, **more: str) -> GatewayProcess:
        """
        The gateway, started; gone at the end of the test, in which nothing unforeseen may have happened to it.
        """
        gateway = GatewayProcess(
            f"--topic-prefix={self.prefix}",
            f"--cloudconnect={self.rqueue}",
            f"--directory=file:{self.file.absolute()}",
            *options,
            bus=f"kafka://{self.kafka}",
            **more,
        )
        self.addCleanup(gateway.close)
        self.addCleanup(lambda: self.assertNotIn("Traceback", gateway.log()))
        return gateway.start()

    def shovel(self) -> ShovelProcess:
        """
        The Shovel, started.
        """
        options = (f"--rqueue={self.rqueue}", f"--bus=kafka://{self.kafka}", f"--topic-prefix={self.prefix}")
        shovel = ShovelProcess(*options)
        self.addCleanup(shovel.close)
        return shovel.start()

    def oldBox(self, gateway: GatewayProcess, account: str) -> SocketBox:
        """
        A box of MD21.
        """
        box = SocketBox(gateway.md21Port)
        self.addCleanup(box.close)
        return box.connect(OLD, account=account, secret=SECRET)

    def newBox(self, gateway: GatewayProcess, account: str) -> NewBox:
        """
        A box of MD30.
        """
        box = NewBox(gateway, account)
        self.addCleanup(box.link.close)
        return box

    def until(self, isSo: Callable[[], bool], what: str) -> None:
        """
        Wait for something.
        """
        deadline = time.monotonic() + 20
        while not isSo():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.1)

    def redis(self, *words: str) -> list[bytes]:
        """
        The elements of Redis's answer to a command whose answer is an array.
        """
        with socket.create_connection(("127.0.0.1", self.server.port), 10) as link, link.makefile("rb") as answer:
            link.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            found = []
            for _ in range(int(answer.readline()[1:])):
                size = int(answer.readline()[1:])
                found.append(answer.read(size + 2)[:-2])
            return found

    def inQueue(self, kind: str, prefix: str = "rqueue:") -> list[tuple[cloudnext_pb2.Event, bool]]:
        """
        What stands in CloudConnect's list, and whether it is marked as shared.
        """
        found = []
        for packed in self.redis("LRANGE", f"{prefix}{kind}", "0", "-1"):
            decoded = decodeEvent(packed)
            event = cloudnext_pb2.Event.FromString(decoded.record.value)
            self.assertEqual(msgpack.unpackb(packed)["meta"]["account"], event.account)
            found.append((event, decoded.shared))
        return found

    def onBus(self, topic: str) -> list[cloudnext_pb2.Event]:
        """
        What stands in a topic.
        """
        return [cloudnext_pb2.Event.FromString(record[4]) for record in consumeAll(self.kafka, [topic])]

    def numberOf(self, event: cloudnext_pb2.Event) -> Name:
        """
        What tells a track from all others.
        """
        number = event.index if event.protocol == cloudnext_pb2.PROTOCOL_MD30 else (event.event_time - START) // 1000
        return Name(event.account, event.asset, number)


class PlacesTests(CloudsCase):
    """
    Accounts that stay where they are.
    """

    def test_eachWhereItBelongs(self) -> None:
        """
        Tracks and presences of each account are where it says and nowhere else, once, whatever its boxes speak. What is
        shared the Shovel passes over; when it is done CloudNext has all, each once.
        """
        gateway = self.gateway()
        for account in CLOUDS:
            old, new = self.oldBox(gateway, account), self.newBox(gateway, account)
            old.block(makeBlock(0, 10))
            for number in range(1, 6):
                new.send(number)
                new.acked(number)
            old.close()
            new.link.close()
        presences = {(account, asset): 2 for account in CLOUDS for asset in (OLD, NEW)}
        self.until(lambda: len(self.onBus(self.topics.presences)) >= 8, "four boxes came to CloudNext, and went")
        self.until(lambda: len(self.inQueue("presences")) >= 8, "four boxes came to CloudConnect, and went")

        def expected(*accounts: str) -> dict[Name, int]:
            olds = {Name(account, OLD, number): 1 for account in accounts for number in range(10)}
            return {**olds, **{Name(account, NEW, number): 1 for account in accounts for number in range(1, 6)}}

        onBus = Counter(map(self.numberOf, self.onBus(self.topics.tracks)))
        self.assertEqual(onBus, expected("cloudnext", "both"))
        for account in ("cloudconnect", "both"):
            queued = [event for event, isShared in self.inQueue("tracks") if isShared == (account == "both")]
            self.assertEqual(Counter(map(self.numberOf, queued)), expected(account))
        for found, without in (
            (self.onBus(self.topics.presences), "cloudconnect"),
            ([event for event, _ in self.inQueue("presences")], "cloudnext"),
        ):
            came = Counter((event.account, event.asset) for event in found)
            self.assertEqual(came, {key: count for key, count in presences.items() if key[0] != without})
        shovel = self.shovel()
        self.until(lambda: shovel.get("counts")["backlog"] == {"track": 0, "message": 0, "presence": 0}, "copied")
        self.until(lambda: shovel.get("counts")["copied"]["presence"] == 4, "CloudConnect's four presences")
        counts = shovel.get("counts")
        self.assertEqual((counts["copied"]["track"], counts["skipped"]["track"]), (15, 15))
        self.assertEqual(shovel.terminate(), 0)
        self.assertEqual(Counter(map(self.numberOf, self.onBus(self.topics.tracks))), expected(*CLOUDS))
        came = Counter((event.account, event.asset) for event in self.onBus(self.topics.presences))
        self.assertEqual(came, presences)
        self.assertEqual(gateway.terminate(), 0)

    def test_oneCloudAway(self) -> None:
        """
        While CloudConnect's queue does not answer, accounts that are in it are not acked; those of CloudNext alone are,
        though their data comes together with that of the others. Once it answers, all are, each track once.
        """
        gateway = self.gateway()
        boxes = {account: (self.oldBox(gateway, account), self.newBox(gateway, account)) for account in CLOUDS}
        self.server.freeze()
        for round_ in range(20):
            for account in ("both", "cloudconnect", "cloudnext"):
                old, new = boxes[account]
                old.send(makeBlock(round_ * 10, 10))
                new.send(round_ + 1)
        old, new = boxes["cloudnext"]
        for round_ in range(20):
            old.expect(values.TrackingAck)
            new.acked(round_ + 1)
        for account in ("both", "cloudconnect"):
            for link in (boxes[account][0].sock, boxes[account][1].link):
                link.settimeout(0.3)
                self.assertRaises(TimeoutError, link.recv, 1)
                link.settimeout(20)
        self.server.thaw()
        for account in ("both", "cloudconnect"):
            old, new = boxes[account]
            for round_ in range(20):
                old.expect(values.TrackingAck)
                new.acked(round_ + 1)
        for found, count in (
            (self.onBus(self.topics.tracks), 2),
            ([event for event, _ in self.inQueue("tracks")], 2),
        ):
            names = list(map(self.numberOf, found))
            self.assertEqual((len(names), len(set(names))), (count * 220, count * 220))
            for account in CLOUDS:
                for asset in (OLD, NEW):
                    own = [name.number for name in names if name[:2] == (account, asset)]
                    self.assertEqual(own, sorted(own))
        self.assertEqual(gateway.terminate(), 0)

    def test_killed(self) -> None:
        """
        The gateway is killed with boxes of all accounts on it: that they are gone is told, each where it came, by the
        one that comes after it.
        """
        gateway = self.gateway("--reconnect-grace=1")
        for account in CLOUDS:
            self.oldBox(gateway, account)
        self.until(lambda: len(self.onBus(self.topics.presences)) == 2, "two came to CloudNext")
        self.until(lambda: len(self.inQueue("presences")) == 2, "two came to CloudConnect")
        gateway.kill9()
        gateway.start()
        self.until(lambda: len(self.onBus(self.topics.presences)) >= 4, "two are gone from CloudNext")
        self.until(lambda: len(self.inQueue("presences")) >= 4, "two are gone from CloudConnect")
        self.assertEqual(
            Counter(event.account for event in self.onBus(self.topics.presences)), {"cloudnext": 2, "both": 2}
        )
        self.assertEqual(
            Counter(event.account for event, _ in self.inQueue("presences")), {"cloudconnect": 2, "both": 2}
        )
        self.assertEqual(gateway.terminate(), 0)


class MovingTests(CloudsCase):
    """
    An account that moves while its boxes are connected.
    """

    def test_moves(self) -> None:
        """
        From CloudConnect to both to CloudNext, with boxes of both protocols sending all the time: their links go on,
        what is acked is in a cloud of that moment, and with the Shovel's help each is in CloudNext once, and in
        CloudConnect once up to the last move.
        """
        self.write(self.account("acme", "cloudconnect"))
        # CloudConnect's agents have lists of their own, and have not read them yet.
        self.rqueue += "?copy=agents:"
        gateway = self.gateway()
        shovel = self.shovel()
        old, new = self.oldBox(gateway, "acme"), self.newBox(gateway, "acme")
        number = 0

        def go(seconds: float) -> int:
            nonlocal number
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                number += 1
                old.send(makeBlock(number * 3, 3))
                new.send(number)
                old.expect(values.TrackingAck)
                new.acked(number)
            return number

        first = go(0.5)
        self.assertEqual(self.onBusNow(shovel), first * 4)
        self.write(self.account("acme", "both"))
        self.until(lambda: go(0.2) > 0 and "was read again" in gateway.log(), "the change is seen")
        go(0.5)
        self.write(self.account("acme", "cloudnext"))
        self.until(lambda: go(0.2) > 0 and gateway.log().count("was read again") == 2, "the second change is seen")
        go(0.5)
        self.until(lambda: sum(shovel.get("counts")["backlog"].values()) == 0, "the queue is empty")
        counts = shovel.get("counts")
        self.assertGreater(counts["copied"]["track"], first)
        self.assertGreater(counts["skipped"]["track"], 0)
        self.assertLess(counts["copied"]["track"] + counts["skipped"]["track"], number * 4)
        self.assertEqual(shovel.terminate(), 0)
        names = Counter(map(self.numberOf, self.onBus(self.topics.tracks)))
        every = {Name("acme", OLD, 3 * one + place): 1 for one in range(1, number + 1) for place in range(3)}
        every |= {Name("acme", NEW, one): 1 for one in range(1, number + 1)}
        self.assertEqual(names, every)
        connected = self.inQueue("tracks", "agents:")
        marks = [isShared for _, isShared in connected]
        self.assertEqual(marks.count(False), counts["copied"]["track"])
        self.assertEqual(marks.count(True), counts["skipped"]["track"])
        self.assertEqual(marks, sorted(marks))
        self.assertEqual(set(Counter(self.numberOf(event) for event, _ in connected).values()), {1})
        for asset, length in ((OLD, number * 3), (NEW, number)):
            numbers = [self.numberOf(event).number for event, _ in connected if event.asset == asset]
            self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))
            self.assertLess(len(numbers), length)
        self.assertEqual(len(self.onBus(self.topics.presences)), 2)
        self.assertEqual(gateway.terminate(), 0)

    def onBusNow(self, shovel: ShovelProcess) -> int:
        """
        The tracks that the Shovel has copied, once it has nothing left to do.
        """
        self.until(lambda: sum(shovel.get("counts")["backlog"].values()) == 0, "the queue is empty")
        time.sleep(0.5)
        return int(shovel.get("counts")["copied"]["track"])

    def test_removed(self) -> None:
        """
        An account is taken out of the directory while its box is here: that the box had to go is told where its coming
        was.
        """
        gateway = self.gateway()
        box = self.oldBox(gateway, "cloudconnect")
        self.write(self.account("both", "both"))
        self.assertEqual(box.next(), values.Disconnect(values.Reason.AUTH_FAILED_ACCOUNT))
        self.assertIsNone(box.next())
        self.until(lambda: len(self.inQueue("presences")) == 2, "told to CloudConnect")
        self.assertEqual(self.onBus(self.topics.presences), [])
        self.assertEqual(gateway.terminate(), 0)


class TlsTests(CloudsCase):
    """
    An account that requires TLS.
    """

    def test_required(self) -> None:
        """
        A box of MD21 without TLS is refused though its secret is right, and told so; after the upgrade it is here. One
        with a wrong secret learns nothing. When an account begins to require it, its plain links end.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        certificate, key = Authority().issueServer().write(str(folder), "server")
        self.write(self.account("strict", "both", require_tls=True), self.account("lax", "cloudconnect"))
        gateway = self.gateway(f"--md21-cert={certificate}", f"--md21-key={key}")
        for secret, status in ((SECRET, HeaderStatus.TLS_REQUIRED), ("wrong", HeaderStatus.BAD_SECRET)):
            plain = SocketBox(gateway.md21Port)
            self.addCleanup(plain.close)
            plain.send(makeHeader(OLD, account="strict", secret=secret))
            self.assertEqual(plain.expect(values.HeaderAck).status, status)
            self.assertIsNone(plain.next())
        box = SocketBox(gateway.md21Port)
        self.addCleanup(box.close)
        box.secure().connect(OLD, account="strict", secret=SECRET).block(makeBlock(0, 3))
        self.assertEqual(len(self.inQueue("tracks")), 3)
        lax = self.oldBox(gateway, "lax")
        lax.block(makeBlock(0, 3))
        self.write(
            self.account("strict", "both", require_tls=True), self.account("lax", "cloudconnect", require_tls=True)
        )
        self.assertEqual(lax.next(), values.Disconnect(values.Reason.AUTH_FAILED_TRANSPORT))
        self.assertIsNone(lax.next())
        box.block(makeBlock(3, 3))
        self.assertEqual(gateway.terminate(), 0)

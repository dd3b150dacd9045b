"""
Who may in, over several real gateways: changes of the directory, revoked certificates, and limits, seen by boxes.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from confluent_kafka import Producer
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.mqtt.packets import encodeConnect
from binaryserver.proto import cloudnext_pb2
from tests.certificates import Authority, replaceFile
from tests.directory.samples import toml
from tests.gatewayprocess import GatewayProcess, connect
from tests.harness import batch, publish
from tests.integration.test_directory import ServiceProcess
from tests.services import consumeAll, makeTopics, requireKafka, requireRedis, uniquePrefix

ADMITTED, UNAVAILABLE, NOT_AUTHORIZED = b"\x20\x02\x00\x00", b"\x20\x02\x00\x03", b"\x20\x02\x00\x05"
SECRET = b"its own"
HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(SECRET)
FIRST, SECOND, THIRD = (f"35000000000000{number}" for number in range(3))


def acme(*revoked: str, **changes: Any) -> dict[str, Any]:
    """
    An account of three boxes.
    """
    boxes = [{"asset": asset, "secret_hash": HASH, "revoked": asset in revoked} for asset in (FIRST, SECOND, THIRD)]
    return {"name": "acme", "box": boxes, **changes}


class Box:
    """
    One link.
    """

    def __init__(self, link: socket.socket, asset: str, secret: bytes | None = SECRET) -> None:
        self.link = link
        self.asset = asset
        link.settimeout(20)
        link.sendall(encodeConnect(asset, True, 0, "acme", secret))
        self.answer = link.recv(4)

    def tracks(self, index: int) -> None:
        """
        Send a track, and wait for its ack.
        """
        self.link.sendall(publish("t", batch(index), index))
        answer = self.link.recv(4)
        assert answer == b"\x40\x02" + struct.pack(">H", index), answer

    def closedWithin(self, seconds: float) -> float:
        """
        Wait until the gateway closes the link.

        @return: s that it took
        @raise TimeoutError: it does not
        """
        began = time.monotonic()
        self.link.settimeout(seconds)
        while self.link.recv(100):
            continue
        return time.monotonic() - began

    @property
    def isOpen(self) -> bool:
        """
        The gateway has not closed it.
        """
        self.link.settimeout(0.1)
        try:
            return self.link.recv(1) != b""
        except TimeoutError:
            return True


class AdmissionCase(SynchronousTestCase):
    """
    Boxes by hand.
    """

    def box(self, gateway: GatewayProcess, asset: str, answer: bytes = ADMITTED, secret: bytes = SECRET) -> Box:
        """
        One that is answered so.
        """
        box = Box(connect(gateway.port), asset, secret)
        self.addCleanup(box.link.close)
        self.assertEqual(box.answer, answer)
        return box


class SeveralTests(AdmissionCase):
    """
    Two instances on one Kafka, one Redis, and one directory service.
    """

    def setUp(self) -> None:
        """
        All of them run.
        """
        self.kafka = requireKafka()
        self.redis = ":".join(map(str, requireRedis()))
        self.prefix = uniquePrefix()
        self.topics = Topics.named(self.prefix)
        makeTopics(self.kafka, self.topics.all, 4)
        self.producer = Producer({"bootstrap.servers": self.kafka})
        self.service = ServiceProcess(self.mktemp())
        self.addCleanup(self.service.close)
        self.write(acme())
        self.service.start()
        self.one, self.two = (self.gateway(name) for name in ("one", "two"))

    def gateway(self, name: str) -> GatewayProcess:
        """
        An instance, started.
        """
        gateway = GatewayProcess(
            f"--topic-prefix={self.prefix}",
            f"--instance={name}",
            f"--sessions=redis://{self.redis}/9?prefix={self.prefix}",
            f"--directory={self.service.url()}",
            bus=f"kafka://{self.kafka}",
        )
        self.addCleanup(gateway.close)
        return gateway.start()

    def write(self, account: dict[str, Any]) -> None:
        """
        Change what the service says.
        """
        replaceFile(self.service.file, toml([account]).encode())

    def tell(self, asset: str = "") -> None:
        """
        Tell of a change, on Kafka.
        """
        told = cloudnext_pb2.DirectoryChange(account="acme", asset=asset)
        self.producer.produce(self.topics.directory, told.SerializeToString(), "acme")
        self.assertEqual(self.producer.flush(10), 0)

    def presences(self) -> list[tuple[str, str]]:
        """
        Asset and reason of all presences that have one.
        """
        events = [cloudnext_pb2.Event.FromString(one[4]) for one in consumeAll(self.kafka, [self.topics.presences])]
        return [(event.asset, event.presence.reason) for event in events if event.presence.reason]

    def test_revoked(self) -> None:
        """
        A box that is revoked loses its link, on whichever instance, within a second of the notice; the others keep
        theirs; it does not come back, anywhere, and all that is told.
        """
        first, second = self.box(self.one, FIRST), self.box(self.two, SECOND)
        third = self.box(self.two, THIRD)
        for box in (first, second, third):
            box.tracks(1)
        self.write(acme(FIRST, SECOND))
        self.assertTrue(first.isOpen)
        for box in (second, first):
            self.tell(box.asset)
            self.assertLess(box.closedWithin(10), 1.0)
        third.tracks(2)
        for gateway in (self.one, self.two):
            self.box(gateway, FIRST, NOT_AUTHORIZED)
        found = self.presences()
        self.assertEqual(found.count((SECOND, "AUTH_FAILED_ASSET")), 1, found)
        # The end of the link, and two that were not let in.
        self.assertEqual(found.count((FIRST, "AUTH_FAILED_ASSET")), 3, found)

    def test_terms(self) -> None:
        """
        What changes in an account changes for links that are there, on all instances within a second.
        """
        boxes = [self.box(self.one, FIRST), self.box(self.two, SECOND)]
        for box in boxes:
            box.tracks(1)
        self.write(acme(fields=[{"id": 8, "name": "SPEED_KMH", "type": "int"}]))
        self.tell()
        time.sleep(1.0)
        for box in boxes:
            box.tracks(2)
        events = [cloudnext_pb2.Event.FromString(one[4]) for one in consumeAll(self.kafka, [self.topics.tracks])]
        for box in boxes:
            names = [event.field_labels[0].name for event in events if event.asset == box.asset]
            self.assertEqual(names, ["GPS_SPEED", "SPEED_KMH"])

    def test_serviceAway(self) -> None:
        """
        While the directory service is away boxes that are known come in, and those that are not are to come later.
        """
        self.box(self.one, FIRST).link.close()
        self.service.close()
        self.box(self.one, FIRST)
        self.box(self.one, SECOND, UNAVAILABLE)
        self.box(self.one, FIRST, NOT_AUTHORIZED, b"wrong")

    def test_links(self) -> None:
        """
        As many boxes of an account as may are connected, over all instances, and right after each was restarted, too.
        """
        self.write(acme(limits={"links": 2}))
        first = self.box(self.one, FIRST)
        self.box(self.two, SECOND)
        for gateway in (self.one, self.two):
            self.box(gateway, THIRD, UNAVAILABLE)
        self.assertEqual(self.one.terminate(), 0)
        self.one.start()
        self.box(self.one, THIRD)
        self.box(self.two, FIRST, UNAVAILABLE)
        self.assertFalse(first.isOpen)

    def test_rate(self) -> None:
        """
        An account sends, over all instances, what it may and not more; what is over waits, and none of it is lost.
        """
        self.write(acme(limits={"messages_per_second": 40}))
        boxes = [self.box(self.one, FIRST), self.box(self.two, SECOND)]
        began = time.monotonic()
        for box in boxes:
            box.link.sendall(b"".join(publish("t", batch(index), index) for index in range(1, 101)))
        for box in boxes:
            acks = b""
            while len(acks) < 400:
                acks += box.link.recv(400)
            box.link.sendall(publish("t", batch(101), 101))
        for box in boxes:
            self.assertEqual(box.link.recv(4), b"\x40\x02\x00\x65")
        # 200 in what each read brought, 80 of them from the full bucket; the last two come after the debt is paid.
        self.assertGreater(time.monotonic() - began, 2.5)
        self.assertEqual(len(consumeAll(self.kafka, [self.topics.tracks])), 202)


class OneHostTests(AdmissionCase):
    """
    One gateway on SQLite.
    """

    def test_workers(self) -> None:
        """
        A file that changes is known to every worker by itself.
        """
        path = Path(self.mktemp()).resolve()
        path.write_text(toml([acme()]))
        gateway = GatewayProcess(f"--directory=file:{path}", "--workers=2")
        self.addCleanup(gateway.close)
        gateway.start()
        boxes = [self.box(gateway, asset) for asset in (FIRST, SECOND, THIRD)]
        replaceFile(str(path), toml([acme(FIRST, SECOND, THIRD)]).encode())
        began = time.monotonic()
        for box in boxes:
            box.closedWithin(10)
        # It is looked at once a second.
        self.assertLess(time.monotonic() - began, 2.5)

    def test_erased(self) -> None:
        """
        Nothing of a box that was erased is in any file of the gateway's, and while it is connected it is not erased.
        """
        path = Path(self.mktemp()).resolve()
        path.write_text(toml([acme()]))
        gateway = GatewayProcess(f"--directory=file:{path}")
        self.addCleanup(gateway.close)
        gateway.start()
        box = self.box(gateway, FIRST)
        box.tracks(1)
        self.box(gateway, SECOND).tracks(1)
        self.assertEqual(gateway.ask("DELETE", f"/api/boxes/{FIRST}")[0], 409)
        box.link.close()
        deadline = time.monotonic() + 10
        while (answer := gateway.ask("DELETE", f"/api/boxes/{FIRST}"))[0] == 409 and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(answer[0], 200)
        self.assertEqual({event["asset"] for event in gateway.tail()}, {SECOND})
        self.assertEqual(gateway.terminate(), 0)
        for file in gateway.folder.iterdir():
            if file.name != "log":
                # Its last link epoch stands under its name, and that in two indices.
                self.assertLessEqual(file.read_bytes().count(FIRST.encode()), 3, file)


class CertificateTests(AdmissionCase):
    """
    Boxes with certificates.
    """

    def test_revoked(self) -> None:
        """
        A certificate that a new revocation list names loses its live link within a second or two, without a restart
        and without any other link; it does not come back.
        """
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        authority = Authority()
        certificate, key = authority.issueServer().write(str(folder), "server")
        clients = {asset: authority.issueClient(asset, "acme") for asset in (FIRST, SECOND)}
        replaceFile(f"{folder}/ca.pem", authority.certificatePem())
        replaceFile(f"{folder}/crl.pem", authority.revoke())
        path = folder / "directory.toml"
        path.write_text(toml([acme(require_certificate=True)]))
        gateway = GatewayProcess(
            f"--directory=file:{path}",
            md30=f"tls:{{port}}:interface=127.0.0.1:cert={certificate}:key={key}:clientca={folder}/ca.pem"
            f":crl={folder}/crl.pem",
        )
        self.addCleanup(gateway.close)
        gateway.start()

        def come(asset: str) -> Box:
            context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
            context.load_cert_chain(*clients[asset].write(str(folder), asset))
            link = context.wrap_socket(connect(gateway.port), server_hostname="localhost")
            self.addCleanup(link.close)
            return Box(link, asset, None)

        first, second = come(FIRST), come(SECOND)
        self.assertEqual((first.answer, second.answer), (ADMITTED, ADMITTED))
        second.tracks(1)
        replaceFile(f"{folder}/crl.pem", authority.revoke([clients[FIRST]]))
        self.assertLess(first.closedWithin(10), 2.5)
        second.tracks(2)
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            come(FIRST).link.sendall(b"\xc0\x00")
        self.assertEqual(come(SECOND).answer, ADMITTED)
        reasons = [event["presence"].get("reason") for event in gateway.tail("presences")]
        self.assertIn("AUTH_FAILED_ASSET", reasons)

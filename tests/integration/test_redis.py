"""
Real gateways while their Redis is frozen, killed or empty; and boxes that are taken over from instance to instance.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable

from binaryserver.mqtt.packets import encodeConnect, encodePublish, encodeSubscribe
from binaryserver.proto import cloudnext_pb2
from tests.gatewayprocess import startFleet
from tests.harness import batch
from tests.integration.instances import InstancesTestCase, assets
from tests.session.redisrig import RedisServer

_CONNACK_UNAVAILABLE = b"\x20\x02\x00\x03"


def link(port: int, asset: str, clean: bool = True) -> socket.socket:
    """
    A client's connection, its CONNECT sent.
    """
    sock = socket.create_connection(("127.0.0.1", port), timeout=15)
    sock.sendall(encodeConnect(asset, cleanSession=clean, keepAlive=0))
    return sock


def exactly(sock: socket.socket, count: int) -> bytes:
    """
    So many bytes of a connection; less if it ends first.
    """
    data = b""
    while len(data) < count:
        try:
            more = sock.recv(count - len(data))
        except ConnectionError:
            break
        if not more:
            break
        data += more
    return data


class RedisAwayTests(InstancesTestCase):
    """
    One gateway on a Redis of its own.
    """

    def server(self, *options: str) -> RedisServer:
        """
        A Redis that may be ended.
        """
        server = RedisServer(*options)
        self.addCleanup(server.close)
        server.start()
        self.redis = f"127.0.0.1:{server.port}/0"
        return server

    def outage(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """
        Redis goes for longer than a lease, and comes back.
        """
        gateway = self.gateway("one")
        sock = link(gateway.port, "a-box")
        self.addCleanup(sock.close)
        self.assertEqual(exactly(sock, 4), b"\x20\x02\x00\x00")
        sock.sendall(encodeSubscribe(5, [("d", 1)]))
        self.assertEqual(exactly(sock, 5), b"\x90\x03\x00\x05\x01")
        sock.sendall(encodePublish("t", batch(0, 3), 1, 1))
        self.assertEqual(exactly(sock, 4), b"\x40\x02\x00\x01")
        begin()
        # Tracks are acked: the bus has them, and their marks follow.
        for number in range(1, 4):
            sock.sendall(encodePublish("t", batch(3 * number, 3), 1, 1 + number))
            self.assertEqual(exactly(sock, 4), b"\x40\x02\x00" + bytes((1 + number,)))
        # New boxes are told to come later, with the reason.
        refused = link(gateway.port, "another-box")
        self.addCleanup(refused.close)
        self.assertEqual(exactly(refused, 5), _CONNACK_UNAVAILABLE)
        # What the cloud sends waits in Kafka.
        self.send(asset="a-box", id="meanwhile", payload=b"x")
        self.producer.flush(10)
        time.sleep(6)
        end()
        # The link has stayed, and all goes on by itself.
        head = exactly(sock, 2)
        self.assertEqual(head[0], 0x32, "the message did not come")
        packet = exactly(sock, head[1])
        self.assertIn(b"meanwhile", packet)
        sock.sendall(b"\x40\x02" + packet[3:5])
        self.until(lambda: "meanwhile" in self.finals(), 15, "its final status")
        later = link(gateway.port, "another-box")
        self.addCleanup(later.close)
        self.assertEqual(exactly(later, 4), b"\x20\x02\x00\x00")
        # Nobody was declared dead.
        time.sleep(12)
        kinds = Counter((event.asset, event.presence.type) for event in self.events(self.topics.presences))
        self.assertEqual(kinds["a-box", cloudnext_pb2.PRESENCE_TYPE_DISCONNECT], 0)
        self.assertEqual(kinds["a-box", cloudnext_pb2.PRESENCE_TYPE_CONNECT], 1)
        # The marks are where they belong: a resend is known, also after the link has moved.
        again = link(gateway.port, "a-box")
        self.addCleanup(again.close)
        self.assertEqual(exactly(again, 4), b"\x20\x02\x00\x00")
        again.sendall(encodePublish("t", batch(0, 13), 1, 1))
        self.assertEqual(exactly(again, 4), b"\x40\x02\x00\x01")
        indices = [event.index for event in self.events(self.topics.tracks)]
        self.assertEqual(indices, list(range(13)))
        self.assertEqual(gateway.terminate(), 0)

    def test_frozen(self) -> None:
        """
        SIGSTOP and SIGCONT.
        """
        server = self.server()
        self.outage(server.freeze, server.thaw)

    def test_killed(self) -> None:
        """
        C{kill -9}, and started again on its append-only file.
        """
        server = self.server("--appendonly", "yes", "--appendfsync", "always")
        self.outage(server.kill9, server.start)

    def test_emptied(self) -> None:
        """
        It comes back empty: the gateway writes its sessions again.
        """
        server = self.server()
        self.outage(server.kill9, server.start)


class TakeoverTests(InstancesTestCase):
    """
    One box, many links.
    """

    def test_race(self) -> None:
        """
        Sixty links of one box at three instances at once: one is left, it works, and a consumer knows it by its epoch.
        """
        gateways = [self.gateway(f"g{number}") for number in range(3)]
        socks = [link(gateways[number % 3].port, "wanted") for number in range(60)]
        for sock in socks:
            self.addCleanup(sock.close)
        time.sleep(3)
        alive = []
        for sock in socks:
            answer = exactly(sock, 4)
            sock.setblocking(False)
            try:
                if sock.recv(1) == b"":
                    continue
            except ConnectionError:
                continue
            except BlockingIOError:
                self.assertEqual(answer, b"\x20\x02\x00\x00")
                alive.append(sock)
        (sock,) = alive
        sock.settimeout(15)
        sock.sendall(encodePublish("t", batch(0, 5), 1, 1))
        self.assertEqual(exactly(sock, 4), b"\x40\x02\x00\x01")
        self.until(lambda: len(self.events(self.topics.presences)) == 2 * 60 - 1, 10, "each is told")
        events = self.events(self.topics.presences)
        latest = max(events, key=lambda event: event.link_epoch)
        self.assertNotEqual(latest.presence.type, cloudnext_pb2.PRESENCE_TYPE_DISCONNECT)
        self.assertEqual(len({event.link_epoch for event in events}), 60)
        self.assertEqual(self.present(), {"wanted"})

    def test_tracks(self) -> None:
        """
        Boxes with tracks in flight move between instances that are alive: every track is there once, in order.
        """
        gateways = [self.gateway(f"g{number}") for number in range(3)]
        options = ("--boxes=24", "--tracks=600", "--batch=3", "--rate=100", "--cut-every=0.8", "--reconnect-delay=0.1")
        boxes = startFleet(
            [gateway.port for gateway in gateways], "--timeout=90", "--no-messages", "--seed=3", *options
        )
        self.addCleanup(boxes.kill)
        boxes.communicate(timeout=100)
        self.assertEqual(boxes.returncode, 0)
        found: dict[str, list[int]] = {asset: [] for asset in assets(24)}
        for event in self.events(self.topics.tracks):
            found[event.asset].append(event.index)
        for indices in found.values():
            self.assertEqual(indices, list(range(indices[0], indices[0] + 600)))

    def test_takenFromTheDead(self) -> None:
        """
        Taken from an instance that was killed, and from one that is frozen: the new link's tracks wait until the old
        one is known to be dead, and are acked then.
        """
        for number, end in enumerate(("kill9", "freeze")):
            asset = f"box-{number}"
            old, new = self.gateway(f"old{number}"), self.gateway(f"new{number}")
            first = link(old.port, asset)
            self.addCleanup(first.close)
            self.assertEqual(exactly(first, 4), b"\x20\x02\x00\x00")
            first.sendall(encodePublish("t", batch(0, 5), 1, 1))
            self.assertEqual(exactly(first, 4), b"\x40\x02\x00\x01")
            # Its mark follows the ack.
            time.sleep(0.5)
            getattr(old, end)()
            second = link(new.port, asset)
            self.addCleanup(second.close)
            second.settimeout(40)
            self.assertEqual(exactly(second, 4), b"\x20\x02\x00\x00")
            second.sendall(encodePublish("t", batch(0, 8), 1, 7))
            began = time.monotonic()
            self.assertEqual(exactly(second, 4), b"\x40\x02\x00\x07")
            self.assertLess(time.monotonic() - began, 25)
            indices = [event.index for event in self.events(self.topics.tracks) if event.asset == asset]
            self.assertEqual(indices, list(range(8)))
            if end == "freeze":
                old.thaw()
                time.sleep(2)
                self.assertEqual(exactly(first, 1), b"", "the old link is still there")
                latest = max(
                    (event for event in self.events(self.topics.presences) if event.asset == asset),
                    key=lambda event: event.link_epoch,
                )
                self.assertEqual(latest.presence.type, cloudnext_pb2.PRESENCE_TYPE_RECONNECT)

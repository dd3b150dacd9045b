"""
MD21 by UDP with real gateway processes: boxes of the test, networks that lose and double, and those who should not be
heard.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.md21 import codec
from binaryserver.md21.datagrams import Arrival, DatagramSequence
from binaryserver.md21.values import (
    BaseValueAck,
    BaseValues,
    Capabilities,
    Header,
    HeaderAck,
    HeaderStatus,
    Message,
    MessageAck,
    MessageStatus,
    Pdu,
    Ping,
    Track,
    TrackingAck,
    TrackingData,
    Transport,
    UdpOffer,
    WantAck,
)
from tests.gatewayprocess import ROOT, GatewayProcess
from tests.services import freePort

FIRST_TIME = 1_750_000_000_000
PLENTY = 1 << 30
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PATIENCE = 90.0
SILENCE = 0.7
"""s: longer than any answer takes that is not repeated."""


def block(number: int, count: int = 5, wantAck: WantAck = WantAck.ALL_60) -> TrackingData:
    """
    A block of tracks, one a second, that no other number has.
    """
    tracks = tuple(
        Track(FIRST_TIME + (number * count + at) * 1000, 4_885_000 + at, 235_000, ((8, number),)) for at in range(count)
    )
    return TrackingData(wantAck, tracks)


def freeUdpPorts() -> int:
    """
    The first of two ports in a row that are free.
    """
    while True:
        port = freePort()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for one in (port, port + 1):
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("127.0.0.1", one))
            return port


class Box:
    """
    A box with its link on TCP and its datagrams.

    @ivar offer: what the headerack said
    @ivar acks: TrackingAcks that came by datagram
    @ivar got: other PDUs that came by datagram
    """

    def __init__(self, port: int, asset: str, udp: bool = True) -> None:
        self.acks = 0
        self.got: list[Pdu] = []
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._read = b""
        self.write(Header(1, asset, "dev", "secret", capabilities=Capabilities(udp=udp)))
        ack = self.read()
        assert isinstance(ack, HeaderAck) and ack.status is HeaderStatus.OK, ack
        self.offer: UdpOffer | None = ack.udp
        values = self.read()
        assert isinstance(values, BaseValues)
        self.write(BaseValueAck(values.revision))
        self.socket = self.newSocket()
        if ack.udp is not None:
            self.target = (ack.udp.host, ack.udp.port)
            self.sequence = DatagramSequence(ack.udp.token)

    def newSocket(self) -> socket.socket:
        """
        Another address, as after a NAT has forgotten the old one.
        """
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        return self.socket

    def close(self) -> None:
        """
        End.
        """
        self.socket.close()
        self.stream.close()

    def write(self, pdu: Pdu) -> None:
        """
        Send on TCP.
        """
        octets = codec.encode(pdu)
        self.stream.sendall(len(octets).to_bytes(2, "big") + octets)

    def read(self) -> Pdu:
        """
        Wait for the next PDU on TCP.
        """
        while len(self._read) < 2 or len(self._read) < 2 + int.from_bytes(self._read[:2], "big"):
            data = self.stream.recv(65_536)
            assert data, "the gateway closed the link"
            self._read += data
        end = 2 + int.from_bytes(self._read[:2], "big")
        octets, self._read = self._read[2:end], self._read[end:]
        return codec.decode(octets)

    def queue(self, *pdus: Pdu) -> None:
        """
        Send by datagram, until acked.
        """
        for pdu in pdus:
            octets = codec.encode(pdu)
            assert self.sequence.mayQueue(len(octets))
            self.sequence.queue(octets)

    def datagram(self, number: int) -> bytes:
        """
        A ping with the box's token.
        """
        assert self.offer is not None
        return codec.encode(Transport(self.offer.token, number, (), codec.encode(Ping(1))))

    def turn(self, seconds: float = 0.02) -> None:
        """
        Send what is due, and take what comes for a while.
        """
        for datagram in self.sequence.output(time.monotonic(), PLENTY):
            self.socket.sendto(datagram, self.target)
        while select.select([self.socket], [], [], seconds)[0]:
            self.received(self.socket.recv(65_536))
            seconds = 0

    def received(self, data: bytes) -> None:
        """
        Take a datagram.
        """
        datagram = codec.decode(data)
        assert isinstance(datagram, Transport)
        self.sequence.acked(datagram.acks)
        if datagram.pdu is None:
            return
        now = time.monotonic()
        if self.sequence.judge(datagram.sequence, len(datagram.pdu), PLENTY, now) is Arrival.fresh:
            self.sequence.take(datagram.sequence, datagram.pdu, now)
        while (given := self.sequence.give()) is not None:
            pdu = codec.decode(given)
            if isinstance(pdu, TrackingAck):
                self.acks += 1
            else:
                self.got.append(pdu)

    def awaitPdu(self) -> Pdu:
        """
        Go on until something else than the ack of a block comes by datagram.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.got:
            assert time.monotonic() < deadline, "nothing comes"
            self.turn()
        return self.got.pop(0)

    def awaitAcks(self, count: int) -> None:
        """
        Go on until so many blocks are acked by datagram.
        """
        deadline = time.monotonic() + PATIENCE
        while self.acks < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.acks} blocks of {count} were acked")
            self.turn()


class Relay(threading.Thread):
    """
    A network between one box and a gateway that loses, doubles and delays datagrams, either way.

    @ivar address: where the box sends
    @ivar lost: datagrams that did not arrive
    """

    def __init__(self, target: tuple[str, int], seed: int, loss: float, doubles: float, delay: float) -> None:
        """
        @param delay: s, the longest
        """
        threading.Thread.__init__(self, daemon=True)
        self._target = target
        self._random = random.Random(seed)
        self._loss, self._doubles, self._delay = loss, doubles, delay
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._front.getsockname()
        self._box: Any = None
        self._waiting: list[tuple[float, int, bytes, bool]] = []
        self._count = 0
        self._isOver = threading.Event()
        self.lost = self.doubled = 0

    def run(self) -> None:
        """
        Relay until closed.
        """
        while not self._isOver.is_set():
            readable, _, _ = select.select([self._front, self._back], [], [], 0.005)
            for one in readable:
                data, sender = one.recvfrom(65_536)
                if one is self._front:
                    self._box = sender
                self._pass(data, one is self._front)
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                _, _, data, isUp = heapq.heappop(self._waiting)
                if isUp:
                    self._back.sendto(data, self._target)
                else:
                    self._front.sendto(data, self._box)
        self._front.close()
        self._back.close()

    def _pass(self, data: bytes, isUp: bool) -> None:
        if self._random.random() < self._loss:
            self.lost += 1
            return
        copies = 1 + (self._random.random() < self._doubles)
        self.doubled += copies - 1
        for _ in range(copies):
            self._count += 1
            due = time.monotonic() + self._random.random() * self._delay
            heapq.heappush(self._waiting, (due, self._count, data, isUp))

    def close(self) -> None:
        """
        End.
        """
        self._isOver.set()
        self.join(5)


class Md21UdpTests(SynchronousTestCase):
    """
    One gateway, or two workers.
    """

    def gateway(self, *options: str, udp: str = "{port}:interface=127.0.0.1") -> GatewayProcess:
        """
        A gateway, not started; gone at the end of the test. Its ports are in C{self.port} and C{self.udpPort}.
        """
        self.udpPort = freeUdpPorts()
        gateway = GatewayProcess(f"--md21-udp={udp.replace('{port}', str(self.udpPort))}", *options)
        self.port = gateway.md21Port
        self.addCleanup(gateway.close)
        return gateway

    def box(self, asset: str, udp: bool = True) -> Box:
        """
        A box that is here.
        """
        box = Box(self.port, asset, udp)
        self.addCleanup(box.close)
        return box

    def stranger(self) -> socket.socket:
        """
        Another sender, who waits for an answer for a while.
        """
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.settimeout(SILENCE)
        self.addCleanup(other.close)
        return other

    def assertSilent(self, sender: socket.socket) -> None:
        """
        Nothing comes.
        """
        with self.assertRaises(TimeoutError):
            sender.recv(65_536)

    def assertOnce(self, gateway: GatewayProcess, assets: dict[str, int]) -> list[dict[str, Any]]:
        """
        Each box's tracks are in the bus: all, once, in order.
        """
        events = gateway.tail()
        for asset, count in assets.items():
            times = [int(event["track"]["recorded_at"]) for event in events if event["asset"] == asset]
            self.assertEqual(times, [FIRST_TIME + 1000 * at for at in range(count)])
        self.assertEqual(len(events), sum(assets.values()))
        return events

    def test_tracks(self) -> None:
        """
        Blocks by datagram are acked by datagram, and are in the bus once and in order. The socket outlives the drain.
        """
        gateway = self.gateway().start()
        box = self.box("udp-1")
        assert box.offer is not None
        self.assertEqual((box.offer.host, box.offer.port), ("127.0.0.1", self.udpPort))
        box.queue(*(block(number) for number in range(60)))
        box.awaitAcks(60)
        self.assertOnce(gateway, {"udp-1": 300})
        self.assertEqual(gateway.terminate(), 0)
        self.assertIn("datagrams counted since the start", gateway.log())

    def test_badNetwork(self) -> None:
        """
        Datagrams are lost, doubled and overtake each other, either way: every block is acked, and nothing is doubled,
        missing or out of order.
        """
        gateway = self.gateway().start()
        box = self.box("udp-2")
        relay = Relay(box.target, 7, 0.15, 0.15, 0.05)
        box.target = relay.address
        relay.start()
        self.addCleanup(relay.close)
        box.queue(*(block(number) for number in range(60)))
        box.awaitAcks(60)
        self.assertGreater(relay.lost, 5)
        self.assertGreater(relay.doubled, 5)
        self.assertOnce(gateway, {"udp-2": 300})
        self.assertEqual(box.acks, 60)

    def test_resent(self) -> None:
        """
        A block that the box sends again with a new number is acked again and published once, and so it is on another
        link.
        """
        gateway = self.gateway().start()
        box = self.box("udp-3")
        box.queue(block(0), block(0), block(1))
        box.awaitAcks(3)
        box.close()
        again = self.box("udp-3")
        again.queue(block(0), block(1))
        again.awaitAcks(2)
        self.assertOnce(gateway, {"udp-3": 10})

    def test_bothWays(self) -> None:
        """
        What comes on TCP is acked on TCP, what comes by datagram by datagram.
        """
        gateway = self.gateway().start()
        box = self.box("udp-4")
        box.write(block(0))
        self.assertEqual(box.read(), TrackingAck())
        box.queue(block(1))
        box.awaitAcks(1)
        box.write(block(2))
        self.assertEqual(box.read(), TrackingAck())
        self.assertOnce(gateway, {"udp-4": 15})

    def test_messages(self) -> None:
        """
        Messages either way go by datagram once the box is heard there, with their acks; one that is too large for a
        datagram goes on TCP.
        """
        gateway = self.gateway().start()
        box = self.box("udp-5")
        box.queue(Message(7, 0, "dash", b"hello"))
        ack = box.awaitPdu()
        assert isinstance(ack, MessageAck)
        self.assertEqual((ack.status, ack.temporaryId), (MessageStatus.ACK, 7))
        self.assertEqual([event["message"]["channel"] for event in gateway.tail("messages")], ["dash"])
        for payload in ("interval=30", "x" * 5000):
            sending = self.send(gateway, "udp-5", payload)
            message = box.awaitPdu() if len(payload) < 100 else box.read()
            assert isinstance(message, Message)
            self.assertEqual(message.payload, payload.encode())
            box.queue(MessageAck(MessageStatus.ACK, message.temporaryId))
            while sending.poll() is None:
                box.turn()
            self.assertEqual(sending.returncode, 0)

    def send(self, gateway: GatewayProcess, asset: str, payload: str) -> subprocess.Popen[bytes]:
        """
        C{binaryserver-ctl send}, which ends when the message is acked.
        """
        program = "import sys; from binaryserver.tools.ctl import main; sys.exit(main())"
        url = f"http://127.0.0.1:{gateway.httpPort}"
        command = [sys.executable, "-c", program, "send", f"--http={url}", "--timeout=30", "--wait", "--account=dev"]
        sending = subprocess.Popen([*command, asset, "config", payload], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        self.addCleanup(sending.wait, 40)
        return sending

    def test_workers(self) -> None:
        """
        Each of two workers has its own port, and a box's datagrams go to the one that has its link.
        """
        gateway = self.gateway("--workers=2").start()
        boxes: dict[int, Box] = {}
        assets: dict[str, int] = {}
        for number in range(60):
            box = self.box(f"udp-{number}")
            assert box.offer is not None
            if box.offer.port not in boxes:
                boxes[box.offer.port] = box
                assets[f"udp-{number}"] = 50
            if len(boxes) == 2:
                break
        self.assertEqual(set(boxes), {self.udpPort, self.udpPort + 1})
        for box in boxes.values():
            box.queue(*(block(number) for number in range(10)))
            box.awaitAcks(10)
        events = self.assertOnce(gateway, assets)
        instances = {event["asset"]: event["instance"].rpartition("-")[2] for event in events}
        self.assertEqual(
            instances, {asset: str(port - self.udpPort) for asset, port in zip(assets, boxes, strict=True)}
        )
        first, other = boxes[self.udpPort], boxes[self.udpPort + 1]
        lost = self.stranger()
        lost.sendto(first.datagram(99), other.target)
        self.assertSilent(lost)
        self.assertEqual(gateway.terminate(), 0)

    def test_workerKilled(self) -> None:
        """
        A worker that is started again has its port again, and knows no token of its predecessor.
        """
        gateway = self.gateway("--workers=2").start()
        box = self.box("udp-0")
        box.queue(block(0))
        box.awaitAcks(1)
        assert box.offer is not None
        number = box.offer.port - self.udpPort
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
        os.kill(int(children[number]), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while True:
            again = self.box("udp-0")
            assert again.offer is not None
            if again.offer.port == box.offer.port:
                break
            again.close()
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        other = self.stranger()
        other.sendto(box.datagram(2), box.target)
        self.assertSilent(other)
        again.queue(block(1))
        again.awaitAcks(1)
        self.assertOnce(gateway, {"udp-0": 10})
        self.assertEqual(gateway.terminate(), 0)

    def test_strangers(self) -> None:
        """
        A token that nobody was given, what is no datagram of ours, a transport in another, a header: no answer to any
        of them, and the box that is here is not disturbed.
        """
        gateway = self.gateway().start()
        box = self.box("udp-6")
        assert box.offer is not None
        ping = codec.encode(Ping(1))
        strangers = [
            codec.encode(Transport(bytes(32), 1, (), ping)),
            codec.encode(Transport(bytes(32), 0)),
            b"",
            b"\x00",
            ping,
            random.Random(1).randbytes(500),
            codec.encode(Transport(box.offer.token, 1, (), codec.encode(Transport(box.offer.token, 1, (), ping)))),
            codec.encode(Transport(box.offer.token, 1, (), codec.encode(Header(1, "udp-6", "dev")))),
            codec.encode(Transport(box.offer.token, 1, (), b"\x48\xff\xff")),
        ]
        other = self.stranger()
        for datagram in strangers * 20:
            other.sendto(datagram, box.target)
        self.assertSilent(other)
        box.queue(block(0))
        box.awaitAcks(1)
        self.assertSilent(other)
        self.assertOnce(gateway, {"udp-6": 5})

    def test_replayed(self) -> None:
        """
        Who repeats a box's datagrams from elsewhere gets no answer, takes nothing away, and publishes nothing.
        """
        gateway = self.gateway().start()
        box = self.box("udp-7")
        box.queue(block(0), block(1))
        copies = box.sequence.output(time.monotonic(), PLENTY)
        for datagram in copies:
            box.socket.sendto(datagram, box.target)
        box.awaitAcks(2)
        other = self.stranger()
        for _ in range(50):
            for datagram in copies:
                other.sendto(datagram, box.target)
        self.assertSilent(other)
        box.queue(block(2))
        box.awaitAcks(3)
        self.assertSilent(other)
        self.assertOnce(gateway, {"udp-7": 15})

    def test_moved(self) -> None:
        """
        A NAT gives the box another address in the midst of it: answers follow, and what was under way comes.
        """
        gateway = self.gateway().start()
        box = self.box("udp-8")
        box.queue(block(0))
        box.awaitAcks(1)
        box.queue(block(1))
        for datagram in box.sequence.output(time.monotonic(), PLENTY):
            box.socket.sendto(datagram, box.target)
        # The ack goes to an address where the box is no more.
        time.sleep(SILENCE)
        box.socket.close()
        box.newSocket()
        box.queue(block(2))
        box.awaitAcks(3)
        self.assertOnce(gateway, {"udp-8": 15})

    def test_dead(self) -> None:
        """
        A token ends with its link on TCP, and with a link that takes over.
        """
        gateway = self.gateway().start()
        first = self.box("udp-9")
        first.queue(block(0))
        first.awaitAcks(1)
        second = self.box("udp-9")
        with contextlib.suppress(ConnectionResetError):
            while first.stream.recv(1000):
                pass
        other = self.stranger()
        other.sendto(first.datagram(2), first.target)
        self.assertSilent(other)
        second.queue(block(1))
        second.awaitAcks(1)
        second.stream.close()
        time.sleep(SILENCE)
        other.sendto(second.datagram(2), second.target)
        self.assertSilent(other)
        self.assertOnce(gateway, {"udp-9": 10})

    def test_killed(self) -> None:
        """
        G1: C{kill -9} in the midst of it. What was acked by datagram is there; with what the box sends again over its
        next link nothing is missing, and the keys of what is doubled are the same.
        """
        gateway = self.gateway().start()
        box = self.box("udp-12")
        box.queue(*(block(number) for number in range(50)))
        box.awaitAcks(20)
        gateway.kill9()
        box.turn()
        acked = box.acks
        gateway.start()
        there = {int(event["track"]["recorded_at"]) for event in gateway.tail()}
        self.assertLessEqual({FIRST_TIME + 1000 * at for at in range(5 * acked)}, there)
        again = self.box("udp-12")
        again.queue(*(block(number) for number in range(acked, 50)))
        again.awaitAcks(50 - acked)
        events = gateway.tail()
        keys = {(event["track"]["recorded_at"], event["index"]) for event in events}
        self.assertEqual(len(keys), 250)
        self.assertEqual(len({time for time, _ in keys}), 250)

    def test_notAsked(self) -> None:
        """
        A box that does not want UDP is offered none.
        """
        self.gateway().start()
        self.assertIsNone(self.box("udp-10", udp=False).offer)

    def test_advertised(self) -> None:
        """
        The option says what boxes are told.
        """
        self.gateway("--md21-udp-advertise=udp.example.org:7000").start()
        offer = self.box("udp-11").offer
        assert offer is not None
        self.assertEqual((offer.host, offer.port), ("udp.example.org", 7000))

    def test_badConfiguration(self) -> None:
        """
        One line that names the option, and status 1.
        """
        with contextlib.ExitStack() as stack:
            port = freeUdpPorts() + 1
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("127.0.0.1", port))
            for udp, options, words in (
                ("x", (), "--md21-udp: 'x': a port is a number"),
                ("0", (), "--md21-udp: 0: open: lets anybody in"),
                ("0:interface=0.0.0.0", (), "--md21-udp: 0:interface=0.0.0.0: open: lets anybody in"),
                (f"{port}:interface=127.0.0.1", (), f"{port}:interface=127.0.0.1: Address already in use"),
                (
                    f"{port - 1}:interface=127.0.0.1",
                    ("--workers=2",),
                    f"{port - 1}:interface=127.0.0.1: port {port}: Address already in use",
                ),
                ("65535:interface=127.0.0.1", ("--workers=2",), "worker 1 would have port 65536"),
                ("off", ("--md21-udp-advertise=h",), "--md21-udp-advertise: is of no use without --md21-udp"),
                ("0:interface=127.0.0.1", ("--md21-udp-advertise=h:x",), "--md21-udp-advertise: 'h:x': a port is"),
            ):
                gateway = self.gateway(*options, udp=udp)
                done = subprocess.run(
                    gateway.command(), capture_output=True, timeout=40, cwd=gateway.folder, env=ENVIRONMENT
                )
                self.assertEqual(done.returncode, 1, udp)
                lines = [line for line in done.stderr.decode().splitlines() if line.startswith("binaryserver: ")]
                self.assertEqual(len(lines), 1, done.stderr)
                self.assertIn(words, lines[0])

"""
Clients that stall, two hundred of a kind: each costs its own link, within a bounded time and memory.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.mqtt.packets import PINGREQ, encodeConnect, encodePublish
from tests.gatewayprocess import GatewayProcess, boxesEnd, connect, startBoxes
from tests.harness import batch

COUNT = 200
MOST_BYTES = 16 * 1024 * 1024
# The options below, and a sweep's time on top of them.
PATIENCE = 30.0


def begin(data: bytes) -> Callable[[GatewayProcess, int], socket.socket]:
    """
    A client that sends these bytes, and nothing after them.
    """

    def start(gateway: GatewayProcess, number: int) -> socket.socket:
        sock = connect(gateway.port)
        with contextlib.suppress(OSError):
            sock.sendall(data.replace(b"ASSET", b"%05d" % number))
        sock.setblocking(False)
        return sock

    return start


def neverReads(gateway: GatewayProcess, number: int) -> socket.socket:
    """
    A client that asks and asks, and reads no answer.
    """
    sock = connect(gateway.port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(encodeConnect(f"{number:05}"))
    sock.setblocking(False)
    return sock


def halfClosed(gateway: GatewayProcess, number: int) -> socket.socket:
    """
    A client that says it will send no more, and stays.
    """
    sock = connect(gateway.port)
    sock.sendall(encodeConnect(f"{number:05}"))
    sock.shutdown(socket.SHUT_WR)
    sock.setblocking(False)
    return sock


CONNECTED = encodeConnect("ASSET", keepAlive=0)
HUGE = b"\xff\xff\x0f"  # a remaining length of 262143, one more than may come

KINDS: dict[str, tuple[Callable[[GatewayProcess, int], socket.socket], bytes]] = {
    "silent": (begin(b""), b""),
    "half a CONNECT": (begin(CONNECTED[:9]), b""),
    "a byte a second": (begin(CONNECTED[:1]), CONNECTED[1:2]),
    "endless lengths": (begin(CONNECTED + b"\x32\xff\xff\xff\xff"), b"\xff"),
    "a huge CONNECT never finished": (begin(b"\x10" + HUGE + b"\x00\x04MQTT" + b"x" * 200_000), b""),
    "a huge PUBLISH never finished": (
        begin(CONNECTED + b"\x32\xf0\xff\x0f" + b"\x00\x01t\x00\x01" + b"x" * 250_000),
        b"",
    ),
    "answers never read": (neverReads, PINGREQ * 1_500),
    "half-closed": (halfClosed, b""),
    "keep-alive missed": (begin(encodeConnect("ASSET", keepAlive=1)), b""),
}


class StallingTests(SynchronousTestCase):
    """
    Nine kinds, against one gateway whose timeouts are short.
    """

    def setUp(self) -> None:
        """
        Start it, and have it do once whatever it does the first time.
        """
        self.gateway = GatewayProcess(
            "--connect-timeout=2", "--packet-timeout=3", "--output-timeout=3", "--batch-deadline=20"
        )
        self.addCleanup(self.gateway.close)
        self.gateway.start()
        boxesEnd(startBoxes(self.gateway.port, "--boxes=200", "--tracks=20"))

    def test_allKinds(self) -> None:
        """
        Each kind is dropped, all of it; meanwhile 200 cost at most 16 MB, and another box has its acks as ever.
        """
        for kind, (start, more) in KINDS.items():
            before = self.gateway.rss()
            socks = [start(self.gateway, number) for number in range(COUNT)]
            other = startBoxes(
                self.gateway.port, "--boxes=1", "--tracks=200", "--rate=400", f"--first-asset=other-{len(kind)}-001"
            )
            open_ = dict.fromkeys(socks)
            cost = 0
            deadline = time.monotonic() + PATIENCE
            while open_ and time.monotonic() < deadline:
                for sock in list(open_):
                    if self._isClosed(sock, more, kind):
                        del open_[sock]
                cost = max(cost, self.gateway.rss() - before)
                time.sleep(0.2)
            for sock in socks:
                sock.close()
            sums = boxesEnd(other)
            self.assertEqual(len(open_), 0, f"{kind}: {len(open_)} of {COUNT} live on")
            self.assertLess(cost, MOST_BYTES, f"{kind}: {cost} bytes")
            self.assertLess(sums["ack_ms"]["p99"], 1000, f"{kind}: {sums['ack_ms']}")
        self.assertEqual(self.gateway.terminate(), 0)

    def _isClosed(self, sock: socket.socket, more: bytes, kind: str) -> bool:
        """
        Whether the gateway has let go of a link, as its client sees it.
        """
        try:
            if more:
                with contextlib.suppress(BlockingIOError):
                    sock.send(more)
            if kind == "answers never read":
                # To read would be to end what is tested: a reset shows as an error of the socket.
                poll = select.poll()
                poll.register(sock, 0)
                return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
            while True:
                if not sock.recv(65_536):
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True


class GarbageTests(SynchronousTestCase):
    """
    Bytes that no client sends.
    """

    def test_otherBoxesNoticeNothing(self) -> None:
        """
        Garbage of many kinds, while boxes send: each link of it is closed, everything of the boxes is acked.
        """
        gateway = GatewayProcess()
        self.addCleanup(gateway.close)
        gateway.start()
        boxes = startBoxes(gateway.port, "--boxes=5", "--tracks=300", "--rate=200")
        connected = encodeConnect("x")
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x00" * 100,
            b"\xff" * 100,
            connected + connected,
            encodePublish("t", batch(1), 1, 1),
            connected + b"\x32\x05\x00\x03\xff\xff\xff",
            connected + b"\x36\x05\x00\x01t\x00\x01",
            connected + b"\x82\x02\x00\x01",
            connected + b"\x32\xff\xff\xff\xff\x01",
            connected + b"\x32\xff\xff\xff\x7f",
            connected + b"\x20\x02\x00\x00",
            b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x00\x00\x00",
            struct.pack(">BBH", 0x10, 4, 7) + b"MQ",
        ):
            sock = connect(gateway.port)
            sock.settimeout(10)
            sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
            sock.close()
        boxesEnd(boxes)
        self.assertEqual(gateway.terminate(), 0)
        self.assertIn("link closed: ", gateway.log())
        self.assertNotIn("Traceback", gateway.log())

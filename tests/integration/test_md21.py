"""
MD21 boxes and real gateways: what a fleet of the legacy relies on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.md21 import values
from binaryserver.md21.codec import encode
from binaryserver.md21.deliveries import serverId
from binaryserver.md21.framing import frame
from binaryserver.md21.values import Capabilities, Channel, HeaderStatus, MessageStatus, Reason
from tests.certificates import Authority
from tests.gatewayprocess import ROOT, GatewayProcess
from tests.harness import ASSET
from tests.md21.socketbox import SocketBox
from tests.md21.world import START, makeBlock, makeHeader

_MARKS = 1.0
"""s after which the session store has what was committed."""


class Md21Case(SynchronousTestCase):
    """
    Starts gateways.
    """

    def gateway(self, *options: str, md21: str = "") -> GatewayProcess:
        """
        A gateway, started; gone at the end of the test, in which nothing unforeseen may have happened to it.
        """
        gateway = GatewayProcess(*options, md21=md21)
        self.addCleanup(gateway.close)
        self.addCleanup(lambda: self.assertNotIn("Traceback", gateway.log()))
        return gateway.start()

    def box(self, gateway: GatewayProcess) -> SocketBox:
        """
        A connection, closed at the end of the test.
        """
        box = SocketBox(gateway.md21Port)
        self.addCleanup(box.close)
        return box

    def tracks(self, gateway: GatewayProcess) -> list[int]:
        """
        The numbers of the tracks on the bus, in the order of the bus.
        """
        return [(int(event["event_time"]) - START) // 1000 for event in gateway.tail()]

    def presences(self, gateway: GatewayProcess, count: int) -> list[str]:
        """
        C{TYPE REASON} of so many presences.
        """
        deadline = time.monotonic() + 15
        while len(events := gateway.tail("presences")) < count:
            self.assertLess(time.monotonic(), deadline, events)
            time.sleep(0.1)
        told = [event["presence"] for event in events]
        return [f"{one['type'].removeprefix('PRESENCE_TYPE_')} {one.get('reason', '')}".strip() for one in told]


class UplinkTests(Md21Case):
    """
    Blocks of tracks.
    """

    def test_once(self) -> None:
        """
        Blocks are acked in order; what comes again after a reconnect, cut otherwise, is acked and published once.
        """
        gateway = self.gateway()
        box = self.box(gateway).connect(reason=Reason.COLD_BOOT)
        box.send(*(makeBlock(first, 10) for first in range(0, 100, 10)))
        for _ in range(10):
            box.expect(values.TrackingAck)
        box.close()
        box = self.box(gateway).connect(reason=Reason.PPP_LOST)
        box.send(*(makeBlock(first, 7) for first in range(0, 140, 7)))
        for _ in range(20):
            box.expect(values.TrackingAck)
        box.send(values.Disconnect(Reason.IDLE_OUT))
        self.assertIsNone(box.next())
        self.assertEqual(self.tracks(gateway), list(range(140)))
        self.assertEqual(
            self.presences(gateway, 4),
            ["CONNECT COLD_BOOT", "DISCONNECT SOCKET_CLOSED", "RECONNECT PPP_LOST", "DISCONNECT IDLE_OUT"],
        )
        self.assertEqual(gateway.terminate(), 0)

    def test_killed(self) -> None:
        """
        The gateway is killed and started again: what was acked is there, and is known when it comes again.
        """
        gateway = self.gateway()
        box = self.box(gateway).connect()
        box.block(makeBlock(0, 50))
        time.sleep(_MARKS)
        gateway.kill9()
        self.assertIsNone(box.next())
        gateway.start()
        box = self.box(gateway).connect()
        box.block(makeBlock(25, 50))
        self.assertEqual(self.tracks(gateway), list(range(75)))
        self.assertEqual(gateway.terminate(), 0)

    def test_workers(self) -> None:
        """
        Links of one box come to whichever worker; each takes over from the other, and each track is there once.
        """
        gateway = self.gateway("--workers=2")
        boxes = []
        for turn in range(8):
            box = self.box(gateway).connect()
            box.send(makeBlock(turn * 5, 10))
            box.expect(values.TrackingAck)
            boxes.append(box)
        self.assertEqual(sorted(self.tracks(gateway)), list(range(45)))
        instances = {event["instance"] for event in gateway.tail("presences")}
        self.assertEqual(len(instances), 2, instances)
        self.assertEqual(gateway.terminate(), 0)

    def test_stops(self) -> None:
        """
        A gateway that stops acks what it has taken, and says why it closes.
        """
        gateway = self.gateway()
        box = self.box(gateway).connect()
        box.block(makeBlock(0, 5))
        self.assertEqual(gateway.terminate(), 0)
        self.assertEqual(box.next(), values.Disconnect(Reason.SERVER_SHUTDOWN))
        self.assertIsNone(box.next())


class TlsTests(Md21Case):
    """
    TLS on the box's request.
    """

    def secured(self, *options: str, md21: str = "") -> GatewayProcess:
        """
        A gateway with a certificate.
        """
        folder = self.mktemp()
        os.makedirs(folder)
        certificate, key = Authority().issueServer().write(os.path.abspath(folder), "server")
        return self.gateway(f"--md21-cert={certificate}", f"--md21-key={key}", *options, md21=md21)

    def test_upgraded(self) -> None:
        """
        The box asks, is answered, and goes on inside; where TLS is required there is no other way.
        """
        gateway = self.secured("--md21-require-tls")
        box = self.box(gateway)
        box.send(makeHeader())
        self.assertEqual(box.next(), values.HeaderAck(HeaderStatus.TLS_REQUIRED))
        self.assertIsNone(box.next())
        box = self.box(gateway).secure().connect()
        box.send(*(makeBlock(first, 200) for first in range(0, 2000, 200)))
        for _ in range(10):
            box.expect(values.TrackingAck)
        self.assertEqual(self.tracks(gateway), list(range(2000)))
        self.assertEqual(gateway.terminate(), 0)

    def test_proxied(self) -> None:
        """
        TLS is for the link behind the PROXY header, whose address it keeps.
        """
        gateway = self.secured(md21="haproxy:tcp:{port}:interface=127.0.0.1")
        box = self.box(gateway)
        box.sock.sendall(b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 2100\r\n")
        box.secure().connect().block(makeBlock(1))
        self.assertEqual(gateway.tail("presences")[0]["presence"]["peer_address"], "192.0.2.9")
        self.assertEqual(gateway.terminate(), 0)
        self.assertEqual(box.next(), values.Disconnect(Reason.SERVER_SHUTDOWN))

    def test_attacker(self) -> None:
        """
        Bytes that an attacker injects behind the header, in one segment with it or right after it, end the link, and
        nothing of them is ever taken (CVE-2011-0411).
        """
        gateway = self.secured()
        asking = frame(encode(makeHeader(tls=True, secret=None)))
        injected = frame(encode(makeHeader("victim"))) + frame(encode(makeBlock(1)))
        for data in (asking + injected, asking + b"\0", asking + injected[:9]):
            box = self.box(gateway)
            box.sock.sendall(data)
            self.assertIsNone(box.next())
        box = self.box(gateway)
        box.sock.sendall(asking)
        self.assertEqual(box.next(), values.HeaderAck(HeaderStatus.TLS_ACCEPTED))
        box.sock.sendall(injected)
        # At most TLS's own alert comes back.
        while data := box.sock.recv(1000):
            self.assertEqual(data[0], 21)
        self.assertEqual((gateway.tail("presences"), gateway.tail()), ([], []))
        self.box(gateway).secure().connect().block(makeBlock(1))
        self.assertEqual(gateway.terminate(), 0)

    def test_unavailable(self) -> None:
        """
        Without a certificate a box that asks is told so.
        """
        box = self.box(self.gateway())
        box.send(makeHeader(tls=True))
        self.assertEqual(box.next(), values.HeaderAck(HeaderStatus.TLS_UNAVAILABLE))
        self.assertIsNone(box.next())

    def test_options(self) -> None:
        """
        What cannot be used ends the start with one line.
        """
        for options, told in (
            (("--md21-cert=/nowhere",), "--md21-key: is needed with --md21-cert"),
            (("--md21-key=/nowhere",), "--md21-cert: is needed with --md21-key"),
            (("--md21-cert=/nowhere", "--md21-key=/nowhere"), "--md21-cert: cert=/nowhere: No such file"),
            (("--md21-require-tls",), "--md21-require-tls: no box could have TLS"),
            (("--md21=tcp:0:interface=0.0.0.0",), "open: lets anybody in"),
            (("--md21-require-tls", "--workers=2"), "--md21-require-tls: no box could have TLS"),
        ):
            gateway = GatewayProcess(*options)
            self.addCleanup(gateway.close)
            self.assertIn(told, str(self.assertRaises(AssertionError, gateway.start)))


class MessageTests(Md21Case):
    """
    Messages, either way.
    """

    def sending(self, gateway: GatewayProcess, *arguments: str) -> subprocess.Popen[bytes]:
        """
        C{binaryserver-ctl send --json --wait}.
        """
        program = "import sys; from binaryserver.tools.ctl import main; sys.exit(main())"
        url = f"http://127.0.0.1:{gateway.httpPort}"
        started = subprocess.Popen(
            [sys.executable, "-c", program, "send", f"--http={url}", "--json", "--timeout=30", "--wait", *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.addCleanup(started.kill)
        return started

    def ended(self, sending: subprocess.Popen[bytes]) -> tuple[int, dict[str, Any]]:
        """
        Its exit status, and the last that it printed.
        """
        output, _ = sending.communicate(timeout=60)
        last: dict[str, Any] = json.loads(output.splitlines()[-1])
        return sending.returncode, last

    def test_bothWays(self) -> None:
        """
        A message is sent from a shell, acked by the link and answered by the application; one of the box's comes out.
        """
        gateway = self.gateway()
        box = self.box(gateway).connect(capabilities=Capabilities(dynamicChannels=True))
        self.presences(gateway, 1)
        sending = self.sending(gateway, ASSET, "config", "interval=30", "--want-ack", "--no-queue", "--id=m1")
        self.assertEqual(box.next(), values.ReconfigureMsg((Channel(1, "config"),)))
        got = box.expect(values.Message)
        self.assertEqual((got.channel, got.payload, got.serverId), (1, b"interval=30", serverId("m1")))
        box.send(
            values.MessageAck(MessageStatus.ACK, got.temporaryId),
            values.MessageAck(MessageStatus.ACK, 0, got.serverId, True),
            values.Message(5, 1, None, b"done"),
        )
        status, last = self.ended(sending)
        self.assertEqual(status, 0, last)
        self.assertIn("ACKED", str(last))
        ack = box.expect(values.MessageAck)
        self.assertEqual((ack.status, ack.temporaryId), (MessageStatus.ACK, 5))
        answer, message = (event["message"] for event in gateway.tail("messages"))
        self.assertEqual(answer["ack_of"], "m1")
        self.assertEqual((message["id"], message["channel"]), (str(ack.serverId), "config"))
        self.assertEqual(gateway.terminate(), 0)

    def test_refused(self) -> None:
        """
        A box that has nobody for a channel says so, and the sender learns it; so does the sender to a box that is away.
        """
        gateway = self.gateway()
        box = self.box(gateway).connect()
        self.presences(gateway, 1)
        sending = self.sending(gateway, ASSET, "nobody", "x")
        got = box.expect(values.Message)
        self.assertEqual((got.channel, got.channelName), (0, "nobody"))
        box.send(values.MessageAck(MessageStatus.BAD_CHANNEL, got.temporaryId))
        status, last = self.ended(sending)
        self.assertEqual(status, 1)
        self.assertIn("NO_LISTENER", str(last))
        box.close()
        self.presences(gateway, 2)
        status, last = self.ended(self.sending(gateway, ASSET, "config", "x", "--no-queue"))
        self.assertEqual(status, 1)
        self.assertIn("BOX_AWAY", str(last))

"""
Clients that nobody here wrote, on a real gateway: paho-mqtt, aiomqtt, mosquitto_pub and mosquitto_sub.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from typing import Any
from urllib.request import Request, urlopen

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from binaryserver.proto.md30_pb2 import (
    ACK_STATUS_NO_LISTENER,
    ACK_STATUS_NOT_UNDERSTOOD,
    ACK_STATUS_OK,
    IndexNotice,
    Message,
    TrackBatch,
)
from tests.certificates import Authority, replaceFile
from tests.gatewayprocess import GatewayProcess
from tests.harness import batch
from tests.services import requireProgram


def text(stream: int, first: int) -> str:
    """
    A batch of one track in JSON.
    """
    track = {"recorded_at": str(int(time.time() * 1000)), "latitude": 488566000, "longitude": 23522000}
    return json.dumps({"stream": str(stream), "first_index": str(first), "tracks": [track]})


class InteropTestCase(SynchronousTestCase):
    """
    Each with a gateway of its own.
    """

    def setUp(self) -> None:
        """
        Start the gateway.
        """
        self.gateway = GatewayProcess()
        self.addCleanup(self.gateway.close)
        self.gateway.start()

    def published(self, topic: str = "tracks") -> list[dict[str, Any]]:
        """
        What arrived.
        """
        return self.gateway.tail(topic)

    def indices(self) -> list[tuple[str, str]]:
        """
        Asset and index of what arrived.
        """
        return [(event["asset"], event["index"]) for event in self.published()]


class MosquittoTests(InteropTestCase):
    """
    mosquitto's command line clients.
    """

    def run_(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """
        Run one, against the gateway.
        """
        path = requireProgram(program, "mosquitto-clients")
        command = [path, "-h", "127.0.0.1", "-p", str(self.gateway.port), *arguments]
        return subprocess.run(command, capture_output=True, timeout=30)

    def test_publish(self) -> None:
        """
        QoS 0, 1 and 2, on the short and the long topic; again, and it is acked and not published again.
        """
        for qos, topic in (("1", "tj"), ("2", "boxes/box-1/tracks/json"), ("0", "tj"), ("1", "tj")):
            index = {"1": 1, "2": 2, "0": 3}[qos]
            done = self.run_(
                "mosquitto_pub", "-q", qos, "-i", "box-1", "-u", "acme", "-P", "x", "-t", topic, "-m", text(7, index)
            )
            self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(self.indices(), [("box-1", "1"), ("box-1", "2"), ("box-1", "3")])
        self.assertEqual({event["account"] for event in self.published()}, {"acme"})

    def test_foreignTopicIsNotAcked(self) -> None:
        """
        The link is closed.
        """
        done = self.run_("mosquitto_pub", "-q", "1", "-i", "box-1", "-t", "elsewhere", "-m", "x")
        self.assertNotEqual(done.returncode, 0)

    def test_will(self) -> None:
        """
        The reason that a box leaves behind is told when it is lost.
        """
        path = requireProgram("mosquitto_sub", "mosquitto-clients")
        arguments = ["-p", str(self.gateway.port), "-i", "box-1", "-t", "#", "--will-topic", "w"]
        box = subprocess.Popen([path, *arguments, "--will-payload", "PPP_LOST"])
        deadline = time.monotonic() + 10
        while not self.published("presences") and time.monotonic() < deadline:
            time.sleep(0.1)
        box.kill()
        box.wait()
        while len(self.published("presences")) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        presence = self.published("presences")[-1]["presence"]
        self.assertEqual((presence["reason"], presence["reason_from_box"]), ("PPP_LOST", True))

    def test_subscribe(self) -> None:
        """
        The index notice, with its topic as it was subscribed to.
        """
        self.run_("mosquitto_pub", "-q", "1", "-i", "box-1", "-t", "tj", "-m", text(7, 41))
        done = self.run_(
            "mosquitto_sub", "-i", "box-1", "-t", "boxes/box-1/index", "-C", "1", "-F", "%t %x", "-W", "10"
        )
        topic, payload = done.stdout.decode().split()
        self.assertEqual(topic, "boxes/box-1/index")
        self.assertEqual(IndexNotice.FromString(bytes.fromhex(payload)), IndexNotice(stream=7, last_index=41))

    def test_refusedFilter(self) -> None:
        """
        Another box's topics are not to be had.
        """
        done = self.run_("mosquitto_sub", "-d", "-i", "box-1", "-t", "boxes/other/index", "-W", "3")
        self.assertIn(b"Subscribed (mid: 1): 128", done.stdout)


class PahoTests(InteropTestCase):
    """
    Eclipse's paho-mqtt.
    """

    def client(self, asset: str, clean: bool = True) -> Any:
        """
        A client, not connected.
        """
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise SkipTest("paho-mqtt is missing: make test installs it") from None
        client = Client(CallbackAPIVersion.VERSION2, asset, clean)
        client.username_pw_set("acme", "secret")
        self.addCleanup(client.loop_stop)
        return client

    def test_manyInFlight(self) -> None:
        """
        A hundred PUBLISHes, twenty in flight, all acked; protobuf and messages.
        """
        client = self.client("box-1")
        client.connect("127.0.0.1", self.gateway.port)
        client.loop_start()
        sent = [client.publish("t", batch(n * 5, 5), qos=1) for n in range(100)]
        sent.append(client.publish("m", Message(channel="log", payload=b"x").SerializeToString(), qos=2))
        for one in sent:
            one.wait_for_publish(20)
            self.assertTrue(one.is_published())
        client.disconnect()
        self.assertEqual([int(index) for _, index in self.indices()], list(range(500)))
        self.assertEqual(len(self.published("messages")), 1)

    def test_sessionPresent(self) -> None:
        """
        A kept session is there at the next link, with its subscriptions; a clean one forgets it.
        """
        flags: list[bool] = []
        arrived = threading.Event()

        def connected(client: Any, userdata: object, flag: Any, reason: object, properties: object) -> None:
            flags.append(flag.session_present)
            arrived.set()

        for clean in (False, False, True, False):
            client = self.client("box-1", clean)
            client.on_connect = connected
            arrived.clear()
            client.connect("127.0.0.1", self.gateway.port)
            client.loop_start()
            self.assertTrue(arrived.wait(10))
            client.disconnect()
            client.loop_stop()
        self.assertEqual(flags, [False, True, False, False])

    def test_messages(self) -> None:
        """
        What the cloud sends waits for a box, comes again with DUP and its old packet id if the link broke before the
        ack, also to a kept session, and ends as its application answers.
        """
        for number in range(3):
            body = {"account": "acme", "asset": "box-1", "channel": "log", "id": f"m{number}", "text": "hi"}
            request = Request(
                f"http://127.0.0.1:{self.gateway.httpPort}/api/messages",
                json.dumps({**body, "want_ack": True}).encode(),
                {"content-type": "application/json"},
            )
            with urlopen(request, timeout=20) as answer:
                self.assertEqual(answer.status, 202)
        seen: list[tuple[str, bool, int]] = []
        arrived = threading.Semaphore(0)

        def received(client: Any, userdata: object, message: Any) -> None:
            read = Message.FromString(message.payload)
            seen.append((read.id, message.dup, message.mid))
            arrived.release()

        first = self.client("box-1", clean=False)
        first.manual_ack_set(True)
        first.on_message = received
        first.connect("127.0.0.1", self.gateway.port)
        first.loop_start()
        first.subscribe("d", 1)
        for _ in range(3):
            self.assertTrue(arrived.acquire(timeout=10))
        # Gone without a word, and without an ack.
        first.loop_stop()
        first.socket().close()
        second = self.client("box-1", clean=False)
        second.on_message = received
        second.connect("127.0.0.1", self.gateway.port)
        second.loop_start()
        for _ in range(3):
            self.assertTrue(arrived.acquire(timeout=10))
        self.assertEqual([(name, dup) for name, dup, _ in seen[:3]], [("m0", False), ("m1", False), ("m2", False)])
        self.assertEqual(seen[3:], [(name, True, mid) for name, _, mid in seen[:3]])
        for number, status in enumerate((ACK_STATUS_OK, ACK_STATUS_NO_LISTENER, ACK_STATUS_NOT_UNDERSTOOD)):
            reply = Message(channel="log", ack_of=f"m{number}", ack_status=status)
            second.publish("m", reply.SerializeToString(), qos=1).wait_for_publish(10)
        wanted = {"m0": ("ACKED", ""), "m1": ("REFUSED", "NO_LISTENER"), "m2": ("REFUSED", "NOT_UNDERSTOOD")}
        ended: dict[str, tuple[str, str]] = {}
        deadline = time.monotonic() + 10
        while ended != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
            statuses = [event["message_status"] for event in self.published("statuses")]
            ended = {
                one["message_id"]: (one["status"].removeprefix("DELIVERY_STATUS_"), one["reason"])
                for one in statuses
                if one["status"].endswith(("ACKED", "REFUSED", "EXPIRED", "REJECTED"))
            }
        self.assertEqual(ended, wanted)

    def test_takeover(self) -> None:
        """
        A second link of the same box closes the first, which is told of by presence.
        """
        gone = threading.Event()
        first = self.client("box-1")
        first.on_disconnect = lambda *_: gone.set()
        first.reconnect_delay_set(30, 60)
        first.connect("127.0.0.1", self.gateway.port)
        first.loop_start()
        first.publish("t", batch(1), qos=1).wait_for_publish(10)
        second = self.client("box-1")
        second.connect("127.0.0.1", self.gateway.port)
        second.loop_start()
        self.assertTrue(gone.wait(10))
        second.publish("t", batch(2), qos=1).wait_for_publish(10)
        deadline = time.monotonic() + 10
        while len(self.published("presences")) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        presences = [
            (event["presence"]["type"][14:], event["presence"]["reason"]) for event in self.published("presences")
        ]
        self.assertEqual(presences, [("CONNECT", ""), ("DISCONNECT", "TAKEOVER"), ("RECONNECT", "")])
        epochs = [int(event["link_epoch"]) for event in self.published("presences")]
        self.assertEqual(epochs[0], epochs[1])
        self.assertGreater(epochs[2], epochs[1])

    def test_refusals(self) -> None:
        """
        A client id that is no asset, and an account that is none, get MQTT's codes.
        """
        for asset, account, name in (
            ("no asset", "acme", "Client identifier not valid"),
            ("box-1", "no account", "Not authorized"),
        ):
            answers: list[str] = []
            arrived = threading.Event()
            client = self.client(asset)
            client.username_pw_set(account, "x")

            def connected(client: Any, userdata: Any, flag: Any, reason: object, properties: object) -> None:
                userdata[0].append(str(reason))
                userdata[1].set()

            client.user_data_set((answers, arrived))
            client.on_connect = connected
            client.connect("127.0.0.1", self.gateway.port)
            client.loop_start()
            self.assertTrue(arrived.wait(10))
            client.loop_stop()
            self.assertEqual(answers[0], name)


class AiomqttTests(InteropTestCase):
    """
    aiomqtt, on asyncio.
    """

    def test_publishAndNotice(self) -> None:
        """
        Ask for the index, send what is missing, ask again.
        """
        try:
            import aiomqtt
        except ImportError:
            raise SkipTest("aiomqtt is missing: make test installs it") from None

        async def box() -> list[int]:
            seen = []
            async with aiomqtt.Client("127.0.0.1", self.gateway.port, identifier="box-9") as client:
                await client.subscribe("i")
                await client.publish("t", batch(10, 5, stream=3), qos=1)
                await client.publish("i", b"", qos=0)
                async with asyncio.timeout(10):
                    async for message in client.messages:
                        seen.append(IndexNotice.FromString(message.payload).last_index)
                        break
            return seen

        self.assertEqual(asyncio.run(box()), [14])
        self.assertEqual(len(TrackBatch.FromString(batch(10, 5)).tracks), len(self.published()))


class TlsTests(SynchronousTestCase):
    """
    paho-mqtt over TLS, with and without a client certificate.
    """

    def test_certificate(self) -> None:
        """
        A box proves by its certificate who it is: account and asset come from there, and another client id is refused.
        """
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise SkipTest("paho-mqtt is missing: make test installs it") from None
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        authority = Authority()
        certificate, key = authority.issueServer().write(folder, "server")
        boxCertificate, boxKey = authority.issueClient("box-7", "acme").write(folder, "box")
        ca = os.path.join(folder, "ca.pem")
        replaceFile(ca, authority.certificatePem())
        gateway = GatewayProcess(md30=f"tls:{{port}}:interface=127.0.0.1:cert={certificate}:key={key}:clientca={ca}")
        self.addCleanup(gateway.close)
        gateway.start()
        for asset, isIn in (("box-7", True), ("box-8", False)):
            client = Client(CallbackAPIVersion.VERSION2, asset)
            client.tls_set(ca, boxCertificate, boxKey)
            answers: list[bool] = []
            arrived = threading.Event()

            def connected(client: Any, userdata: Any, flag: Any, reason: Any, properties: object) -> None:
                userdata[0].append(not reason.is_failure)
                userdata[1].set()

            client.user_data_set((answers, arrived))
            client.on_connect = connected
            client.connect("127.0.0.1", gateway.port)
            client.loop_start()
            self.assertTrue(arrived.wait(10))
            self.assertEqual(answers[0], isIn)
            if isIn:
                client.publish("t", batch(1), qos=1).wait_for_publish(10)
            client.disconnect()
            client.loop_stop()
        self.assertEqual([(event["account"], event["asset"]) for event in gateway.tail()], [("acme", "box-7")])

"""
Real gateway processes, with real boxes: killed, stopped, misconfigured.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from tests.gatewayprocess import GatewayProcess, boxesEnd, startBoxes
from tests.services import consumeAll, makeTopics, requireKafka, uniquePrefix

FLEET = ("--boxes=8", "--tracks=600", "--batch=3", "--rate=300", "--seed=4", "--reconnect-delay=0.2")


def names(events: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """
    What names each track for ever.
    """
    return [(event["asset"], event["stream"], int(event["index"])) for event in events]


class GatewayTests(SynchronousTestCase):
    """
    One process, or a parent with workers.
    """

    def gateway(self, *options: str, **settings: str) -> GatewayProcess:
        """
        A gateway, started; gone at the end of the test.
        """
        gateway = GatewayProcess(*options, **settings)
        self.addCleanup(gateway.close)
        return gateway.start()

    def assertWhole(self, events: list[dict[str, Any]], boxes: int, tracks: int, isOnce: bool = True) -> None:
        """
        Every track of every box is there, in order; and once.
        """
        counts = Counter(names(events))
        self.assertEqual(len(counts), boxes * tracks)
        if isOnce:
            self.assertEqual(set(counts.values()), {1})
        last: dict[str, int] = {}
        for asset, _, index in dict.fromkeys(names(events)):
            self.assertGreater(index, last.get(asset, -1))
            last[asset] = index

    def test_plain(self) -> None:
        """
        Boxes send, everything is acked, is there once and in order, and the stop is clean: status 0, presence says why.
        """
        gateway = self.gateway()
        sums = boxesEnd(startBoxes(gateway.port, "--boxes=10", "--tracks=200", "--batch=7"))
        self.assertEqual(sums["acked"], 2000)
        self.assertWhole(gateway.tail(), 10, 200)
        presences = Counter[str]()
        deadline = time.monotonic() + 10
        while presences.total() < 20 and time.monotonic() < deadline:
            presences = Counter(event["presence"]["type"] for event in gateway.tail("presences"))
        self.assertEqual(presences, {"PRESENCE_TYPE_CONNECT": 10, "PRESENCE_TYPE_DISCONNECT": 10})
        self.assertEqual(gateway.terminate(), 0)

    def test_badNetwork(self) -> None:
        """
        Links cut and acks lost: boxes send again, downstream sees each track once.
        """
        gateway = self.gateway()
        sums = boxesEnd(startBoxes(gateway.port, *FLEET, "--cut-every=0.5", "--lose-acks=0.05", "--resend-after=0.5"))
        self.assertGreater(sums["resent"], 0)
        self.assertWhole(gateway.tail(), 8, 600)

    def test_killed(self) -> None:
        """
        G1: C{kill -9} in the midst of it, twice. What the boxes were told is there; a resend after a crash between
        commit and mark has the same name.
        """
        gateway = self.gateway()
        boxes = startBoxes(gateway.port, *FLEET)
        for count in (400, 1500):
            gateway.awaitTracks(count)
            gateway.kill9()
            gateway.start()
        sums = boxesEnd(boxes)
        self.assertGreater(sums["connects"], 8)
        self.assertWhole(gateway.tail(), 8, 600, isOnce=False)

    def test_stoppedAndStartedAgain(self) -> None:
        """
        SIGTERM under load drains: nothing is sent again that was durable, and nothing is doubled.
        """
        gateway = self.gateway()
        boxes = startBoxes(gateway.port, *FLEET)
        gateway.awaitTracks(400)
        self.assertEqual(gateway.terminate(), 0)
        gateway.start()
        boxesEnd(boxes)
        self.assertWhole(gateway.tail(), 8, 600)
        reasons = {event["presence"]["reason"] for event in gateway.tail("presences")}
        self.assertIn("SERVER_SHUTDOWN", reasons)

    def test_workers(self) -> None:
        """
        Links move between two workers, and one of them is killed: the parent starts it again, nothing acked is lost,
        and order holds.
        """
        gateway = self.gateway("--workers=2")
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
        self.assertEqual(len(children), 2)
        boxes = startBoxes(gateway.port, *FLEET, "--cut-every=0.7")
        gateway.awaitTracks(400)
        os.kill(int(children[0]), signal.SIGKILL)
        boxesEnd(boxes)
        events = gateway.tail()
        self.assertWhole(events, 8, 600, isOnce=False)
        self.assertEqual(len({event["instance"] for event in events}), 2)
        again = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
        self.assertEqual(len(again), 2)
        self.assertEqual(gateway.terminate(), 0)

    def test_linksMoveBetweenWorkers(self) -> None:
        """
        G2 over workers: boxes that are cut and come back anywhere, with what they sent in flight, double nothing.
        """
        gateway = self.gateway("--workers=2")
        boxesEnd(startBoxes(gateway.port, *FLEET, "--cut-every=0.3"))
        self.assertWhole(gateway.tail(), 8, 600)
        self.assertEqual(gateway.terminate(), 0)

    def test_workersEndWithTheirParent(self) -> None:
        """
        C{kill -9} of the parent: its workers notice and end.
        """
        gateway = self.gateway("--workers=2")
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
        gateway.kill9()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual([child for child in children if Path(f"/proc/{child}").exists()], [])

    def test_kafka(self) -> None:
        """
        The whole way into a real Kafka, over cut links: what was acked is there, once each, in order.
        """
        address = requireKafka()
        prefix = uniquePrefix()
        topics = Topics.named(prefix)
        makeTopics(address, topics.all)
        gateway = self.gateway(f"--topic-prefix={prefix}", bus=f"kafka://{address}")
        boxesEnd(startBoxes(gateway.port, *FLEET, "--cut-every=0.5"))
        found = [headers["ce_id"] for *_, headers in consumeAll(address, [topics.tracks])]
        self.assertEqual((len(found), len(set(found))), (4800, 4800))
        self.assertWhole(gateway.tail(), 8, 600)
        self.assertEqual(gateway.terminate(), 0)

    def refusal(self, *options: str) -> tuple[int, str]:
        """
        Exit status and standard error of a gateway that does not start.
        """
        gateway = GatewayProcess(*options)
        self.addCleanup(gateway.close)
        done = subprocess.run(gateway.command(), capture_output=True, timeout=40, cwd=gateway.folder)
        return done.returncode, done.stderr.decode()

    def test_badConfiguration(self) -> None:
        """
        One line that names the option, no usage text, status 1.
        """
        for option, words in (
            ("--flush-interval=soon", "'soon' is not a number of seconds"),
            ("--window=0", "'0' is not a whole number of at least 1"),
            ("--bus=carrier-pigeon:", "names no back end"),
            ("--bus=sqlite:/dev/null/x", "/dev/null/x"),
            ("--sessions=sqlite:/dev/null/x", "/dev/null/x"),
            ("--directory=ldap://nobody", "names no back end"),
            ("--md30=tcp:0:interface=0.0.0.0", "open: lets anybody in"),
            ("--md30=tls:0:cert=/nowhere:key=/nowhere", "/nowhere"),
            ("--md30=nonsense", "nonsense"),
            ("--md30=tcp:80000:interface=127.0.0.1", "port must be 0-65535"),
            ("--md30=unix:/nowhere/x", "No such file or directory"),
            ("--http=tcp:0:interface=0.0.0.0", "must be on a loopback address"),
            ("--config=/nowhere", "/nowhere: No such file"),
        ):
            status, output = self.refusal(option)
            self.assertEqual(status, 1, option)
            lines = [line for line in output.splitlines() if line.startswith("binaryserver: ")]
            self.assertEqual(len(lines), 1, output)
            self.assertTrue(lines[0].startswith(f"binaryserver: {option.partition('=')[0]}: "), lines[0])
            self.assertIn(words, lines[0])
            self.assertNotIn("Usage:", output)

    def test_missingTopics(self) -> None:
        """
        Without its topics the gateway does not start, and says how to make them.
        """
        status, output = self.refusal(f"--bus=kafka://{requireKafka()}", f"--topic-prefix={uniquePrefix()}")
        self.assertEqual(status, 1)
        self.assertIn("binaryserver-ctl topics create --bus", output)

"""
An upgrade in the middle of the day: three real gateways behind a real HAProxy, restarted in turn under load.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.proto import cloudnext_pb2
from tests.certificates import Authority
from tests.gatewayprocess import GatewayProcess, startFleet
from tests.integration.balancer import CONFIGURATIONS, Balancer, program
from tests.integration.instances import InstancesTestCase
from tests.services import freePort

NAMES = ("a", "b", "c")
ADDRESSES = {"a": "10.0.0.11", "b": "10.0.0.12", "c": "10.0.0.13"}
PEM = "/etc/haproxy/binaryserver.pem"

BOXES = 6
TRACKS = 800
RATE = 20
FLEETS = {
    "plain": ("350000000000001", "tcp", "--batch=2"),
    "tls": ("350000000000101", "tls", "--batch=2"),
    "terminated": ("350000000000201", "tls", "--batch=2", "--qos=2"),
    "md21": ("350000000000301", "tcp", "--batch=5", "--protocol=md21"),
}
"""By name: the first asset, how they connect, and what else they are told."""

CONNECT, RECONNECT, DISCONNECT = (
    cloudnext_pb2.PRESENCE_TYPE_CONNECT,
    cloudnext_pb2.PRESENCE_TYPE_RECONNECT,
    cloudnext_pb2.PRESENCE_TYPE_DISCONNECT,
)


class ConfigurationTests(SynchronousTestCase):
    """
    The configurations as operators are given them.
    """

    def test_valid(self) -> None:
        """
        HAProxy finds nothing wrong with any of them, nor anything to warn of.
        """
        certificate = Path(self.mktemp())
        issued = Authority().issueServer()
        certificate.write_bytes(issued.certificatePem() + issued.keyPem())
        found = sorted(path.name for path in CONFIGURATIONS.glob("*.cfg"))
        self.assertEqual(found, ["passthrough.cfg", "termination.cfg"])
        for name in found:
            balancer = Balancer(name, {PEM: str(certificate.absolute())} if name == "termination.cfg" else {}, ())
            self.addCleanup(balancer.close)
            self.assertEqual(balancer.check(), "")


class RollingTests(InstancesTestCase):
    """
    Three instances on one Kafka and one Redis, two balancers, four fleets.
    """

    def setUp(self) -> None:
        super().setUp()
        program()
        folder = Path(self.mktemp())
        folder.mkdir()
        authority = Authority()
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(authority.certificatePem())
        issued = authority.issueServer()
        self.certificate, self.key = issued.write(str(folder.absolute()), "server")
        both = folder / "both.pem"
        both.write_bytes(issued.certificatePem() + issued.keyPem())
        self.tlsPorts = {name: freePort() for name in NAMES}
        self.gateways = {name: self.behind(name) for name in NAMES}
        places, plain = {}, {}
        for name, gateway in self.gateways.items():
            check = f"check port {gateway.httpPort}"
            for port, mine in ((1883, gateway.port), (8883, self.tlsPorts[name]), (2100, gateway.md21Port)):
                places[f"{ADDRESSES[name]}:{port} check port 8080"] = f"127.0.0.1:{mine} {check}"
            plain[f"{ADDRESSES[name]}:1883 check port 8080"] = f"127.0.0.1:{gateway.port} {check}"
        self.passing = Balancer("passthrough.cfg", places, (":1883", ":8883", ":2100"))
        self.terminating = Balancer("termination.cfg", {**plain, PEM: str(both.absolute())}, (":8883",))
        for balancer in (self.passing, self.terminating):
            self.addCleanup(balancer.close)
            balancer.start()

    def behind(self, name: str) -> GatewayProcess:
        """
        A gateway as the configurations want it, started.
        """
        files = f"cert={self.certificate}:key={self.key}"
        gateway = GatewayProcess(
            f"--topic-prefix={self.prefix}",
            f"--instance={name}",
            f"--sessions=redis://{self.redis}?prefix={self.prefix}",
            f"--md30=tls:{self.tlsPorts[name]}:interface=127.0.0.1:{files}:proxy=yes",
            "--drain-delay=4",
            bus=f"kafka://{self.kafka}",
            md30="haproxy:tcp:{port}:interface=127.0.0.1",
            md21="haproxy:tcp:{port}:interface=127.0.0.1",
            http=f"tls:{{port}}:interface=127.0.0.1:{files}",
        )
        self.addCleanup(gateway.close)
        return gateway.start()

    def go(self, name: str) -> subprocess.Popen[bytes]:
        """
        A fleet sets off; its boxes stay until they are told to leave.
        """
        first, scheme, *options = FLEETS[name]
        balancer = self.terminating if name == "terminated" else self.passing
        port = balancer.ports[":2100" if name == "md21" else ":8883" if scheme == "tls" else ":1883"]
        boxes = startFleet(
            [],
            f"--connect={scheme}:127.0.0.1:{port}",
            *(["--ca", str(self.ca)] if scheme == "tls" else []),
            f"--boxes={BOXES}",
            f"--tracks={TRACKS}",
            f"--rate={RATE}",
            f"--first-asset={first}",
            "--reconnect-delay=0.2",
            "--stay",
            "--quiet",
            *options,
        )

        def end() -> None:
            if boxes.poll() is None:
                boxes.kill()
                boxes.communicate()

        self.addCleanup(end)
        return boxes

    def tracks(self) -> list[cloudnext_pb2.Event]:
        """
        All that have arrived.
        """
        return self.events(self.topics.tracks)

    def restart(self, name: str) -> None:
        """
        One instance goes and comes back, as in an upgrade.
        """
        gateway = self.gateways[name]
        self.assertEqual(gateway.terminate(), 0, gateway.log()[-3000:])
        gateway.start()
        for balancer in (self.passing, self.terminating):
            balancer.awaitState(name, "UP")

    def test_rolling(self) -> None:
        """
        Every track that was acked is in Kafka, once; every box that lost its link is back, and told so; no instance
        was cut short; the balancers saw each go before it went.
        """
        for balancer in (self.passing, self.terminating):
            for name in NAMES:
                balancer.awaitState(name, "UP")
        fleets = {name: self.go(name) for name in FLEETS}
        everybody = BOXES * len(FLEETS)
        self.until(lambda: len(self.present()) == everybody, 20, "everybody is there")
        for name in NAMES:
            self.restart(name)
        self.assertLess(len(self.tracks()), everybody * TRACKS, "the load ended before the restarts did")
        self.until(lambda: len(self.tracks()) >= everybody * TRACKS, 60, "all tracks")
        self.until(lambda: len(self.present()) == everybody, 15, "everybody is there again")
        self.checkPresences(everybody)
        self.checkBalancers()
        sums = {}
        for name, boxes in fleets.items():
            boxes.send_signal(signal.SIGTERM)
            output, _ = boxes.communicate(timeout=30)
            sums[name] = json.loads(output)
            self.assertEqual(boxes.returncode, 0, sums[name])
            self.assertEqual(sums[name]["acked"], BOXES * TRACKS, sums[name])
        self.checkTracks()
        for gateway in self.gateways.values():
            os.kill(gateway.pid, signal.SIGTERM)
        for gateway in self.gateways.values():
            self.assertEqual(gateway.wait(), 0)

    def checkTracks(self) -> None:
        """
        Each is there, once.
        """
        indices: dict[str, Counter[Any]] = defaultdict(Counter)
        for event in self.tracks():
            isMd21 = event.asset >= FLEETS["md21"][0]
            indices[event.asset][event.track.recorded_at if isMd21 else (event.stream, event.index)] += 1
        self.assertEqual(len(indices), BOXES * len(FLEETS))
        for asset, counts in indices.items():
            self.assertEqual(set(counts.values()), {1}, f"{asset}: some are there more than once")
            self.assertEqual(len(counts), TRACKS, f"{asset}: some are missing")

    def checkPresences(self, everybody: int) -> None:
        """
        A consumer that keeps the highest epoch of each box never thinks that one is gone for long: it comes once, and
        comes back each time.
        """
        byBox: dict[str, list[cloudnext_pb2.Event]] = defaultdict(list)
        for event in self.events(self.topics.presences):
            byBox[event.asset].append(event)
        self.assertEqual(len(byBox), everybody)
        back = 0
        for asset, events in byBox.items():
            # Of one epoch, the end comes after the beginning.
            events.sort(key=lambda event: (event.link_epoch, event.presence.type == DISCONNECT))
            kinds = [event.presence.type for event in events]
            self.assertEqual(kinds[0], CONNECT, asset)
            self.assertNotIn(CONNECT, kinds[1:], f"{asset}: a return was told as a first time")
            self.assertEqual(kinds[-1], RECONNECT if len(kinds) > 1 else CONNECT, f"{asset}: it was left as gone")
            gone = [event for event in events if event.presence.type == DISCONNECT]
            self.assertEqual({event.presence.reason for event in gone} - {"SERVER_SHUTDOWN"}, set(), asset)
            self.assertEqual(len(gone), kinds.count(RECONNECT), asset)
            back += len(gone)
        # Each of the three had boxes when it went.
        self.assertGreaterEqual(back, everybody)

    def checkBalancers(self) -> None:
        """
        Each server was marked down by its health, once, and no box met one that was not there.
        """
        for balancer in (self.passing, self.terminating):
            for place, row in balancer.statistics().items():
                self.assertEqual((row["status"], row["chkdown"]), ("UP", "1"), place)
                self.assertEqual((row["econ"], row["wretr"], row["wredis"]), ("0", "0", "0"), place)

"""
Tests for L{binaryserver.metrics.instance}: what an instance tells.
"""

from __future__ import annotations

from pathlib import Path
from re import findall
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.door import DoorCounts
from binaryserver.errors import DirectoryUnavailable
from binaryserver.gateway import Limits
from binaryserver.metrics.families import asText
from binaryserver.metrics.histogram import Histogram
from binaryserver.metrics.instance import GatewayCollector
from binaryserver.metrics.links import MAX_ACCOUNTS, bounded
from binaryserver.metrics.process import ProcessCollector
from binaryserver.metrics.tls import TlsCollector
from binaryserver.metrics.workers import WorkersCollector
from binaryserver.session.line import Pause
from binaryserver.workers.supervisor import Supervisor
from tests.admission.handdirectory import HandDirectory
from tests.harness import Box as Client
from tests.harness import HandBus, World

DOCUMENTED = "docs/metrics.md"


class InstanceCase(SynchronousTestCase):
    """
    A gateway, and its numbers.
    """

    def setUp(self) -> None:
        self.world = World()
        self.watch(self.world)

    def watch(self, world: World) -> None:
        """
        Look at this one.
        """
        self.door = DoorCounts()
        self.lag: int | None = None
        self.collector = GatewayCollector(world.gateway, self.door, lambda: self.lag, lambda: 5)

    def families(self) -> dict[str, Any]:
        """
        All families as a scraper reads them, by their names.
        """
        text = asText(self.collector.collect()).decode()
        return {one.name: one for one in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        """
        One sample.
        """
        for family in self.families().values():
            for sample in family.samples:
                if sample.name == f"binaryserver_{name}" and sample.labels == labels:
                    return float(sample.value)
        raise AssertionError(f"there is no {name} {labels}")


class AtStartTests(InstanceCase):
    """
    Before anything has come.
    """

    def test_zero(self) -> None:
        """
        Every family has samples, and all are 0 but what is a limit, and buckets.
        """
        families = self.families()
        self.assertGreater(len(families), 50)
        others = {"binaryserver_producer_window_bytes", "binaryserver_mailbox_messages"}
        for name, family in families.items():
            self.assertTrue(family.samples, name)
            self.assertTrue(name.startswith("binaryserver_"), name)
            self.assertTrue(family.documentation.endswith("."), name)
            if name not in others:
                self.assertEqual({sample.value for sample in family.samples}, {0.0}, name)

    def test_same(self) -> None:
        """
        What is there later was there at the start: no query is without an answer, whatever has not happened yet.
        """
        before = {name: len(family.samples) for name, family in self.families().items()}
        box = self.world.box()
        box.tracks(0, 3)
        box.publish("t", b"nonsense", 2)
        box.lose()
        self.assertEqual({name: len(family.samples) for name, family in self.families().items()}, before)


class CountedTests(InstanceCase):
    """
    What boxes do.
    """

    def test_counters(self) -> None:
        """
        What is counted is told.
        """
        box = self.world.box()
        box.tracks(0, 3, packetId=1)
        box.tracks(0, 3, packetId=2)
        box.tracks(10, 2, packetId=3)
        box.publish("t", b"nonsense", 4)
        values = {
            name: self.value(f"{name}_total") for name in ("connects", "tracks", "duplicates", "holes", "rejects")
        }
        self.assertEqual(values, {"connects": 1, "tracks": 5, "duplicates": 3, "holes": 1, "rejects": 1})
        self.assertEqual(self.value("links", protocol="md30", account="dev"), 1)

    def test_links(self) -> None:
        """
        A box that is here, one that is not yet, one that was taken over, and one that has left.
        """
        box = self.world.box()
        Client(self.world, "350000000000002")
        self.assertEqual((self.value("links", protocol="md30", account="dev"), self.value("links_arriving")), (1, 1))
        again = self.world.box()
        box.lose()
        self.assertEqual((self.value("links", protocol="md30", account="dev"), self.value("links_arriving")), (1, 1))
        again.lose()
        self.assertEqual((self.value("links", protocol="md30", account=""), self.value("links_arriving")), (0, 1))

    def test_traffic(self) -> None:
        """
        Bytes and packets, either way.
        """
        box = self.world.box()
        came, packets = (self.value(f"received_{what}_total", protocol="md30") for what in ("bytes", "packets"))
        sent = self.value("sent_bytes_total", protocol="md30")
        self.assertEqual((sent, packets), (4, 1))
        box.send(b"\xc0\x00")
        self.assertEqual(self.value("received_bytes_total", protocol="md30"), came + 2)
        self.assertEqual(self.value("received_controls_total", protocol="md30"), 1)
        self.assertEqual(self.value("sent_bytes_total", protocol="md30"), sent + 2)
        self.assertEqual(self.value("received_bytes_total", protocol="md21"), 0)

    def test_accounts(self) -> None:
        """
        The accounts with the most links have a number of their own, the rest one together.
        """

        names = [f"a{number}" for number in range(MAX_ACCOUNTS + 20)]
        links = {("md30", name): 1 + (number < MAX_ACCOUNTS) for number, name in enumerate(names)}
        found = bounded(links)
        self.assertEqual(len(found), MAX_ACCOUNTS + 1)
        self.assertEqual(found["md30", "other"], 20)
        self.assertEqual(found["md30", "a0"], 2)


class WaitingTests(InstanceCase):
    """
    What the bus does not have yet.
    """

    def test_ackLatency(self) -> None:
        """
        Each PUBLISH is noted with the time from when it was taken to its ack.
        """
        self.world.bus.isOpen = False
        box = self.world.box()
        self.world.bus.commit()
        box.tracks(0, 1, packetId=1)
        self.world.wait(0.2)
        box.tracks(1, 1, packetId=2)
        self.world.wait(0.1)
        self.assertEqual(self.value("ack_seconds_count"), 0)
        self.world.bus.commit()
        self.world.bus.commit()
        self.assertEqual(box.acks(), [1, 2])
        self.assertEqual(self.value("ack_seconds_count"), 2)
        self.assertAlmostEqual(self.value("ack_seconds_sum"), 0.4, 3)

    def test_transcoding(self) -> None:
        """
        What one read brought is one observation of the time from the box's form to the cloud's.
        """
        box = self.world.box()
        box.tracks(0, 20)
        self.assertEqual(self.value("transcode_seconds_count"), 1)
        self.assertGreater(self.value("transcode_seconds_sum"), 0)
        box.publish("m", b"", 2)
        self.assertEqual(self.value("transcode_seconds_count"), 1)

    def test_unackedAge(self) -> None:
        """
        The age of the oldest data that is not durable; it stays when the link is gone, and goes with the commit.
        """
        self.world.bus.isOpen = False
        box = self.world.box()
        self.world.bus.commit()
        box.tracks(0, 1, packetId=1)
        self.world.wait(2)
        self.world.box("350000000000002").tracks(0, 1)
        self.world.wait(1)
        self.assertAlmostEqual(self.value("unacked_age_seconds"), 3, 3)
        self.assertGreater(self.value("producer_pending_bytes"), 100)
        box.lose()
        self.assertAlmostEqual(self.value("unacked_age_seconds"), 3, 3)
        self.world.bus.commit()
        self.assertAlmostEqual(self.value("unacked_age_seconds"), 1, 3)
        while self.world.bus.waiting:
            self.world.bus.commit()
            self.world.turn()
        self.assertEqual(self.value("unacked_age_seconds"), 0)
        self.assertEqual((self.value("producer_flushes_total"), self.value("producer_errors_total")), (2, 0))

    def test_errors(self) -> None:
        """
        A flush that the bus did not take is one that is not under way any more.
        """
        self.world.bus.isOpen = False
        box = self.world.box()
        self.world.bus.commit()
        box.tracks(0, 1)
        self.world.bus.fail()
        self.assertEqual((self.value("producer_flushes_total"), self.value("producer_errors_total")), (1, 1))
        self.assertEqual(self.value("unacked_age_seconds"), 0)

    def test_held(self) -> None:
        """
        Data that has to wait before the bus is handed it has an age too, and its link a cause.
        """
        world = World(Limits(globalWindow=1, batchDeadline=60.0), bus=HandBus())
        self.watch(world)
        box = world.box()
        world.bus.isOpen = False
        box.tracks(0, 1)
        world.wait(4)
        self.assertAlmostEqual(self.value("unacked_age_seconds"), 4, 3)
        self.assertEqual(self.value("links_paused", cause="globalWindow"), 1)
        self.assertEqual(self.value("links_paused", cause="handover"), 0)
        box.link.pause(Pause.handover)
        self.assertEqual(self.value("links_paused", cause="handover"), 1)

    def test_consumerLag(self) -> None:
        """
        What the consumer knows; that it does not is told apart.
        """
        self.assertEqual((self.value("consumer_lag"), self.value("consumer_lag_known")), (0, 0))
        self.lag = 7
        self.assertEqual((self.value("consumer_lag"), self.value("consumer_lag_known")), (7, 1))


class DirectoryTests(InstanceCase):
    """
    The directory.
    """

    def test_failing(self) -> None:
        """
        Since when its source does not answer; once it does again, that is over.
        """
        source = HandDirectory()
        world = World(directory=source)
        self.watch(world)
        source.isAway = True
        self.failureResultOf(world.directory.account("a"), DirectoryUnavailable)
        world.wait(3)
        self.failureResultOf(world.directory.account("b"), DirectoryUnavailable)
        world.wait(2)
        self.assertAlmostEqual(self.value("directory_failing_seconds"), 5, 3)
        source.isAway = False
        self.assertIsNone(self.successResultOf(world.directory.account("c")))
        self.assertEqual(self.value("directory_failing_seconds"), 0)
        self.assertEqual(self.value("directory_answers_total", by="source"), 3)


class DocumentedTests(InstanceCase):
    """
    The documentation.
    """

    def test_each(self) -> None:
        """
        Every family stands in docs/metrics.md, and nothing else does.
        """
        others = [ProcessCollector("a", 0.0, Histogram((1.0,))), TlsCollector()]
        names = set(self.families())
        for one in others:
            names |= {family.name for family in one.collect()}

        parent = Supervisor(self.world.clock, {"instance": "a", "workers": 2}, ())
        names |= {family.name for family in WorkersCollector(parent).collect()}
        text = (Path(__file__).resolve().parent.parent.parent / DOCUMENTED).read_text()
        rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `binaryserver_")]
        documented = {name.removesuffix("_total") for row in rows for name in findall(r"`(\w+)`", row)}
        self.assertEqual(documented, names)

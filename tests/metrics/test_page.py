"""
Tests for L{binaryserver.metrics.page}: C{/metrics}; and for what workers' answers become on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.metrics.families import CONTENT_TYPE, asText, counter, gauges, histogram, merged, toJson
from binaryserver.metrics.histogram import Histogram
from binaryserver.ops.access import Access
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.ops.test_http import Client

FAMILIES = [counter("a", "One.", 3), gauges("b", "Two.", "kind", {"x": 1, "y": 2})]


class PageTests(SynchronousTestCase):
    """
    The page.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[Iterable[Metric]]] = []
        self.site = self.makeSite(None)

    def makeSite(self, access: Access | None) -> object:
        """
        A site with it.
        """
        context = BackEndContext(self.clock, "--test")
        bus, store = MemoryBus("memory:", context), MemorySessionStore("memory:", context)
        return makeSite(bus, store, Topics.named(), self.clock, access=access, gather=self.gather)

    def gather(self) -> Deferred[Iterable[Metric]]:
        """
        Families, once the test gives them.
        """
        self.asked.append(Deferred())
        return self.asked[-1]

    def test_text(self) -> None:
        """
        Prometheus's text format, which says so.
        """
        client = Client(self.site).send("/metrics")
        self.asked[0].callback(FAMILIES)
        client.read()
        self.assertEqual((client.status, client.headers["content-type"]), (200, CONTENT_TYPE))
        self.assertEqual(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
        self.assertEqual(
            client.body.decode(),
            "# HELP binaryserver_a_total One.\n# TYPE binaryserver_a_total counter\nbinaryserver_a_total 3.0\n"
            "# HELP binaryserver_b Two.\n# TYPE binaryserver_b gauge\n"
            'binaryserver_b{kind="x"} 1.0\nbinaryserver_b{kind="y"} 2.0\n',
        )

    def test_together(self) -> None:
        """
        Who asks meanwhile has the same answer; who asks later asks anew. One that is gone is not missed.
        """
        clients = [Client(self.site).send("/metrics") for _ in range(3)]
        self.assertEqual(len(self.asked), 1)
        clients[1].lose()
        self.asked[0].callback(FAMILIES)
        self.assertEqual([clients[0].read().status, clients[2].read().status], [200, 200])
        Client(self.site).send("/metrics")
        self.assertEqual(len(self.asked), 2)

    def test_fault(self) -> None:
        """
        A fault of ours is told as such, and the next one is asked again.
        """
        client = Client(self.site).send("/metrics")
        self.asked[0].errback(ZeroDivisionError())
        self.assertEqual(client.read().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        Client(self.site).send("/metrics")
        self.assertEqual(len(self.asked), 2)

    def test_access(self) -> None:
        """
        It is under the rules of all that is not health.
        """
        self.assertEqual(Client(self.site).send("/metrics", "GET", "Host: example.org").status, 403)
        self.site = self.makeSite(Access(self.clock, None, True))
        self.assertEqual(Client(self.site).send("/metrics").status, 403)
        self.assertEqual(self.asked, [])

    def test_others(self) -> None:
        """
        Only GET, and nothing below.
        """
        self.assertEqual(Client(self.site).send("/metrics", "DELETE").status, 405)
        self.assertEqual(Client(self.site).send("/metrics/a").status, 404)


class MergedTests(SynchronousTestCase):
    """
    Several processes' families on one page.
    """

    def test_merged(self) -> None:
        """
        Each sample has a label more, and each family one head.
        """
        observed = Histogram((0.5,))
        observed.observe(0.25, 2)
        families = [*FAMILIES, histogram("c_seconds", "Three.", observed)]
        text = asText(merged({"0": toJson(families), "1": toJson(FAMILIES[:1])})).decode()
        self.assertEqual(text.count("# TYPE binaryserver_a_total"), 1)
        found = {one.name: one for one in text_string_to_metric_families(text)}
        self.assertEqual(
            [(sample.labels, sample.value) for sample in found["binaryserver_a"].samples],
            [({"worker": "0"}, 3.0), ({"worker": "1"}, 3.0)],
        )
        buckets = {
            sample.labels.get("le", sample.name): sample.value for sample in found["binaryserver_c_seconds"].samples
        }
        self.assertEqual(
            buckets,
            {"0.5": 2, "+Inf": 2, "binaryserver_c_seconds_count": 2, "binaryserver_c_seconds_sum": 0.5},
        )

    def test_none(self) -> None:
        """
        Without anybody there is nothing.
        """
        self.assertEqual(asText(merged({})), b"")

"""
C{/metrics} of real gateways.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.metrics.families import CONTENT_TYPE
from tests.gatewayprocess import GatewayProcess, boxesEnd, startBoxes
from tests.services.influx import DATABASE, InfluxProcess

Samples = dict[tuple[str, str], float]
"""By name and worker, summed over all other labels."""


class MetricsTests(SynchronousTestCase):
    """
    Gateways that boxes have sent something to.
    """

    def start(self, *options: str) -> GatewayProcess:
        """
        One of them.
        """
        gateway = GatewayProcess(*options)
        self.addCleanup(gateway.close)
        gateway.start()
        boxesEnd(startBoxes(gateway.port, "--boxes=8", "--tracks=50", "--batch=5"))
        return gateway

    def scrape(self, gateway: GatewayProcess) -> Samples:
        """
        What it tells.
        """
        with urlopen(f"http://127.0.0.1:{gateway.httpPort}/metrics", timeout=10) as answer:
            self.assertEqual(answer.headers["content-type"], CONTENT_TYPE)
            text = answer.read().decode()
        found: Samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                place = sample.name.removeprefix("binaryserver_"), sample.labels.get("worker", "")
                found[place] = found.get(place, 0) + sample.value
        return found

    def test_single(self) -> None:
        """
        One process: what boxes sent, what the process costs, and nothing that is not durable.
        """
        samples = self.scrape(self.start())
        self.assertEqual(samples["tracks_total", ""], 400)
        self.assertEqual(samples["connects_total", ""], 8)
        self.assertEqual(samples["unacked_age_seconds", ""], 0)
        self.assertEqual(samples["ack_seconds_count", ""], 80)
        self.assertGreater(samples["process_resident_memory_bytes", ""], 20e6)
        self.assertGreater(samples["process_cpu_seconds_total", ""], 0.1)
        self.assertGreater(samples["process_open_fds", ""], 5)
        self.assertGreater(samples["store_calls_total", ""], 8)

    def test_workers(self) -> None:
        """
        The parent tells for all; a worker that stands still is left out within a second, and is there again later.
        """
        gateway = self.start("--workers=2")
        samples = self.scrape(gateway)
        self.assertEqual(samples["tracks_total", "0"] + samples["tracks_total", "1"], 400)
        self.assertEqual(samples["workers_running", "parent"], 2)
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
        frozen = int(children[0])
        os.kill(frozen, signal.SIGSTOP)
        try:
            began = time.monotonic()
            samples = self.scrape(gateway)
            self.assertLess(time.monotonic() - began, 2.5)
        finally:
            os.kill(frozen, signal.SIGCONT)
        self.assertEqual(len({worker for name, worker in samples if name == "tracks_total"}), 1)
        self.assertEqual(samples["workers_unanswered_total", "parent"], 1)
        samples = self.scrape(gateway)
        self.assertEqual(samples["tracks_total", "0"] + samples["tracks_total", "1"], 400)

    def test_influx(self) -> None:
        """
        Each worker pushes for itself, under its own name; the parent, too.
        """
        influx = InfluxProcess()
        self.addCleanup(influx.close)
        influx.start()
        spec = f"http://127.0.0.1:{influx.port}/{DATABASE}"
        gateway = self.start("--workers=2", "--instance=gw", f"--influx={spec}", "--influx-interval=1")
        deadline = time.monotonic() + 20
        tracks: dict[str, float] = {}
        while sum(tracks.values()) < 400:
            self.assertLess(time.monotonic(), deadline, "nothing arrives")
            time.sleep(0.3)
            series = influx.query("SELECT last(counter) FROM binaryserver_tracks_total GROUP BY instance")
            tracks = {one["tags"]["instance"]: one["values"][0][1] for one in series}
        self.assertEqual(set(tracks), {"gw-0", "gw-1"})
        (running,) = influx.query("SELECT last(gauge) FROM binaryserver_workers_running GROUP BY instance")
        self.assertEqual((running["tags"], running["values"][0][1]), ({"instance": "gw"}, 2))
        self.assertNotIn("could not be pushed", gateway.log())

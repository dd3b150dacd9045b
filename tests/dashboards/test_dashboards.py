"""
Tests for the dashboards, against gateways under load that a real Prometheus scrapes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import isnan
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority
from tests.gatewayprocess import GatewayProcess, boxesEnd, startBoxes
from tests.services.prometheus import PrometheusProcess

FOLDER = Path(__file__).resolve().parent.parent.parent / "dashboards"
NAMES = ("fleet", "instance")


def load(name: str) -> Any:
    """
    One dashboard.
    """
    return json.loads((FOLDER / f"{name}.json").read_text())


def targets(dashboard: Any) -> Iterator[tuple[str, str]]:
    """
    Titles of panels, and their queries.
    """
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


class FormTests(SynchronousTestCase):
    """
    What Grafana needs.
    """

    def test_dashboards(self) -> None:
        """
        Each has an id of its own and a variable for its data source, and links to the other.
        """
        dashboards = [load(name) for name in NAMES]
        uids = [one["uid"] for one in dashboards]
        self.assertEqual(uids, ["binaryserver-fleet", "binaryserver-instance"])
        for one, other in zip(dashboards, reversed(uids), strict=True):
            self.assertEqual(one["schemaVersion"], 36)
            self.assertEqual(one["templating"]["list"][0]["type"], "datasource")
            self.assertEqual([link["url"] for link in one["links"]], [f"/d/{other}"])

    def test_panels(self) -> None:
        """
        Each panel has an id and a place of its own, and every query asks the chosen data source.
        """
        for name in NAMES:
            panels = load(name)["panels"]
            self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
            cells: set[tuple[int, int]] = set()
            for panel in panels:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                taken = {
                    (x, y)
                    for x in range(place["x"], place["x"] + place["w"])
                    for y in range(place["y"], place["y"] + place["h"])
                }
                self.assertFalse(cells & taken, panel["title"])
                cells |= taken
                for target in panel.get("targets", ()):
                    self.assertEqual(target["datasource"], {"type": "prometheus", "uid": "${datasource}"})

    def test_instance(self) -> None:
        """
        Every query of the one is about the instance that was chosen.
        """
        for title, query in targets(load("instance")):
            self.assertEqual(query.count("binaryserver_"), query.count('{instance=~"$instance"}'), title)


class DataTests(SynchronousTestCase):
    """
    Real data.
    """

    def setUp(self) -> None:
        folder = self.mktemp()
        os.makedirs(folder)
        certificate, key = (
            os.path.abspath(path)
            for path in Authority().issueServer(lifetime=timedelta(days=30)).write(folder, "server")
        )
        tls = f"tls:{{port}}:interface=127.0.0.1:cert={certificate}:key={key}"
        self.gateways = [GatewayProcess(md21=tls), GatewayProcess("--workers=2", md21=tls)]
        for gateway in self.gateways:
            self.addCleanup(gateway.close)
            gateway.start()
        self.names = [f"127.0.0.1:{gateway.httpPort}" for gateway in self.gateways]
        self.prometheus = PrometheusProcess(self.names, FOLDER / "alerts.yml")
        self.addCleanup(self.prometheus.close)
        self.prometheus.start()

    def until(self, isSo: Callable[[], object]) -> None:
        """
        Wait for something.
        """
        deadline = time.monotonic() + 40
        while not isSo():
            self.assertLess(time.monotonic(), deadline, "not in time")
            time.sleep(0.5)

    def test_panels(self) -> None:
        """
        Every query of every panel gives data, numbers all of it; and no alert fires.
        """
        boxes = [startBoxes(one.port, "--boxes=10", "--tracks=400", "--batch=5", "--rate=20") for one in self.gateways]
        for one in boxes:
            self.addCleanup(one.kill)
        busy = "count(sum by (instance) (rate(binaryserver_tracks_total[5s])) > 50) == 2"
        self.until(lambda: self.prometheus.query(busy))
        for name in NAMES:
            for title, query in targets(load(name)):
                # Workers are only where there are some.
                chosen = self.names[1] if title == "Workers" else self.names[0]
                asked = query.replace("$__rate_interval", "5s").replace("$instance", chosen)
                found = self.prometheus.query(asked)
                self.assertTrue(found, f"{name}: {title}: {asked}")
                self.assertFalse([one for one in found if isnan(one[1])], f"{name}: {title}: {asked}")
        self.assertEqual(self.prometheus.query("sum(binaryserver_links)")[0][1], 20)
        self.assertEqual(self.prometheus.query("ALERTS"), [])
        rules = self.prometheus.ask("rules")["groups"][0]["rules"]
        self.assertEqual({rule["health"] for rule in rules}, {"ok"})
        for one in boxes:
            self.assertEqual(boxesEnd(one)["acked"], 4000)

    def test_down(self) -> None:
        """
        An instance that dies is told of.
        """
        self.until(lambda: len(self.prometheus.query("up == 1")) == 2)
        self.gateways[0].kill9()
        down = {"alertname": "BinaryServerDown", "instance": self.names[0], "alertstate": "pending"}
        self.until(lambda: any(down.items() <= labels.items() for labels, _ in self.prometheus.query("ALERTS")))

"""
Tests for C{dashboards/alerts.yml}, by C{promtool}.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from twisted.trial.unittest import SynchronousTestCase

from tests.services import requireProgram

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "dashboards" / "alerts.yml"

_B = "binaryserver_"

Series = dict[str, str]
"""Values as promtool writes them, one a minute, by the series; C{binaryserver_} is put before all names but C{up}."""


class Case(NamedTuple):
    """
    @ivar firing: series with which the alert fires
    @ivar quiet: series, near to those, with which it does not
    @ivar at: when that is looked at; minutes
    """

    firing: Series
    quiet: Series
    at: int = 15


def latency(name: str, below: str, above: str) -> Series:
    """
    A histogram of which all of ten observations a minute are between two bounds.
    """
    return {f'{name}_bucket{{le="{below}"}}': "0x30", f'{name}_bucket{{le="{above}"}}': "0+10x30"} | {
        f'{name}_bucket{{le="+Inf"}}': "0+10x30"
    }


EXPIRY = "certificate_expiry_timestamp_seconds"
DAY = 86_400

CASES = {
    "Down": Case({'up{job="binaryserver"}': "1x10 0x20"}, {'up{job="binaryserver"}': "0 1x30", 'up{job="o"}': "0x30"}),
    "DataNotDurable": Case({"unacked_age_seconds": "0x10 20+10x20"}, {"unacked_age_seconds": "0x10 30x20"}),
    "AcksSlow": Case(latency("ack_seconds", "5", "10"), latency("ack_seconds", "2.5", "5")),
    "ProducerErrors": Case({"producer_errors_total": "0x10 3x20"}, {"producer_errors_total": "3x30"}),
    "WindowFilling": Case(
        {"producer_pending_bytes": "60x30", "producer_window_bytes": "100x30"},
        {"producer_pending_bytes": "40x30", "producer_window_bytes": "100x30"},
    ),
    "EventsUntold": Case(
        {'untold_failing{topic="presences"}': "0x5 1x30", 'untold_failing{topic="statuses"}': "0x30"},
        {'untold_failing{topic="presences"}': "0 1 1 0 1 1 0 1 1 1 0 1 1 1 1 1"},
    ),
    "SessionStoreFailing": Case({"store_failures_total": "0x5 0+2x30"}, {"store_failures_total": "0x5 4x30"}),
    "SessionStoreSlow": Case(latency("store_seconds", "1", "2.5"), latency("store_seconds", "0.5", "1")),
    "DirectoryFailing": Case({"directory_failing_seconds": "0x12 121x9"}, {"directory_failing_seconds": "0x12 119x9"}),
    "ConsumerLag": Case(
        {'consumer_lag{instance="a"}': "6000x30", 'consumer_lag{instance="b"}': "6000x30"},
        {'consumer_lag{instance="a"}': "6000x30", 'consumer_lag{instance="b"}': "3000x30"},
    ),
    "Rejects": Case({"rejects_total": "0+120x60"}, {"rejects_total": "0+30x60"}, 30),
    "Refusals": Case(
        {"refusals_total": "0+120x30", "connects_total": "0+60x30"},
        {"refusals_total": "0+120x30", "connects_total": "0+180x30"},
    ),
    "Full": Case(
        {'connections_refused_total{limit="max_links"}': "0+5x30"},
        {'connections_refused_total{limit="address_rate"}': "0+5x30"},
    ),
    "ReactorLate": Case(latency("reactor_lag_seconds", "0.25", "0.5"), latency("reactor_lag_seconds", "0.1", "0.25")),
    "Descriptors": Case(
        {"process_open_fds": "81x30", "process_max_fds": "100x30"},
        {"process_open_fds": "79x30", "process_max_fds": "100x30"},
    ),
    "CertificateExpires": Case(
        {f'{EXPIRY}{{kind="certificate"}}': f"{13 * DAY}x30", f'{EXPIRY}{{kind="revocations"}}': "0x30"},
        {f'{EXPIRY}{{kind="certificate"}}': f"{15 * DAY}x30", f'{EXPIRY}{{kind="revocations"}}': f"{2 * DAY}x30"},
    ),
    "WorkersDie": Case({"worker_restarts_total": "0 1 2 3x20"}, {"worker_restarts_total": "0 1 1 1x20"}, 4),
    "WorkerSilent": Case({"workers_unanswered_total": "0+2x30"}, {"workers_unanswered_total": "0x10 2x20"}),
}
"""By the alerts' names, after C{BinaryServer}."""

MORE = {
    # Nothing has TLS.
    "CertificateExpires": {f'{EXPIRY}{{kind="certificate"}}': "0x30", f'{EXPIRY}{{kind="revocations"}}': "0x30"},
    # Few.
    "Refusals": {"refusals_total": "0+30x30", "connects_total": "0x30"},
}
"""Other series with which they are quiet."""


def rules() -> list[dict[str, Any]]:
    """
    All rules.
    """
    found = yaml.safe_load(RULES.read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def oneTest(alert: str, series: Series, at: int, isFiring: bool) -> dict[str, Any]:
    """
    One of promtool's unit tests.
    """
    named = {name if name.startswith("up{") else _B + name: values for name, values in series.items()}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in named.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="BinaryServer{alert}",alertstate="firing"}})',
                "eval_time": f"{at}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if isFiring else [],
            }
        ],
    }


class AlertTests(SynchronousTestCase):
    """
    The rules.
    """

    def setUp(self) -> None:
        self.promtool = requireProgram("promtool", "prometheus")

    def promtoolSays(self, *arguments: str) -> str:
        """
        What it says, if it finds no fault.
        """
        ended = subprocess.run(
            [self.promtool, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        self.assertEqual(ended.returncode, 0, ended.stdout)
        return ended.stdout

    def test_check(self) -> None:
        """
        Promtool can read them.
        """
        self.assertIn(f"{len(rules())} rules found", self.promtoolSays("check", "rules", str(RULES)))

    def test_all(self) -> None:
        """
        Each alert fires when it should, and does not when that is nearly so.
        """
        self.assertEqual({rule["alert"] for rule in rules()}, {f"BinaryServer{name}" for name in CASES})
        tests = []
        for name, case in CASES.items():
            tests.append(oneTest(name, case.firing, case.at, True))
            tests.append(oneTest(name, case.quiet, case.at, False))
        tests += [oneTest(name, series, 15, False) for name, series in MORE.items()]
        path = Path(self.mktemp())
        # JSON is YAML.
        path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
        self.assertIn("SUCCESS", self.promtoolSays("test", "rules", str(path)))

    def test_documented(self) -> None:
        """
        What each means, and what to do, has a section in docs/alerts.md, to which the alert leads, and no section is
        without an alert; what is said to a person names what it is about.
        """
        page = (ROOT / "docs" / "alerts.md").read_text("utf-8")
        documented = re.findall(r"^## (.+)\n\n\S", page, re.MULTILINE)
        self.assertEqual(sorted(documented), sorted(rule["alert"] for rule in rules()))
        self.assertEqual(page.count("\n## "), len(documented), "an empty section")
        for rule in rules():
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertEqual(rule["annotations"]["runbook"], f"docs/alerts.md#{rule['alert'].lower()}")
            self.assertTrue(rule["annotations"]["summary"])

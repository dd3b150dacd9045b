"""
Tests for L{binaryserver.ops.health} and C{/readyz}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.ops.health import SERVING, Check, Health, Phase, asReport, merged
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import HandBus
from tests.ops.test_http import Client

GOOD, BAD = Check(True, "it is well"), Check(False, "it is not")


class HealthTests(SynchronousTestCase):
    """
    What a process says of itself.
    """

    def test_phases(self) -> None:
        """
        It is ready while it serves, and neither before nor after.
        """
        health = Health()
        for phase, isReady in ((Phase.starting, False), (Phase.serving, True), (Phase.draining, False)):
            health.phase = phase
            self.assertEqual(asReport(health.checks())[0], isReady, phase)

    def test_parts(self) -> None:
        """
        One part that is not well is enough, and is asked each time.
        """
        health = Health()
        health.phase = Phase.serving
        said = [GOOD]
        health.watch("bus", lambda: said[-1])
        health.watch("sessions", lambda: GOOD)
        self.assertTrue(asReport(health.checks())[0])
        said.append(BAD)
        isReady, report = asReport(health.checks())
        self.assertFalse(isReady)
        self.assertEqual(report["status"], "not ready")
        self.assertEqual(report["checks"]["bus"], {"ok": False, "detail": "it is not"})
        self.assertEqual(list(report["checks"]), [SERVING, "bus", "sessions"])

    def test_joined(self) -> None:
        """
        Of one name what is not well counts, whoever says it.
        """
        health = Health()
        health.phase = Phase.draining
        health.join(lambda: {SERVING: GOOD, "workers": GOOD})
        self.assertEqual(health.checks()[SERVING], Check(False, "it drains"))
        health.phase = Phase.serving
        self.assertEqual(health.checks(), {SERVING: GOOD, "workers": GOOD})

    def test_merged(self) -> None:
        """
        Several processes: what one of them has is told with its name, what all say is told once.
        """
        found = merged({"h-0": {"bus": GOOD, "sessions": GOOD}, "h-1": {"bus": BAD, "sessions": GOOD}})
        self.assertEqual(found, {"bus": Check(False, "h-1: it is not"), "sessions": GOOD})
        found = merged({"h-0": {"bus": GOOD}, "h-1": {"bus": Check(True, "so so")}})
        self.assertEqual(found, {"bus": Check(True, "h-0: it is well; h-1: so so")})


class PageTests(SynchronousTestCase):
    """
    C{/readyz}.
    """

    def test_answers(self) -> None:
        """
        200 or 503, for everybody, with the reasons as JSON; HEAD likewise.
        """
        clock: Any = MemoryReactorClock()
        health = Health()
        store = MemorySessionStore("memory:", BackEndContext(clock, "--sessions"))
        site = makeSite(HandBus(), store, Topics.named(), clock, health=health)
        for phase, status, word in ((Phase.starting, 503, "not ready"), (Phase.serving, 200, "ready")):
            health.phase = phase
            answer = Client(site).send("/readyz")
            self.assertEqual((answer.status, answer.headers["content-type"]), (status, "application/json"))
            told = json.loads(answer.body)
            self.assertEqual(told["status"], word)
            self.assertEqual(told["checks"][SERVING]["ok"], status == 200)
            head = Client(site).send("/readyz", "HEAD")
            self.assertEqual((head.status, head.body), (status, b""))
        self.assertEqual(Client(site).send("/readyz", "POST").status, 405)

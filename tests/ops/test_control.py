"""
Tests for L{binaryserver.ops.control} and its pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.ops.control import Control
from binaryserver.ops.http import makeSite
from binaryserver.ops.logs import Logs
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import HandBus
from tests.ops.test_http import Client


class HandWorkers:
    """
    Two workers.
    """

    def __init__(self) -> None:
        self.drained: list[str] = []
        self.levels: Mapping[str, str] = {}

    def drainWorker(self, instance: str) -> bool:
        """
        See L{binaryserver.ops.control.Workers.drainWorker}.
        """
        isThere = instance in ("host-0", "host-1")
        if isThere:
            self.drained.append(instance)
        return isThere

    def setLevels(self, levels: Mapping[str, str]) -> None:
        """
        See L{binaryserver.ops.control.Workers.setLevels}.
        """
        self.levels = dict(levels)


class PagesTests(SynchronousTestCase):
    """
    C{/api/drain} and C{/api/logs}.
    """

    def setUp(self) -> None:
        self.stops: list[None] = []
        self.logs = Logs("text", {"": "info"}, "host")
        self.workers = HandWorkers()
        self.serve(Control("host", self.logs, lambda: self.stops.append(None), self.workers))

    def serve(self, control: Control | None) -> None:
        """
        Have a site.
        """
        clock: Any = MemoryReactorClock()
        store = MemorySessionStore("memory:", BackEndContext(clock, "--sessions"))
        self.site = makeSite(HandBus(), store, Topics.named(), clock, control=control)

    def ask(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        """
        What is answered.
        """
        content = None if body is None else json.dumps(body).encode()
        answer = Client(self.site).send(path, method, content=content)
        self.assertEqual(answer.status, status, answer.body)
        return json.loads(answer.body)

    def test_drain(self) -> None:
        """
        Without a name, or with its own, the process drains; with a worker's, the worker does; of others it knows none.
        """
        for body in ({}, {"instance": "host"}):
            told = self.ask("POST", "/api/drain", body, 202)
            self.assertEqual(told, {"instance": "host", "draining": True})
        self.assertEqual(len(self.stops), 2)
        self.assertEqual(self.ask("POST", "/api/drain", {"instance": "host-1"}, 202)["instance"], "host-1")
        self.assertEqual(self.workers.drained, ["host-1"])
        self.assertIn("this is host;", self.ask("POST", "/api/drain", {"instance": "other"}, 404)["detail"])
        self.assertEqual(len(self.stops), 2)

    def test_logs(self) -> None:
        """
        Levels are told, changed, and taken back, here and in the workers.
        """
        self.assertEqual(self.ask("GET", "/api/logs"), {"level": "info", "namespaces": {}})
        self.assertEqual(self.ask("PUT", "/api/logs", {"level": "warn"}), {"level": "warn", "namespaces": {}})
        told = self.ask("PUT", "/api/logs", {"level": "debug", "namespace": "binaryserver.bus"})
        self.assertEqual(told, {"level": "warn", "namespaces": {"binaryserver.bus": "debug"}})
        self.assertEqual(self.logs.levels, {"": "warn", "binaryserver.bus": "debug"})
        self.assertEqual(self.workers.levels, self.logs.levels)
        told = self.ask("PUT", "/api/logs", {"level": "default", "namespace": "binaryserver.bus"})
        self.assertEqual(told, {"level": "warn", "namespaces": {}})
        self.assertEqual(self.workers.levels, {"": "warn"})

    def test_bad(self) -> None:
        """
        What cannot be understood changes nothing.
        """
        for method, path, body in (
            ("PUT", "/api/logs", {}),
            ("PUT", "/api/logs", {"level": "fish"}),
            ("PUT", "/api/logs", {"level": "default"}),
            ("PUT", "/api/logs", {"level": "debug", "more": 1}),
            ("PUT", "/api/logs", []),
            ("POST", "/api/drain", {"instance": 7}),
            ("POST", "/api/drain", {"host": "x"}),
        ):
            self.ask(method, path, body, 400)
        self.ask("POST", "/api/logs", {"level": "warn"}, 405)
        self.ask("GET", "/api/drain", None, 405)
        self.ask("PUT", "/api/logs", None, 415)
        self.assertEqual((self.logs.levels, self.stops), ({"": "info"}, []))

    def test_webPages(self) -> None:
        """
        Neither is for web pages.
        """
        for method, path in (("PUT", "/api/logs"), ("POST", "/api/drain")):
            answer = Client(self.site).send(path, method, "Origin: http://localhost", content=b'{"level": "warn"}')
            self.assertEqual(answer.status, 403)
        self.assertEqual((self.logs.levels, self.stops), ({"": "info"}, []))

    def test_notOurs(self) -> None:
        """
        Where C{twistd}'s own options choose the log there is nothing to change.
        """
        self.serve(Control("host", None, lambda: None))
        self.ask("GET", "/api/logs", None, 409)
        self.ask("PUT", "/api/logs", {"level": "warn"}, 409)
        self.serve(None)
        self.ask("GET", "/api/logs", None, 404)

"""
Tests for L{binaryserver.tools.ctl_control}, as processes of their own.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor as globalReactor

from binaryserver.bus.topics import Topics
from binaryserver.ops.control import Control
from binaryserver.ops.http import makeSite
from binaryserver.ops.logs import Logs
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import HandBus
from tests.tools.test_ctl import CtlCase, Program

reactor: Any = globalReactor


class ControlTests(CtlCase):
    """
    A gateway's HTTP side.
    """

    def setUp(self) -> None:
        """
        See the class.
        """
        self.stops: list[None] = []
        self.logs = Logs("text", {}, "host")
        control = Control("host", self.logs, lambda: self.stops.append(None))
        store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        self.url = self.serve(makeSite(HandBus(), store, Topics.named(), reactor, control=control))

    async def lines(self, *arguments: str) -> list[str]:
        """
        What is printed by what ends with 0.
        """
        program = Program(*arguments, "--http", self.url)
        self.assertEqual((await program.ended, program.errors), (0, b""))
        return program.output.decode().splitlines()

    async def test_drain(self) -> None:
        """
        The one that is asked drains; one that is not there does not.
        """
        self.assertEqual(await self.lines("drain"), ["instance host drains"])
        self.assertEqual(len(self.stops), 1)
        [line] = await self.lines("drain", "--instance", "host", "--json")
        self.assertEqual(json.loads(line), {"instance": "host", "draining": True})
        text = await self.failing("drain", "--instance", "other", "--http", self.url)
        self.assertIn("404 Not Found: instance other is not here: this is host; ask its own HTTP side", text)
        self.assertEqual(len(self.stops), 2)

    async def test_logs(self) -> None:
        """
        Levels are told, changed for everything or a namespace, and taken back.
        """
        self.assertEqual(await self.lines("logs"), ["everything: info"])
        self.assertEqual(await self.lines("logs", "warn"), ["everything: warn"])
        self.assertEqual(
            await self.lines("logs", "binaryserver.bus", "debug"), ["binaryserver.bus: debug", "everything else: warn"]
        )
        self.assertEqual(self.logs.levels, {"": "warn", "binaryserver.bus": "debug"})
        [line] = await self.lines("logs", "binaryserver.bus", "default", "--json")
        self.assertEqual(json.loads(line), {"level": "warn", "namespaces": {}})
        self.assertIn("'loud' is neither debug", await self.failing("logs", "loud", "--http", self.url))
        self.assertIn("give [NAMESPACE] LEVEL", await self.failing("logs", "a", "b", "c", "--http", self.url))

"""
Tests for L{binaryserver.tools.ctl_boxes} and L{binaryserver.tools.ctl_box}, as processes of their own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import binaryserver
from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.errors import StoreUnavailable
from binaryserver.model import BoxKey, MarkUpdate, MqttSession
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.session.boxrecords import BoxEvent, EventKind, RefusalNote
from binaryserver.session.memorystore import MemorySessionStore
from tests.tools.test_ctl import TIME, CtlCase, Program

TOPICS = Topics.named()
BOX, AWAY = BoxKey("acme", "box-1"), BoxKey("acme", "box-22")
STAMP = "2026-09-21T14:13:20Z"
reactor: Any = globalReactor


class _Terminal(ProcessProtocol):
    """
    A terminal in which a shell runs one line.

    @ivar ended: fires with what was shown
    """

    def __init__(self, line: str) -> None:
        self.ended: Deferred[bytes] = Deferred()
        self._shown = b""
        environment = {**os.environ, "PYTHONPATH": str(Path(binaryserver.__file__).parents[1])}
        reactor.spawnProcess(self, "/bin/sh", ["/bin/sh", "-c", line], environment, usePTY=True)

    def outReceived(self, data: bytes) -> None:
        """
        See L{ProcessProtocol.outReceived}.
        """
        self._shown += data

    def processEnded(self, reason: Failure) -> None:
        """
        See L{ProcessProtocol.processEnded}.
        """
        self.ended.callback(self._shown)


class BoxesCase(CtlCase):
    """
    A gateway's HTTP side, and two boxes, of which one is connected.
    """

    async def setUp(self) -> None:  # type: ignore[override]
        """
        See the class.
        """
        bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
        self.store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        self.epoch = (await self.store.claim(BOX, "a@1", "md30", "192.0.2.1", TIME, False, "1")).linkEpoch
        other = await self.store.claim(AWAY, "a@1", "md21", "2001:db8::1", TIME, False, "1")
        event = BoxEvent(EventKind.disconnected, TIME, "PPP_LOST", "", "md21", "2001:db8::1", "a@1", other.linkEpoch)
        await self.store.release(AWAY, other.linkEpoch, TIME, event)
        self.disconnected = [True]
        self.url = self.serve(makeSite(bus, self.store, TOPICS, reactor, disconnect=self.disconnect))

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        What the instance says.
        """
        return succeed(self.disconnected.pop())

    async def printed(self, *arguments: str) -> list[str]:
        """
        What a run prints that goes well.
        """
        program = Program(*arguments, "--http", self.url)
        self.assertEqual((await program.ended, program.errors), (0, b""))
        return program.lines()


class ListTests(BoxesCase):
    """
    C{boxes}.
    """

    async def test_table(self) -> None:
        """
        For people, in columns.
        """
        self.assertEqual(
            await self.printed("boxes"),
            [
                "ACCOUNT  ASSET   STATE      SINCE                 PROTOCOL  PEER         INSTANCE",
                f"acme     box-1   connected  {STAMP}  md30      192.0.2.1    a@1",
                f"acme     box-22  away       {STAMP}  md21      2001:db8::1  a@1",
            ],
        )
        self.assertEqual(await self.printed("boxes", "--account", "nobody"), [])

    async def test_json(self) -> None:
        """
        One object a line, as the gateway gives them; the filters are the gateway's.
        """
        for arguments, expected in (
            ([], ["box-1", "box-22"]),
            (["--state", "connected"], ["box-1"]),
            (["--state", "disconnected", "--prefix", "box-2", "--account", "acme"], ["box-22"]),
            (["--limit", "1"], ["box-1"]),
            (["--after", "acme/box-1"], ["box-22"]),
        ):
            lines = await self.printed("boxes", "--json", *arguments)
            self.assertEqual([json.loads(line)["asset"] for line in lines], expected)

    async def test_many(self) -> None:
        """
        More than one answer of the store; who reads only some of it ends the program well.
        """
        for number in range(1000):
            await self.store.claim(BoxKey("zeta", f"{number:05d}"), "a@1", "md30", "192.0.2.1", TIME, False, "1")
        self.assertEqual(len(await self.printed("boxes")), 1003)

    async def test_progress(self) -> None:
        """
        At a terminal that does not show the boxes, how many there were is told.
        """
        program = Program("boxes", "--http", self.url, hasTerminal=True)
        self.assertEqual(await program.ended, 0)
        self.assertNotIn(b"2 boxes", program.output)
        self.assertIn(b"box-22", program.output)
        terminal = _Terminal(f"{sys.executable} -m binaryserver.tools.ctl boxes --http {self.url} >/dev/null")
        self.assertTrue((await terminal.ended).endswith(b"\r2 boxes\r\n"))

    async def test_refused(self) -> None:
        """
        In one line what was wrong; the store may also fail in the middle.
        """
        text = await self.failing("boxes", "--http", self.url, "--after", "acme")
        self.assertIn("400 Bad Request: after is to be ACCOUNT/ASSET", text)
        self.patch(self.store, "listBoxes", lambda *arguments: fail(StoreUnavailable("away")))
        self.assertIn("503 Service Unavailable: away", await self.failing("boxes", "--http", self.url))


class BoxTests(BoxesCase):
    """
    C{show}, C{explain} and C{disconnect}.
    """

    async def test_show(self) -> None:
        """
        All that is kept, for people.
        """
        await self.store.commitMarks([MarkUpdate(BOX, 9, 41, TIME)])
        await self.store.saveMqtt(BOX, self.epoch, MqttSession((("d", 1), ("i", 0))), True)
        self.assertEqual(
            await self.printed("show", "box-1"),
            [
                "acme/box-1",
                f"  connected since {STAMP}",
                f"  link {self.epoch} by md30 from 192.0.2.1",
                "  instance a@1 (dead)",
                "  subscribed to its downlink",
                "  MQTT session: d (QoS 1), i (QoS 0)",
                f"  stream 9: up to index 41, recorded until {STAMP}",
                "  0 messages of 0 bytes wait",
            ],
        )
        lines = await self.printed("show", "box-22")
        self.assertEqual(lines[1], f"  away since {STAMP}")
        self.assertEqual(lines[-2:], ["Last events:", f"  {STAMP} disconnected PPP_LOST from 2001:db8::1 at a@1"])

    async def test_json(self) -> None:
        """
        As the gateway gives it.
        """
        for command in ("show", "explain"):
            (line,) = await self.printed(command, "box-1", "--json")
            self.assertEqual(json.loads(line)["session"]["link_epoch"], self.epoch)
        (line,) = await self.printed("disconnect", "box-1", "--json")
        self.assertEqual(json.loads(line)["link_epoch"], self.epoch)

    async def test_explain(self) -> None:
        """
        Sentences, what to do, and the last events.
        """
        lines = await self.printed("explain", "box-22")
        self.assertEqual(lines[0], "acme/box-22 is offline.")
        self.assertIn("What to do:", lines)
        self.assertIn("Last events:", lines)
        refusal = BoxEvent(EventKind.refused, TIME, "AUTH_FAILED_ASSET", "odd\x1b[31m", "md30", "192.0.2.1", "a@1")
        await self.store.noteRefusals([RefusalNote(BoxKey("", "box-3"), refusal, False)] * 2)
        lines = await self.printed("explain", "box-3")
        self.assertEqual(lines[0], "(no account)/box-3 is offline.")
        self.assertIn(f"odd\ufffd[31m from 192.0.2.1 at a@1 (2 times since {STAMP})", lines[-1])

    async def test_disconnect(self) -> None:
        """
        Done, not done, and not known.
        """
        self.disconnected = [True]
        lines = await self.printed("disconnect", "box-1", "--account", "acme")
        self.assertEqual(lines, [f"disconnected acme/box-1: link {self.epoch} at a@1"])
        text = await self.failing("disconnect", "box-22", "--http", self.url)
        self.assertIn("409 Conflict: box box-22 is not connected", text)
        self.disconnected = [False] * 30
        program = Program("disconnect", "box-1", "--http", self.url)
        self.assertEqual((await program.ended, program.output), (3, b""))
        self.assertIn(b"has its link still", program.errors)

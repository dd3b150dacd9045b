"""
Tests for L{binaryserver.tools.ctl_erase} and L{binaryserver.tools.ctl_directory}, as processes of their own.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError
from binaryserver.model import BoxKey, Record
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.proto.cloudnext_pb2 import DirectoryChange
from binaryserver.session.memorystore import MemorySessionStore
from tests.tools.test_ctl import TIME, CtlCase, Program

TOPICS = Topics.named()
BOX = BoxKey("acme", "box-1")
reactor: Any = globalReactor


class GatewayCase(CtlCase):
    """
    A gateway's HTTP side, and a box that was once connected.
    """

    async def setUp(self) -> None:  # type: ignore[override]
        """
        See the class.
        """
        self.bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
        await self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        claim = await self.store.claim(BOX, "a@1", "md30", "192.0.2.1", TIME, False, "1")
        self.epoch = claim.linkEpoch
        await self.store.release(BOX, self.epoch, TIME)
        await self.bus.publish(TOPICS.tracks, 0, [Record(BOX.busKey, b"x")] * 3)
        self.url = self.serve(makeSite(self.bus, self.store, TOPICS, reactor))

    async def nobody(self) -> str:
        """
        The URL of a port where nothing listens.
        """
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        await port.stopListening()
        return url


class EraseTests(GatewayCase):
    """
    C{erase}.
    """

    async def test_yes(self) -> None:
        """
        With C{--yes} it is erased at once, and what went and what remains is told.
        """
        program = Program("erase", "--http", self.url, "box-1", "--yes")
        self.assertEqual((await program.ended, program.errors), (0, b""))
        self.assertEqual(
            program.lines(),
            [
                "removed of acme/box-1: 1 sessions, 0 messages, 0 streams, 0 fingerprints, 3 records",
                "remains: the number of its last link, which must not go back",
            ],
        )
        text = await self.failing("erase", "--http", self.url, "box-1", "--account", "acme", "--yes")
        self.assertIn("404 Not Found: nothing is kept of a box box-1 of acme", text)

    async def test_json(self) -> None:
        """
        With C{--json} the gateway's report is printed as it is.
        """
        program = Program("erase", "--http", self.url, "box-1", "--account", "acme", "--yes", "--json")
        self.assertEqual(await program.ended, 0)
        [report] = map(json.loads, program.lines())
        self.assertEqual((report["account"], report["asset"], report["removed"]["records"]), ("acme", "box-1", 3))

    async def test_nobodyToAsk(self) -> None:
        """
        Where nobody can be asked nothing is removed without C{--yes}.
        """
        self.assertIn("--yes: must be given", await self.failing("erase", "--http", self.url, "box-1"))
        self.assertEqual(await self.store.accounts("box-1"), ("acme",))

    async def asked(self, answer: bytes) -> Program:
        """
        At a terminal, where that is typed.
        """
        program = Program(
            "erase",
            "--http",
            self.url,
            "box-1",
            hasTerminal=True,
            firstOutput=lambda program: program.transport.write(answer),
        )
        await program.ended
        self.assertIn(b"Remove everything that the gateway keeps of box box-1? [y/N] ", program.output)
        return program

    async def test_asked(self) -> None:
        """
        At a terminal one is asked; anything but yes is no.
        """
        for answer in (b"n\n", b"\n", b"yess\n", b"\x04"):
            program = await self.asked(answer)
            self.assertEqual((program.ended.result, b"nothing was removed" in program.output), (1, True), answer)
        self.assertEqual((await self.asked(b"y\n")).ended.result, 0)

    async def test_refused(self) -> None:
        """
        What the gateway does not do is told in its own words, with status 1.
        """
        await self.store.claim(BOX, "a@1", "md30", "192.0.2.1", TIME, False, "2")
        for arguments, words in (
            (("box-1",), "409 Conflict: box box-1 is connected: revoke it first"),
            (("box-9",), "404 Not Found: no box box-9 was ever connected"),
            (("a/b?c=d#e",), "400 Bad Request: asset is to be"),
            (("box-1", "--account", "a b"), "400 Bad Request: account is to be"),
        ):
            self.assertIn(words, await self.failing("erase", "--http", self.url, "--yes", *arguments))

    async def test_notKnown(self) -> None:
        """
        When it is not known whether all is removed the status is 3; when nothing was asked it is 1.
        """
        self.patch(self.bus, "erase", lambda key: fail(BusError("the disk is full")))
        program = Program("erase", "--http", self.url, "box-1", "--yes")
        self.assertEqual((await program.ended, program.output), (3, b""))
        self.assertIn(b"may not be; ask again, with the account acme: the disk is full", program.errors)
        await self.failing("erase", "--http", await self.nobody(), "box-1", "--yes")


class ChangedTests(GatewayCase):
    """
    C{directory changed}.
    """

    async def test_changed(self) -> None:
        """
        A box, an account, or everything: each is one record, told once it is durable.
        """
        for arguments, words, change in (
            (("acme", "box-1"), "acme/box-1", DirectoryChange(account="acme", asset="box-1")),
            (("acme",), "acme", DirectoryChange(account="acme")),
            ((), "everything", DirectoryChange()),
        ):
            reader = await self.bus.openReader([TOPICS.directory], False)
            program = Program("directory", "changed", "--http", self.url, *arguments)
            self.assertEqual((await program.ended, program.errors), (0, b""))
            self.assertEqual(program.lines(), [f"the gateways will ask again for {words}"])
            [record] = await reader.read(9)
            self.assertEqual(DirectoryChange.FromString(record.value), change)
            await reader.close()

    async def test_refused(self) -> None:
        """
        Names that are none, a bus that does not take it, and no gateway at all are one line and status 1.
        """
        for arguments, words in (
            (("a b",), "400 Bad Request: account is to be"),
            (("acme", "é"), "400 Bad Request: asset is to be"),
        ):
            self.assertIn(words, await self.failing("directory", "changed", "--http", self.url, *arguments))
        failed: Deferred[Any] = fail(BusError("no leader"))
        self.patch(self.bus, "publish", lambda *_: failed)
        text = await self.failing("directory", "changed", "--http", self.url)
        self.assertIn("504 Gateway Time-out: the change may or may not be published: no leader", text)
        await self.failing("directory", "changed", "--http", await self.nobody())

"""
Tests for L{binaryserver.directory.filedirectory}.
"""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.directory import filedirectory
from binaryserver.directory.filedirectory import LOOK_INTERVAL, FileDirectory, parseContents
from binaryserver.directory.records import Box, Change
from binaryserver.directory.tables import BadRecord
from binaryserver.errors import ConfigError, DirectoryUnavailable
from binaryserver.interfaces import IDirectoryPlugin, IDirectorySource
from binaryserver.plugins import BackEndContext, createBackEnd
from tests.certificates import replaceFile
from tests.directory.contract import SourceContractMixin, reactor
from tests.directory.samples import HASH, OTHER_HASH, LogKeeper, fullAccount, fullBox, toml
from tests.harness import HandReactor


class FileDirectoryTests(SourceContractMixin, TestCase):
    """
    C{file:} on the real reactor, its clock and its threads.
    """

    def setUp(self) -> None:
        """
        A file without accounts.
        """
        self.path = self.mktemp()
        self.write([])

    def makeSource(self) -> IDirectorySource:
        """
        See L{SourceContractMixin}.
        """
        context = BackEndContext(reactor, "--directory")
        source: IDirectorySource = createBackEnd(IDirectoryPlugin, f"file:{self.path}", context)
        return source

    def write(self, accounts: list[dict[str, Any]]) -> None:
        """
        See L{SourceContractMixin}.
        """
        replaceFile(self.path, toml(accounts).encode())

    def noticed(self) -> Deferred[None]:
        """
        See L{SourceContractMixin}.
        """
        return Deferred.fromCoroutine(self._noticed())

    async def _noticed(self) -> None:
        until = time.monotonic() + 10
        while not self.changes and time.monotonic() < until:
            await deferLater(reactor, 0.01)
        self.changes.clear()

    async def test_withinASecond(self) -> None:
        """
        A change counts a second after it was written, with what a busy machine adds.
        """
        await self.startedWith(fullAccount())
        self.write([fullAccount(), fullAccount("new", box=[])])
        before = time.monotonic()
        await self._noticed()
        self.assertLess(time.monotonic() - before, 2 * LOOK_INTERVAL + 1)


class ReloadTests(SynchronousTestCase):
    """
    What happens from one look to the next, on a clock that is advanced.
    """

    def setUp(self) -> None:
        """
        A directory over a file with one account of two boxes.
        """
        self.path = self.mktemp()
        self.reactor = HandReactor()
        self.replace(toml([fullAccount(box=[fullBox("1"), fullBox("2")])]))
        self.source = FileDirectory(f"file:{self.path}", BackEndContext(self.reactor, "--directory"))
        self.changes: list[Change] = []
        self.addCleanup(self.source.stop)
        started = self.source.start(self.changes.append)
        self.turn()
        self.successResultOf(started)
        self.logged = LogKeeper(self).events

    def replace(self, text: str) -> None:
        """
        Another file in its place.
        """
        replaceFile(self.path, text.encode())

    def turn(self) -> None:
        """
        Let what threads have done come back.
        """
        for _ in range(3):
            self.reactor.advance(0)

    def look(self, times: int = 2) -> None:
        """
        So many looks at the file.
        """
        for _ in range(times):
            self.reactor.advance(LOOK_INTERVAL)
            self.turn()

    def errors(self) -> list[str]:
        """
        The errors that were logged since the last time.
        """
        found = [event["complaint"] for event in self.logged if event["log_level"] is LogLevel.error]
        self.logged.clear()
        return found

    def box(self, asset: str) -> Box | None:
        """
        A box of the account.
        """
        return self.successResultOf(self.source.box("acme", asset))

    def test_changesOfBoxes(self) -> None:
        """
        Exactly the boxes that differ are told: changed, gone, come; what is the same is not.
        """
        boxes = [fullBox("0"), fullBox("1", revoked=False), fullBox("3")]
        self.replace(toml([fullAccount(box=[fullBox("1"), fullBox("2"), fullBox("3"), fullBox("0")])]))
        self.look()
        self.assertEqual(self.changes, [Change("acme", "0"), Change("acme", "3")])
        self.changes.clear()
        self.replace(toml([fullAccount(box=boxes)]))
        self.look()
        self.assertEqual(self.changes, [Change("acme", "1"), Change("acme", "2")])

    def test_changesOfAccounts(self) -> None:
        """
        An account that differs is told, and not the boxes that it keeps; one that comes or goes, with its boxes.
        """
        self.replace(toml([fullAccount(active=True, box=[fullBox("1"), fullBox("2")])]))
        self.look()
        self.assertEqual(self.changes, [Change("acme")])
        self.changes.clear()
        self.replace(toml([fullAccount("other", box=[fullBox("1")])]))
        self.look()
        expected = [Change("acme"), Change("other"), Change("acme", "1"), Change("acme", "2"), Change("other", "1")]
        self.assertEqual(self.changes, expected)

    def test_deepChanges(self) -> None:
        """
        A change within a table or list of an account is one of the account.
        """
        boxes = [fullBox("1"), fullBox("2")]
        others: dict[str, Any] = {
            "limits": {"links": 11},
            "privacy": {"drop_fields": [8]},
            "channels": [],
            "fields": [{"id": 8, "name": "SPEED", "type": "double"}],
            "secret_hash": OTHER_HASH,
        }
        for key, value in others.items():
            self.replace(toml([fullAccount(box=boxes, **{key: value})]))
            self.look()
            self.assertEqual(self.changes, [Change("acme")], key)
            self.replace(toml([fullAccount(box=boxes)]))
            self.look()
            self.changes.clear()

    def test_sameAgain(self) -> None:
        """
        Another file that says the same changes nothing.
        """
        self.replace("# generated\n" + toml([fullAccount(box=[fullBox("2"), fullBox("1")])]))
        self.look()
        self.assertEqual(self.changes, [])
        self.assertEqual(self.errors(), [])

    def test_notReadWithoutNeed(self) -> None:
        """
        As long as the file stays as it is, it is not read.
        """
        self.patch(filedirectory, "_load", lambda path: self.fail("it was read"))
        self.look(10)
        self.assertEqual(self.errors(), [])

    def test_broken(self) -> None:
        """
        A version that cannot be understood changes nothing and is one error, however often it is looked at; the next
        good one counts.
        """
        for text, reason in {
            "account = [": "it is not TOML: Invalid value (at end of document)",
            toml([fullAccount(actve=True)]): "account \"acme\": 'actve' is no key; did you mean active?",
            "account = [ ": "it is not TOML: Invalid value (at end of document)",
        }.items():
            self.replace(text)
            self.look(6)
            self.assertEqual(self.errors(), [f"{self.path}: {reason}"])
        self.assertEqual(self.changes, [])
        self.assertIsNotNone(self.box("2"))
        self.replace(toml([fullAccount(box=[fullBox("1")])]))
        self.look()
        self.assertEqual(self.changes, [Change("acme", "2")])
        self.assertIsNone(self.box("2"))

    def test_away(self) -> None:
        """
        A file that is gone changes nothing and is one error each time that it goes; what comes back counts.
        """
        for asset in ("3", "4"):
            os.remove(self.path)
            self.look(6)
            self.assertEqual(self.errors(), [f"cannot read {self.path!r}: No such file or directory"])
            self.assertIsNotNone(self.box("1"))
            self.replace(toml([fullAccount(box=[fullBox("1"), fullBox(asset)])]))
            self.look()
            self.assertIsNotNone(self.box(asset))

    def test_writtenInPlace(self) -> None:
        """
        A file that is being written is not taken before it has stood for one look: half of one may be valid.
        """
        accounts = "".join(f"[[account]]\nname = 'a{number}'\n" for number in range(4))
        half = accounts[: len(accounts) // 2]
        self.assertEqual(set(parseContents(half.encode()).accounts), {"a0", "a1"})
        with open(self.path, "w") as file:
            file.write(half)
            file.flush()
            self.look(1)
            self.assertEqual(self.changes, [])
            file.write(accounts[len(half) :])
            file.flush()
            self.look(1)
            self.assertEqual(self.changes, [])
        self.look(1)
        self.assertIn(Change("a3"), self.changes)
        self.assertEqual(self.changes.count(Change("a0")), 1)

    def test_writtenWhileRead(self) -> None:
        """
        A file that becomes another between the look and the reading waits for the next look.
        """
        load = filedirectory._load

        def slowly(path: str) -> Any:
            self.replace(toml([fullAccount(box=[fullBox("9")])]))
            self.patch(filedirectory, "_load", load)
            return load(path)

        self.patch(filedirectory, "_load", slowly)
        self.replace(toml([]))
        self.look(2)
        self.assertEqual(self.changes, [])
        self.look(1)
        self.assertIsNotNone(self.box("9"))

    def test_noSecretsInLogs(self) -> None:
        """
        Nothing that is logged shows a hash or a secret.
        """
        secret = "correct horse battery staple"
        broken = (
            fullAccount(secret_hash=secret),
            fullAccount(secret=secret),
            fullAccount(name="/", secret_hash=OTHER_HASH),
            fullAccount(box=[fullBox(secret_hash=secret)]),
            fullAccount(box=[fullBox(password=secret)]),
            fullAccount(box=[fullBox("/")]),
            fullAccount(box=[fullBox("1"), fullBox("1")]),
            fullAccount(secret_hash=[secret]),
            fullAccount(certificate=secret),
            fullAccount(box=[fullBox(certificate=secret)]),
        )
        for account in broken:
            self.replace(toml([account]))
            self.look()
        self.replace(f'[[account]]\nname = "acme"\nsecret_hash = {HASH}\n')
        self.look()
        self.replace(toml([fullAccount()]))
        self.look()
        logged = repr(self.logged)
        self.assertEqual(len(self.errors()), len(broken) + 1)
        for each in (secret, HASH, OTHER_HASH, HASH[40:60]):
            self.assertNotIn(each, logged)

    def test_listenerFails(self) -> None:
        """
        An error of who is told of changes costs neither the other changes nor the next look.
        """

        def changed(change: Change) -> None:
            self.changes.append(change)
            raise ValueError("of the test")

        self.source._changed = changed
        self.replace(toml([fullAccount(box=[])]))
        self.look()
        self.assertEqual(self.changes, [Change("acme", "1"), Change("acme", "2")])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.replace(toml([fullAccount(box=[fullBox("1")])]))
        self.look()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIsNotNone(self.box("1"))

    def test_stop(self) -> None:
        """
        Once stopped it looks no more, and has nothing left to do.
        """
        self.successResultOf(self.source.stop())
        self.replace(toml([]))
        self.look(3)
        self.assertEqual(self.changes, [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.failureResultOf(self.source.account("acme"), DirectoryUnavailable)

    def test_stopWhileLooking(self) -> None:
        """
        A look whose thread does not come back is not waited for.
        """
        self.patch(self.reactor, "callInThreadWithCallback", lambda *arguments: None)
        self.look(1)
        self.successResultOf(self.source.stop())
        self.look(3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.logged, [])


class StartTests(SynchronousTestCase):
    """
    Files that end the start.
    """

    def startError(self, spec: str) -> str:
        """
        The line that a start ends with.
        """
        reactor = HandReactor()
        started = FileDirectory(spec, BackEndContext(reactor, "--directory")).start(lambda change: None)
        for _ in range(3):
            reactor.advance(0)
        error = self.failureResultOf(started, ConfigError).value
        self.assertEqual(error.option, "--directory")
        self.assertEqual(reactor.getDelayedCalls(), [])
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_noPath(self) -> None:
        """
        A path must be named.
        """
        error = self.assertRaises(ConfigError, FileDirectory, "file:", BackEndContext(HandReactor(), "--directory"))
        self.assertEqual(str(error), "--directory: the form is file:PATH")

    def test_unreadable(self) -> None:
        """
        No file, a folder, no name of a file.
        """
        self.assertEqual(
            self.startError("file:/nowhere/x"), "--directory: cannot read '/nowhere/x': No such file or directory"
        )
        self.assertEqual(self.startError("file:/"), "--directory: cannot read '/': Is a directory")
        self.assertIn("cannot be that of a file", self.startError("file:a\0b"))

    def test_unusable(self) -> None:
        """
        What is wrong is said, with the line where it is not TOML, and with account, box and key where it is.
        """
        path = self.mktemp()
        for content, reason in {
            b'[[account]]\nname = "a"\nname = "b"\n': "it is not TOML: Cannot overwrite a value (at line 3, column 11)",
            b'\n\nname = "\xff"': "line 3: it is not UTF-8",
            b"account = " + b"[" * 50_000: "nested too deeply",
            b"account = 1" + b"0" * 5000: "it is not TOML",
            b"[acount]": "'acount' is no key: the file is a list of [[account]] tables",
            b"account = 3": "account: is to be a list of [[account]] tables, not a number",
            b"[account]": "account: is to be a list of [[account]] tables, not a table",
            b"account = [3]": "account without a name: is to be a table of keys and values, not a number",
            b'[[account]]\nname = "a"\nbox = 3': "box: is to be a list of [[account.box]] tables, not a number",
            b"[[account]]\nname = 2024-01-01": "account without a name: name: is to be a text, not a date or time",
            toml([fullAccount(), fullAccount()]).encode(): 'account "acme": is there twice',
            toml([fullAccount(box=[fullBox("1"), fullBox("1")])]).encode(): 'account "acme", box "1": is there twice',
            toml([fullAccount(box=[fullBox("1", metadata={"a": 3})])]).encode(): (
                'account "acme", box "1": metadata: \'a\' is to be a text of at most 1024 characters'
            ),
        }.items():
            replaceFile(path, content)
            line = self.startError(f"file:{path}")
            self.assertIn(reason, line)
            self.assertTrue(line.startswith(f"--directory: {path}: "), line)

    def test_tooLarge(self) -> None:
        """
        A file of more bytes than can be read in good time is not read on.
        """
        self.patch(filedirectory, "MAX_SIZE", 1 << 20)
        path = self.mktemp()
        replaceFile(path, b"#" * (1 << 20))
        self.assertIsInstance(filedirectory._load(path)[1], filedirectory.Contents)
        replaceFile(path, b"#" * ((1 << 20) + 1))
        self.assertIn("it has more than 1 MiB", self.startError(f"file:{path}"))

    def test_empty(self) -> None:
        """
        A file without accounts is one.
        """
        self.assertEqual(parseContents(b"").accounts, {})
        self.assertRaises(BadRecord, parseContents, b"\xff")

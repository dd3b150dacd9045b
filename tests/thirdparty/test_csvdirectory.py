"""
Tests for the example's directory source: the gateway's own contract suite runs over it, as over its own sources.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IDirectorySource
from binaryserver.plugins import BackEndContext
from tests.certificates import replaceFile
from tests.directory.contract import SourceContractMixin, reactor
from tests.directory.samples import HASH
from tests.harness import HandReactor
from tests.thirdparty.fleetplugins.fleetplugins.csvdirectory import LOOK_INTERVAL, BadFile, CsvDirectory, parse


def csvOf(accounts: list[dict[str, Any]]) -> str:
    """
    A file of accounts as L{tests.directory.samples} makes them.
    """
    lines = [{"account": "", "asset": ""}]
    for account in accounts:
        owner = {key: value for key, value in account.items() if key not in ("name", "box")}
        lines.append({"account": account["name"], **_cells(owner)})
        lines += [{"account": account["name"], **_cells(box)} for box in account.get("box", ())]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(lines[1:])
    return text.getvalue()


def _cells(values: dict[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


class CsvDirectoryTests(SourceContractMixin, TestCase):
    """
    C{csv:} on the real reactor, its clock and its threads.
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
        return CsvDirectory(f"csv:{self.path}", BackEndContext(reactor, "--directory"))

    def write(self, accounts: list[dict[str, Any]]) -> None:
        """
        See L{SourceContractMixin}.
        """
        replaceFile(self.path, csvOf(accounts).encode())

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


class ReloadTests(SynchronousTestCase):
    """
    What happens from one look at the file to the next, on a clock that is advanced.
    """

    HEAD = "account,asset,revoked,metadata\n"

    def setUp(self) -> None:
        """
        A directory of one account with two boxes.
        """
        self.path = self.mktemp()
        self.reactor = HandReactor()
        self.replace("acme,,,\nacme,1,,\nacme,2,false,\n")
        self.source = CsvDirectory(f"csv:{self.path}", BackEndContext(self.reactor, "--directory"))
        self.changes: list[Change] = []
        self.addCleanup(self.source.stop)
        started = self.source.start(self.changes.append)
        self.turn()
        self.successResultOf(started)
        self.logged: list[dict[str, Any]] = []
        observer: Any = self.logged.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def replace(self, lines: str) -> None:
        """
        Another file in its place.
        """
        replaceFile(self.path, (self.HEAD + lines).encode())

    def look(self, times: int = 2) -> None:
        """
        So many looks at the file.
        """
        for _ in range(times):
            self.reactor.advance(LOOK_INTERVAL)
            self.turn()

    def turn(self) -> None:
        """
        Let what threads have done come back.
        """
        for _ in range(3):
            self.reactor.advance(0)

    def test_onlyWhatChanged(self) -> None:
        """
        Told is what is not as it was, and nothing else.
        """
        self.replace('acme,,,\nacme,1,true,\nacme,2,,"{""plate"": ""B-XY 12""}"\nnew,,,\n')
        self.look()
        self.assertCountEqual(self.changes, [Change("acme", "1"), Change("acme", "2"), Change("new")])
        self.assertEqual(self.successResultOf(self.source.box("acme", "1")), Box("acme", "1", isRevoked=True))
        self.assertEqual(self.successResultOf(self.source.account("new")), Account("new"))
        self.look(3)
        self.assertEqual(len(self.changes), 3)

    def test_halfWritten(self) -> None:
        """
        A file that is being written does not count before it is whole: it might be CSV without half of the boxes.
        """
        with open(self.path, "w") as file:
            file.write(self.HEAD + "acme,,,\n")
            file.flush()
            self.look(1)
            file.write("acme,1,,\n")
            file.flush()
            self.look(1)
            file.write("acme,2,,\n")
        self.look()
        self.assertEqual(self.changes, [])

    def test_broken(self) -> None:
        """
        A file that cannot be understood, or is gone, is told of once, and what was read before counts on.
        """
        self.replace("acme,,nonsense,\n")
        self.look(5)
        os.remove(self.path)
        self.look(5)
        errors = [event["complaint"] for event in self.logged if event["log_level"] is LogLevel.error]
        self.assertEqual(len(errors), 2, errors)
        self.assertEqual(errors[0], "line 2: 'revoked': it is not JSON")
        self.assertEqual(self.successResultOf(self.source.box("acme", "2")), Box("acme", "2"))
        self.replace("acme,,,\n")
        self.look()
        self.assertIsNone(self.successResultOf(self.source.box("acme", "2")))

    def test_badStart(self) -> None:
        """
        A file that is not there, or cannot be understood, ends the start in the option's name; and so does no file.
        """
        for content, reason in ((None, "No such file or directory"), (b"account\n\xff", "it is not UTF-8")):
            path = self.mktemp()
            if content is not None:
                replaceFile(path, content)
            started = CsvDirectory(f"csv:{path}", BackEndContext(self.reactor, "--directory")).start(print)
            self.turn()
            failure = self.failureResultOf(started, ConfigError)
            self.assertEqual(str(failure.value), f"--directory: {path}: {reason}")
        for spec in ("csv:", "csv:a\0b"):
            self.assertRaises(ConfigError, CsvDirectory, spec, BackEndContext(self.reactor, "--directory"))


class ParseTests(SynchronousTestCase):
    """
    What is no file of accounts and boxes.
    """

    def test_refused(self) -> None:
        """
        Each says in which line, and shows no cell that may be a secret.
        """
        for content, message in (
            ("account,asset\nacme\n", "line 2: it has not as many cells as the first"),
            ("account,asset\nacme,,x\n", "line 2: it has not as many cells as the first"),
            ("account,asset\nacme,\nacme,\n", "line 3: this account or box is there twice"),
            ("account,asset\nacme,1\n", "box 1: it has no line of its account"),
            ("account,asset\n,\n", "line 2: account"),
            ("account,asset\nacme,\nacme,a/b\n", "line 3: account"),
            ("account,asset,revoked\nacme,,\nacme,1,sesame\n", "line 3: 'revoked': it is not JSON"),
            ("account,asset,secret_hash\nacme,,sesame\n", "line 2: account"),
            ('account,asset\nacme,"\n', "line "),
            ("account,asset,colour\nacme,,1\n", "line 2: account"),
        ):
            error = self.assertRaises(BadFile, parse, content.encode())
            self.assertTrue(str(error).startswith(message), (message, str(error)))
            self.assertNotIn("sesame", str(error))
            self.assertNotIn("\n", str(error))

    def test_spreadsheet(self) -> None:
        """
        What spreadsheets do: a byte order mark, CRLF, quotes, empty lines, columns in any order.
        """
        content = f'\ufeff"secret_hash","asset","account"\r\n,,acme\r\n\r\n{HASH.replace(",", "!")},1,acme\r\n'
        quoted = content.replace(HASH.replace(",", "!"), f'"{HASH}"')
        found = parse(quoted.encode())
        self.assertEqual(found, {("acme", ""): Account("acme"), ("acme", "1"): Box("acme", "1", secretHash=HASH)})

    @given(st.one_of(st.binary(), st.text().map(str.encode), st.text('account,set\n"{}1:').map(str.encode)))
    def test_anyBytes(self, content: bytes) -> None:
        """
        Whatever stands there, it is a file, or L{BadFile} in one line.
        """
        for one in (content, b"account,asset,revoked,limits\n" + content):
            try:
                parse(one)
            except BadFile as error:
                self.assertEqual(len(str(error).splitlines()), 1)

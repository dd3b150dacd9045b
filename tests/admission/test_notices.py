"""
Tests for L{binaryserver.admission.notices}.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.admission.notices import DirectoryNotices, readChange
from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Change
from binaryserver.errors import BusError
from binaryserver.model import StoredRecord
from binaryserver.proto.cloudnext_pb2 import DirectoryChange
from tests.admission.handdirectory import HandDirectory

JSON = (("content-type", b"application/json"),)


def record(value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> StoredRecord:
    """
    One of the topic.
    """
    return StoredRecord("directory", 0, 0, 0, b"", value, headers)


class ReadChangeTests(SynchronousTestCase):
    """
    What a record says.
    """

    def test_forms(self) -> None:
        """
        Protobuf, and JSON where the record says so.
        """
        for change in (Change("acme", "box-1"), Change("acme"), Change()):
            told = DirectoryChange(account=change.account, asset=change.asset)
            self.assertEqual(readChange(record(told.SerializeToString())), change)
        self.assertEqual(readChange(record(b'{"account": "acme", "later": 1}', JSON)), Change("acme"))

    def test_wrong(self) -> None:
        """
        What says nothing that can be.
        """
        for value, headers in (
            (b"\xff", ()),
            (b"{", JSON),
            (b"[]", JSON),
            (b'{"account": 3}', JSON),
            (DirectoryChange(asset="box-1").SerializeToString(), ()),
            (DirectoryChange(account="a/b").SerializeToString(), ()),
        ):
            self.assertIsNone(readChange(record(value, headers)), value)

    @given(st.binary(), st.booleans())
    def test_anything(self, value: bytes, isJson: bool) -> None:
        """
        Any bytes say something or nothing.
        """
        readChange(record(value, JSON if isJson else ()))


class HandReader:
    """
    Gives out what the test brings.
    """

    def __init__(self) -> None:
        self.isClosed = False
        self._reading: Deferred[list[StoredRecord]] = Deferred()

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{binaryserver.interfaces.IBusReader.read}.
        """
        self._reading = Deferred()
        return self._reading

    def close(self) -> Deferred[None]:
        """
        See L{binaryserver.interfaces.IBusReader.close}.
        """
        self.isClosed = True
        if not self._reading.called:
            self._reading.callback([])
        return succeed(None)

    def bring(self, *records: StoredRecord) -> None:
        """
        Let these be read.
        """
        self._reading.callback(list(records))

    def fail(self, error: Exception) -> None:
        """
        Let the read fail.
        """
        self._reading.errback(error)


class DirectoryNoticesTests(SynchronousTestCase):
    """
    The reader.
    """

    def setUp(self) -> None:
        """
        Begin.
        """
        self.clock = Clock()
        self.readers: list[HandReader] = []
        self.opened: list[tuple[object, bool]] = []
        self.isAway = False
        directory = Directory(HandDirectory(), self.clock)
        self.heard: list[Change] = []
        directory.onChange(self.heard.append)
        bus: Any = self
        self.notices = DirectoryNotices(directory, bus, "directory", self.clock)
        self.successResultOf(self.notices.begin())

    def openReader(self, topics: object, fromStart: bool) -> Deferred[Any]:
        """
        See L{binaryserver.interfaces.IBus.openReader}.
        """
        if self.isAway:
            return fail(BusError("away"))
        self.opened.append((topics, fromStart))
        self.readers.append(HandReader())
        return succeed(self.readers[-1])

    def test_told(self) -> None:
        """
        Each change is handed on, in order, as it comes.
        """
        self.assertEqual(self.opened, [(("directory",), False)])
        for change in (Change("acme"), Change("acme", "box-1")):
            told = DirectoryChange(account=change.account, asset=change.asset)
            self.readers[0].bring(record(told.SerializeToString()))
        self.assertEqual(self.heard, [Change("acme"), Change("acme", "box-1")])

    def test_unreadable(self) -> None:
        """
        One that cannot be read may have said anything.
        """
        self.readers[0].bring(record(b"\xff"))
        self.assertEqual(self.heard, [Change()])

    def test_repeated(self) -> None:
        """
        What several records say that come together is handed on once, whatever else comes in between.
        """
        acme = record(DirectoryChange(account="acme").SerializeToString())
        self.readers[0].bring(record(b"\xff"), acme, record(b"\xff"), acme, record(b""))
        self.assertEqual(self.heard, [Change(), Change("acme")])
        self.readers[0].bring(acme)
        self.assertEqual(self.heard, [Change(), Change("acme"), Change("acme")])

    def test_lost(self) -> None:
        """
        A reader that fails is closed and another opened, as soon as one can be; what was told meanwhile was not heard.
        """
        self.isAway = True
        self.readers[0].fail(BusError("gone"))
        self.assertTrue(self.readers[0].isClosed)
        self.clock.advance(1)
        self.assertEqual(self.heard, [])
        self.isAway = False
        self.clock.advance(1)
        self.assertEqual(self.heard, [Change()])
        self.readers[1].bring(record(DirectoryChange(account="acme").SerializeToString()))
        self.assertEqual(self.heard, [Change(), Change("acme")])

    def test_unforeseen(self) -> None:
        """
        So it is if it fails as it should not.
        """
        self.readers[0].fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.readers), 2)

    def test_end(self) -> None:
        """
        It ends while it reads, and while it waits.
        """
        self.successResultOf(self.notices.end())
        self.assertTrue(self.readers[0].isClosed)

    def test_endWhileAway(self) -> None:
        """
        See L{test_end}.
        """
        self.readers[0].fail(BusError("gone"))
        self.successResultOf(self.notices.end())
        self.assertEqual(self.clock.getDelayedCalls(), [])

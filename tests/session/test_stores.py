"""
Tests for L{binaryserver.session.memorystore} and L{binaryserver.session.sqlitestore}.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.errors import ConfigError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import MarkUpdate, StreamMark
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.sqlitestore import SqliteSessionStore, _commitMarks, _marks
from binaryserver.sqlitethread import SqliteThread
from tests.session.contract import BOX, DurableSessionStoreContractMixin, SessionStoreContractMixin, reactor


class MemorySessionStoreTests(SessionStoreContractMixin, TestCase):
    """
    The contract.
    """

    def makeStore(self) -> Awaitable[ISessionStore]:
        """
        See L{SessionStoreContractMixin.makeStore}.
        """
        return succeed(MemorySessionStore("memory:", BackEndContext(reactor, "--sessions")))

    def test_takesNoValue(self) -> None:
        """
        C{memory:} names no place.
        """
        self.assertRaises(ConfigError, MemorySessionStore, "memory:x", BackEndContext(reactor, "--sessions"))


class SqliteSessionStoreTests(DurableSessionStoreContractMixin, TestCase):
    """
    The contract.
    """

    def setUp(self) -> None:
        """
        A file of its own.
        """
        self.path = self.mktemp()

    def makeStore(self) -> Awaitable[ISessionStore]:
        """
        See L{SessionStoreContractMixin.makeStore}.
        """
        return succeed(SqliteSessionStore(f"sqlite:{self.path}", BackEndContext(reactor, "--sessions")))

    async def test_badFile(self) -> None:
        """
        One line that names option, file and cause.
        """
        os.mkdir(self.path)
        store = SqliteSessionStore(f"sqlite:{self.path}", BackEndContext(reactor, "--sessions"))
        failing: Any = self.assertFailure(store.start(), ConfigError)
        error = await failing
        self.assertIn(f"--sessions: {self.path}: ", str(error))
        self.assertRaises(ConfigError, SqliteSessionStore, "sqlite:", BackEndContext(reactor, "--sessions"))


class ModelTests(SynchronousTestCase):
    """
    Both stores against a plain model of the marks.
    """

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2**64 - 1), st.integers(0, 10**13)), max_size=30))
    def test_marks(self, updates: list[tuple[int, int, int]]) -> None:
        """
        However marks are raised, both keep the same ones in the same order.
        """
        model: dict[int, StreamMark] = {}
        memory = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        with tempfile.TemporaryDirectory() as folder:
            store = SqliteSessionStore(f"sqlite:{folder}/x", BackEndContext(reactor, "--sessions"))
            thread: SqliteThread = store._thread
            connection = thread._open()
            for stream, committed, latest in updates:
                old = model.pop(stream, StreamMark(stream, 0, 0))
                model[stream] = StreamMark(stream, max(old.committed, committed), max(old.latest, latest))
                for oldest in list(model)[:-4]:
                    del model[oldest]
                update = [MarkUpdate(BOX, stream, committed, latest)]
                self.successResultOf(memory.commitMarks(update))
                _commitMarks(connection, update)
            kept: Deferred[tuple[StreamMark, ...]] = memory.marks(BOX)
            self.assertEqual(self.successResultOf(kept), tuple(model.values()))
            self.assertEqual(_marks(connection, BOX), tuple(model.values()))
            connection.close()

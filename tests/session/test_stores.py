"""
The contract over L{binaryserver.session.memorystore} and L{binaryserver.session.sqlitestore}.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import succeed
from twisted.trial.unittest import TestCase

from binaryserver.errors import ConfigError
from binaryserver.interfaces import ISessionStore
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.sqlitestore import SqliteSessionStore
from tests.session.contract import DurableSessionStoreContractMixin, SessionStoreContractMixin, reactor


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

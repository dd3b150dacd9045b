"""
The threads that check secrets: their own, so that nothing else waits behind a hash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from binaryserver.service import Component


class SecretThreads(Component):
    """
    Of one process.
    """

    def __init__(self, reactor: Any, count: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, count, "secrets")
        self._isEnding = False

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        self._pool.start()
        return succeed(None)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}. Every link is gone: what still waits is nobody's.
        """
        # The pool does all that waits before it stops.
        self._isEnding = True
        self._pool.stop()
        return succeed(None)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Call a function in one of the threads.
        """
        return deferToThreadPool(self._reactor, self._pool, self._unlessEnding, function, *arguments)

    def _unlessEnding(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return None if self._isEnding else function(*arguments)

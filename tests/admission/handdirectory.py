"""
A directory source that the test fills, holds back and takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import DirectoryUnavailable
from binaryserver.interfaces import IDirectorySource


@implementer(IDirectorySource)
class HandDirectory:
    """
    @ivar accounts: by name
    @ivar boxes: by account and asset
    @ivar isAway: it does not answer
    @ivar isHeld: lookups wait for L{release}, and are answered by what is there when they were asked
    @ivar failing: lookups that it does not answer, though it does others
    @ivar asked: every lookup
    """

    requiresLoopback = False
    defaultAccount = ""

    def __init__(self, *known: Account | Box) -> None:
        self.accounts: dict[str, Account] = {}
        self.boxes: dict[tuple[str, str], Box] = {}
        self.isAway = False
        self.isHeld = False
        self.failing: set[tuple[str, ...]] = set()
        self.asked: list[tuple[str, ...]] = []
        self._held: list[tuple[Deferred[Any], Any]] = []
        self.changed: Callable[[Change], None]
        self.put(*known)

    def put(self, *known: Account | Box) -> None:
        """
        Enter, or replace.
        """
        for one in known:
            if isinstance(one, Account):
                self.accounts[one.name] = one
            else:
                self.boxes[one.account, one.asset] = one

    def start(self, changed: Callable[[Change], None]) -> Deferred[None]:
        """
        See L{IDirectorySource.start}.
        """
        self.changed = changed
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}.
        """
        return succeed(None)

    def account(self, name: str) -> Deferred[Account | None]:
        """
        See L{IDirectorySource.account}.
        """
        self.asked.append((name,))
        return self._answer(self.accounts.get(name))

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        self.asked.append((account, asset))
        return self._answer(self.boxes.get((account, asset)))

    def _answer(self, value: Any) -> Deferred[Any]:
        if self.isAway or self.asked[-1] in self.failing:
            return fail(DirectoryUnavailable("taken away by the test"))
        if not self.isHeld:
            return succeed(value)
        held: Deferred[Any] = Deferred()
        self._held.append((held, value))
        return held

    def release(self) -> None:
        """
        Answer what was held back.
        """
        held, self._held = self._held, []
        for waiting, value in held:
            waiting.callback(value)

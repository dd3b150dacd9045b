"""
What the boxes of an account may send, over all instances.

Instances draw on the account's budget in the session store, a little at a time, for all their links of it together. A
message is taken only once there is room for it; the bytes of a read are counted once they are here, so that an
allowance goes below zero by what one read brings, and its link is not read again before it is above. Boxes keep what
they cannot send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.directory.records import Account, AccountLimits
from binaryserver.errors import StoreError, StoreUnavailable
from binaryserver.interfaces import ISessionStore
from binaryserver.model import Draw

_PORTION = 0.25
"""s: of how long the account's whole rate is drawn at once."""

_RETRY = 0.25
"""s until a draw that brought too little is done again."""

_NO_LIMIT = 1 << 30

_PATIENCE = 5.0
"""s that a draw may take: links that wait for it are not read, and no timer of theirs runs."""


class Spender(Protocol):
    """
    A link.
    """

    def pauseForAllowance(self) -> None:
        """
        It may not be read for now.
        """

    def resumeForAllowance(self) -> None:
        """
        It may be read again.
        """


class Allowance:
    """
    Of one account, in one process.

    @ivar links: how many links spend it
    """

    log = Logger()

    def __init__(self, account: str, limits: AccountLimits, store: ISessionStore, clock: IReactorTime) -> None:
        self._account = account
        self._store = store
        self._clock = clock
        self.links = 0
        self._messages = 0.0
        self._bytes = 0.0
        self._waiting: dict[Spender, None] = {}
        self._isDrawing = False
        self._later: IDelayedCall | None = None
        self.limits = limits

    @property
    def room(self) -> int:
        """
        How many messages may be taken now.
        """
        if self._bytes < 0:
            return 0
        return int(self._messages) if self.limits.messages else _NO_LIMIT

    def wait(self, link: Spender) -> None:
        """
        A link has a message, and there is no room: pause it until there is.
        """
        self._waiting[link] = None
        link.pauseForAllowance()
        self._draw()

    def spendMessages(self, count: int) -> None:
        """
        So many were taken, no more than there was room for.
        """
        if self.limits.messages:
            self._messages -= count

    def spendBytes(self, link: Spender, size: int) -> None:
        """
        A read of a link brought so many.
        """
        if self.limits.bandwidth:
            self._bytes -= size
            if self._bytes < 0:
                self.wait(link)

    def changed(self, limits: AccountLimits) -> None:
        """
        The account's limits are others now.
        """
        self.limits = limits
        if not limits.messages:
            self._messages = 0.0
        if not limits.bandwidth:
            self._bytes = 0.0
        self._settle()

    def leave(self, link: Spender) -> None:
        """
        A link is gone.
        """
        self.links -= 1
        self._waiting.pop(link, None)
        if not self._waiting and self._later is not None:
            self._later.cancel()
            self._later = None

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, {}
        while waiting and self.room:
            link = next(iter(waiting))
            del waiting[link]
            # What it had held may spend all of it again, and it waits again then: behind those that wait already.
            link.resumeForAllowance()
        self._waiting = {**waiting, **self._waiting}
        if self._waiting:
            self._draw()

    def _draw(self) -> None:
        if self._isDrawing or self._later is not None:
            return
        limits, draws = self.limits, []
        if limits.messages and self._messages < 1:
            wanted = max(1.0, limits.messages * _PORTION) - self._messages
            draws.append(Draw(self._account, "messages", wanted, limits.messages))
        if limits.bandwidth and self._bytes < 0:
            draws.append(Draw(self._account, "bytes", limits.bandwidth * _PORTION - self._bytes, limits.bandwidth))
        self._isDrawing = True
        drawn: Deferred[list[float]] = Deferred()
        # Its own, so that nothing of the store's is cancelled.
        drawn.addTimeout(_PATIENCE, self._clock, _late)
        drawn.addCallbacks(self._drawn, self._notDrawn, (draws,), {}, (draws,))
        self._store.draw(draws).chainDeferred(drawn)

    def _drawn(self, granted: Sequence[float], draws: Sequence[Draw]) -> None:
        self._isDrawing = False
        for draw, got in zip(draws, granted, strict=True):
            if draw.kind == "messages":
                self._messages += got
            else:
                self._bytes += got
        if self._waiting and not self.room:
            self._later = self._clock.callLater(_RETRY, self._again)
        else:
            self._settle()

    def _again(self) -> None:
        self._later = None
        self._settle()

    def _notDrawn(self, failure: Failure, draws: Sequence[Draw]) -> None:
        """
        The session store is away. Links outlast that, and each instance allows itself the whole rate meanwhile.
        """
        if not failure.check(StoreError):
            self.log.failure("an account's budget could not be drawn on, in an unforeseen way", failure)
        self._clock.callLater(_PORTION, self._drawn, [draw.rate * _PORTION for draw in draws], draws)


def _late(_: object, timeout: float) -> NoReturn:
    raise StoreUnavailable(f"no answer within {timeout:g} s")


class Allowances:
    """
    Of all accounts with links in one process.
    """

    def __init__(self, store: ISessionStore, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._byAccount: dict[str, Allowance] = {}

    def of(self, account: Account) -> Allowance | None:
        """
        An account's, by its terms of now; L{None}: it has no limits.
        """
        limits = account.limits
        allowance = self._byAccount.get(account.name)
        if not (limits.messages or limits.bandwidth):
            if allowance is not None:
                # Links that came by other terms still have it, and are to be found should there be limits again.
                allowance.changed(limits)
            return None
        if allowance is None:
            for name in [name for name, one in self._byAccount.items() if not one.links]:
                del self._byAccount[name]
            allowance = self._byAccount[account.name] = Allowance(account.name, limits, self._store, self._clock)
        elif allowance.limits != limits:
            allowance.changed(limits)
        return allowance

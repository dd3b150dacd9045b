"""
The directory as the gateway asks it: seldom, and also while the operator's service is away.

What was looked up is fresh for a time and is not asked for again before; when the source does not answer, what is known
serves on, stale, for a longer one. A change that is told makes an entry unusable at once: it is asked for again, and
not served stale meanwhile, since what is known to be wrong might let in who was revoked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.directory.fields import packagedFields
from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import DirectoryUnavailable
from binaryserver.interfaces import IDirectorySource
from binaryserver.model import Clouds
from binaryserver.ops.health import Check

_MAX_ABSENT = 10_000

_PATIENCE = 20.0
"""s that one lookup may take, all tries of the source included."""

_HOLD_OFF = 2.0
"""s after a failed lookup in which what is known of anything else is served without asking."""

_REFUSAL_COUNTS = 10.0
"""s for which the directory is not well after it could not tell of somebody."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """
    For how long what was looked up is used. Times in s; each is the option of that name behind C{--directory-}.

    @ivar fresh: without asking again
    @ivar stale: beyond that, while the source does not answer
    @ivar absent: that there is no such account or box
    @ivar size: accounts, and likewise boxes, that are remembered
    """

    fresh: float = 300.0
    stale: float = 3600.0
    absent: float = 10.0
    size: int = 100_000


@dataclass(slots=True)
class DirectoryCounts:
    """
    @ivar lookups: asked of the source
    @ivar hits: answered from what was known and fresh
    @ivar staleHits: answered from what was known while the source did not answer
    @ivar failures: lookups that the source did not answer
    @ivar changes: notices and changes that the source noticed
    """

    lookups: int = 0
    hits: int = 0
    staleHits: int = 0
    failures: int = 0
    changes: int = 0


Value = TypeVar("Value", Account, Box)


class _Entry(Generic[Value]):
    __slots__ = ("at", "isChanged", "value")

    def __init__(self, value: Value, at: float) -> None:
        self.value: Value = value
        self.at = at
        self.isChanged = False


class _Asking(Generic[Value]):
    """
    A lookup under way.
    """

    __slots__ = ("isOvertaken", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Deferred[Value | None]] = []
        self.isOvertaken = False


class _Table(Generic[Value]):
    """
    What is known of one kind of thing. The least recently used goes first; what is not there has a table of its own, so
    that names that somebody makes up drive out nothing that exists.

    @ivar failingSince: when the source first did not answer, s of the clock; L{None}: it did when it was asked last
    """

    log = Logger()

    def __init__(
        self,
        lookUp: Callable[..., Deferred[Value | None]],
        clock: IReactorTime,
        freshness: Freshness,
        counts: DirectoryCounts,
    ) -> None:
        self._lookUp: Callable[..., Deferred[Value | None]] = lookUp
        self._clock = clock
        self._freshness = freshness
        self._counts = counts
        self._known: OrderedDict[tuple[str, ...], _Entry[Value]] = OrderedDict()
        self._absent: OrderedDict[tuple[str, ...], float] = OrderedDict()
        # What was known of what is not there any more: of its last events.
        self._gone: OrderedDict[tuple[str, ...], Value] = OrderedDict()
        self._asking: dict[tuple[str, ...], _Asking[Value]] = {}
        self._failedAt = float("-inf")
        self._unansweredAt = float("-inf")
        self.failingSince: float | None = None

    @property
    def failedAt(self) -> float:
        """
        When the source last did not answer, s of the clock; of long ago: it has answered since.
        """
        return self._failedAt

    @property
    def unansweredAt(self) -> float:
        """
        Likewise, when that left somebody without an answer.
        """
        return self._unansweredAt

    def peek(self, key: tuple[str, ...]) -> Value | None:
        """
        What was known last, however old.
        """
        entry = self._known.get(key)
        if entry is None:
            return self._gone.get(key)
        self._known.move_to_end(key)
        value: Value = entry.value
        return value

    def get(self, key: tuple[str, ...]) -> Deferred[Value | None]:
        """
        See L{Directory.account}.
        """
        now = self._clock.seconds()
        entry = self._known.get(key)
        if entry is not None:
            self._known.move_to_end(key)
            if not entry.isChanged and now - entry.at < self._freshness.fresh:
                self._counts.hits += 1
                return succeed(entry.value)
            if self._isServedStale(entry, now) and now - self._failedAt < _HOLD_OFF:
                self._counts.staleHits += 1
                return succeed(entry.value)
        elif now < self._absent.get(key, now):
            self._counts.hits += 1
            return succeed(None)
        waiting: Deferred[Value | None] = Deferred()
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = _Asking()
            asking.waiting.append(waiting)
            self._ask(key, asking)
        else:
            asking.waiting.append(waiting)
        return waiting

    def _isServedStale(self, entry: _Entry[Value], now: float) -> bool:
        return not entry.isChanged and now - entry.at < self._freshness.fresh + self._freshness.stale

    def _ask(self, key: tuple[str, ...], asking: _Asking[Value]) -> None:
        self._counts.lookups += 1
        asking.isOvertaken = False
        asked: Deferred[Value | None] = maybeDeferred(self._lookUp, *key)
        asked.addTimeout(_PATIENCE, self._clock)
        asked.addCallbacks(self._answered, self._failed, (key, asking), {}, (key, asking))

    def _answered(self, value: Value | None, key: tuple[str, ...], asking: _Asking[Value]) -> None:
        if asking.isOvertaken:
            # The answer may be from before the change.
            self._ask(key, asking)
            return
        self._failedAt = self._unansweredAt = float("-inf")
        self.failingSince = None
        now = self._clock.seconds()
        if value is None:
            before = self._known.pop(key, None)
            if before is not None:
                self._gone[key] = before.value
                if len(self._gone) > _MAX_ABSENT:
                    self._gone.popitem(last=False)
            self._absent[key] = now + self._freshness.absent
            self._absent.move_to_end(key)
            if len(self._absent) > _MAX_ABSENT:
                self._absent.popitem(last=False)
        else:
            self._absent.pop(key, None)
            self._gone.pop(key, None)
            self._known[key] = _Entry(value, now)
            self._known.move_to_end(key)
            if len(self._known) > self._freshness.size:
                self._known.popitem(last=False)
        self._fire(key, asking, value)

    def _failed(self, failure: Failure, key: tuple[str, ...], asking: _Asking[Value]) -> None:
        if failure.check(TimeoutError):
            failure = Failure(DirectoryUnavailable(f"no answer within {_PATIENCE:g} s"))
        elif not failure.check(DirectoryUnavailable):
            self.log.failure("a lookup in the directory failed in an unforeseen way", failure)
            failure = Failure(DirectoryUnavailable(f"{failure.type}: {failure.getErrorMessage()}"))
        now = self._clock.seconds()
        self._counts.failures += 1
        if now - self._failedAt >= _HOLD_OFF:
            self.log.warn("the directory does not answer: {reason}", reason=failure.getErrorMessage())
        self._failedAt = now
        if self.failingSince is None:
            self.failingSince = now
        entry = self._known.get(key)
        if entry is not None and self._isServedStale(entry, now):
            self._counts.staleHits += len(asking.waiting)
            self._fire(key, asking, entry.value)
        else:
            self._unansweredAt = now
            self._fire(key, asking, failure)

    def _fire(self, key: tuple[str, ...], asking: _Asking[Value], result: Value | Failure | None) -> None:
        del self._asking[key]
        for waiting in asking.waiting:
            if isinstance(result, Failure):
                waiting.errback(Failure(result.value))
            else:
                waiting.callback(result)

    def change(self, key: tuple[str, ...] | None) -> None:
        """
        One is not as it was; L{None}: any may not be.
        """
        for entry in self._known.values() if key is None else filter(None, [self._known.get(key)]):
            entry.isChanged = True
        for asking in self._asking.values() if key is None else filter(None, [self._asking.get(key)]):
            asking.isOvertaken = True
        if key is None:
            self._absent.clear()
        else:
            self._absent.pop(key, None)


class Directory:
    """
    Of one process.

    @ivar counts: what it did
    @ivar version: grows with each change
    """

    def __init__(self, source: IDirectorySource, clock: IReactorTime, freshness: Freshness | None = None) -> None:
        self._source = source
        self._clock = clock
        self.counts = DirectoryCounts()
        self.version = 0
        self.requiresLoopback: bool = source.requiresLoopback
        self.defaultAccount: str = source.defaultAccount
        self._listeners: list[Callable[[Change], None]] = []
        freshness = freshness or Freshness()
        self._accounts: _Table[Account] = _Table(source.account, clock, freshness, self.counts)
        self._boxes: _Table[Box] = _Table(source.box, clock, freshness, self.counts)
        self._packaged = packagedFields()

    def start(self) -> Deferred[None]:
        """
        See L{IDirectorySource.start}.
        """
        return self._source.start(self.changed)

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}.
        """
        return self._source.stop()

    def onChange(self, listener: Callable[[Change], None]) -> None:
        """
        Have a function called with every change, once nothing of before it is served any more.
        """
        self._listeners.append(listener)

    def changed(self, change: Change) -> None:
        """
        Something is not as it was.
        """
        self.counts.changes += 1
        self.version += 1
        if not change.account:
            self._accounts.change(None)
            self._boxes.change(None)
        elif not change.asset:
            self._accounts.change((change.account,))
        else:
            self._boxes.change((change.account, change.asset))
        for listener in self._listeners:
            listener(change)

    def check(self) -> Check:
        """
        How it does: not well if it lately could not tell of somebody. As long as it only is away, and what is known
        serves on, boxes may come.
        """
        now = self._clock.seconds()
        tables = self._accounts, self._boxes
        unanswered = now - max(table.unansweredAt for table in tables)
        if unanswered <= _REFUSAL_COUNTS:
            return Check(False, f"it did not answer {unanswered:.0f} s ago, and somebody could not be looked up")
        if max(table.failedAt for table in tables) > float("-inf"):
            return Check(True, "it does not answer, and what is known serves on")
        return Check(True, "it answers when it is asked")

    @property
    def failingSince(self) -> float | None:
        """
        Since when the source does not answer, s of the clock; L{None}: it answered when it was asked last.
        """
        since = [one for one in (self._accounts.failingSince, self._boxes.failingSince) if one is not None]
        return min(since, default=None)

    def account(self, name: str) -> Deferred[Account | None]:
        """
        Look up an account. Fires with L{None}: there is none. Fails with L{DirectoryUnavailable}: the source does not
        answer, and what is known is too old, or known to be out of date.
        """
        return self._accounts.get((name,))

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        Look up a box of an account, likewise.
        """
        return self._boxes.get((account, asset))

    def known(self, account: str) -> Account | None:
        """
        What was known last of an account, at once; of one whose box is here that is never nothing.
        """
        return self._accounts.peek((account,))

    def clouds(self, account: str) -> Clouds:
        """
        Where an account's events go, if the gateway has both. At once.
        """
        known = self._accounts.peek((account,))
        # Of who is not known at all there are only refusals to tell.
        return Clouds.cloudnext if known is None else known.clouds

    def fieldName(self, account: str, number: int) -> tuple[str, str] | None:
        """
        Name and type (C{"int"}, C{"bool"}, C{"string"}, C{"double"}, C{"bytes"}) of a numbered field of a track;
        L{None} if the account has none of that number. At once: what is not known yet is not known.
        """
        known = self._accounts.peek((account,))
        fields: Any = self._packaged if known is None or known.fields is None else known.fields
        found: tuple[str, str] | None = fields.get(number)
        return found

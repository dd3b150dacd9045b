"""
RQueue: CloudConnect's events as MessagePack in Redis lists, one a kind.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from hashlib import sha1

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.bus.rqueue_settings import RQueueSettings, parseRQueue
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, BusUnavailable, ConfigError, RejectedData, StoreError, StoreUnavailable
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from binaryserver.session.redischecks import checkServer, startChecked
from binaryserver.session.redislink import LinkState, RedisLink
from binaryserver.session.redisscripts import Script
from binaryserver.transcode.cloudconnect import encodeEvent
from binaryserver.transcode.cloudconnect_layout import Kind

MAX_RECORD = 16 * 1024 * 1024
"""bytes"""

MOST_PUSHED, MOST_PUSHED_BYTES = 2000, 1024 * 1024
"""How many events, and bytes of them, are pushed at once, if there are more than one."""

_RETRY = 0.25
"""s between two attempts while Redis is away or the list is full."""

_REMEMBERED_MS = 86_400_000

# Pushes what there is room for, and gives how many that were. The push of a number that was done is not done again: an
# answer that was lost leaves it unknown what was done, and what a lost connection still holds may come late.
_PUSH = """
local list, copy, done, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local most, remembered = tonumber(ARGV[5]), ARGV[6]
local known, count = (redis.call('GET', done) or ''):match('^(%d+) (%d+)$')
if known and tonumber(known) >= number then
    return tonumber(count)
end
local lists = {list}
if copy ~= '' then
    lists[2] = copy
end
count = #ARGV - 6
for _, each in ipairs(lists) do
    count = math.min(count, most - redis.call('LLEN', each))
end
if count <= 0 then
    return 0
end
for _, each in ipairs(lists) do
    for first = 7, count + 6, 1000 do
        redis.call('RPUSH', each, unpack(ARGV, first, math.min(first + 999, count + 6)))
    end
end
redis.call('SET', done, string.format('%d %d', number, count), 'PX', remembered)
return count
"""


def scriptOf(text: str) -> Script:
    """
    A script, with what Redis knows it by.
    """
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


_PUSH_SCRIPT = scriptOf(_PUSH)


class _Waiting:
    """
    A flush, of which something is not in its list yet.
    """

    __slots__ = ("count", "done", "size")

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self.done: Deferred[None] = Deferred()


async def checkQueue(link: RedisLink, settings: RQueueSettings, option: str) -> tuple[str, ...]:
    """
    See L{checkServer} and L{checkLists}.
    """
    warnings = await checkServer(link.call, settings.redis, option)
    await checkLists(link, settings, option)
    return warnings


async def checkLists(link: RedisLink, settings: RQueueSettings, option: str) -> None:
    """
    Look whether the lists can be some.

    @raise ConfigError: there is something else
    @raise StoreError: Redis does not say
    """
    for key in [listOf(kind) for kind in Kind for listOf in (settings.listOf, settings.copyOf)]:
        if key and await link.call("TYPE", key) not in (b"none", b"list"):
            raise ConfigError(option, f"{settings.redis.where}: {key} is no list; is prefix right?")


class RQueue:
    """
    C{rqueue://[:PASSWORD@]HOST:PORT/DB[?option=value...]}, C{rqueues://...} with TLS: CloudConnect's side of
    L{binaryserver.bus.clouds.CloudsBus}.

    While Redis is away, or a list is full, flushes wait: nothing is dropped.

    @ivar maxRecord: as L{binaryserver.interfaces.IBus.maxRecord}
    @ivar pendingBytes: as L{binaryserver.interfaces.IBus.pendingBytes}
    @ivar warnings: what was found at the start that the operator should know, a sentence each
    @ivar topics: those whose records CloudConnect has a form of
    """

    log = Logger()

    maxRecord = MAX_RECORD

    def __init__(self, spec: str, context: BackEndContext, topics: Topics) -> None:
        """
        @raise ConfigError: C{spec} cannot be understood
        """
        self._context = context
        self._settings = parseRQueue(spec, context.option)
        self._link = RedisLink(context.reactor, self._settings.redis, context.option, (_PUSH_SCRIPT,))
        producer = os.urandom(8).hex()
        self._lists = {
            topic: _List(self, kind, f"{self._settings.listOf(kind)}:pushed:{producer}")
            for topic, kind in (
                (topics.tracks, Kind.track),
                (topics.messages, Kind.message),
                (topics.presences, Kind.presence),
            )
        }
        self.topics = frozenset(self._lists)
        self.warnings: tuple[str, ...] = ()
        self._isRunning = False

    @property
    def pendingBytes(self) -> int:
        """
        Bytes of records handed to L{publish} whose Deferred has not fired yet, in CloudConnect's form.
        """
        return sum(each.pendingBytes for each in self._lists.values())

    def start(self) -> Deferred[None]:
        """
        Connect, and look at what is there. Fails with L{ConfigError} or L{BusUnavailable}.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        option, where = self._context.option, self._settings.redis.where
        reactor, timeout = self._context.reactor, self._context.startTimeout
        try:
            self.warnings = await startChecked(
                self._link, where, option, reactor, timeout, lambda: checkQueue(self._link, self._settings, option)
            )
        except StoreError as error:
            text = str(error)
            raise BusUnavailable(text if text.startswith(option) else f"{option}: {where}: {text}") from error
        self._isRunning = True

    def stop(self) -> Deferred[None]:
        """
        As L{binaryserver.interfaces.IBus.stop}.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._isRunning = False
        idle = gatherResults([each.whenIdle() for each in self._lists.values()], consumeErrors=True)
        if self._link.state is not LinkState.stopped:
            await idle.addTimeout(self._context.stopTimeout, self._context.reactor, lambda *_: None)
        for each in self._lists.values():
            each.abandon(BusError(f"{self._context.option}: the queue was stopped"))
        await self._link.stop(0)

    def publish(self, topic: str, partition: int, records: Sequence[Record], shared: bool = False) -> Deferred[None]:
        """
        Append to the list of a topic, in order, behind what was published to it before.

        Fires once Redis has them all. Fails with a L{BusError} when that is not known to be so. Never raises.

        @param topic: one of C{topics}
        @param partition: lists have none
        @param shared: they are published to CloudNext, too
        """
        place = self._lists.get(topic)
        if not self._isRunning or place is None:
            return fail(BusError("the queue is stopped" if place is not None else f"no list is for {topic}"))
        try:
            packed = [encodeEvent(place.kind, record, shared) for record in records]
        except RejectedData as error:
            return fail(BusError(f"a record has no form in CloudConnect: {error}"))
        return place.append(packed)

    def push(self, kind: Kind, done: str, number: int, packed: Sequence[bytes]) -> Deferred[int]:
        """
        Push the first of some events, as many as there is room for, unless that was done before.

        @param done: the key of the number of our last push
        @param number: of this push; another one as soon as it is known what became of it
        @return: fires with how many; fails with L{StoreError}
        """
        settings = self._settings
        arguments = (settings.listOf(kind), settings.copyOf(kind), done, number, settings.maxLength, _REMEMBERED_MS)
        return self._link.script(_PUSH_SCRIPT, *arguments, *packed)

    def listOf(self, kind: Kind) -> str:
        """
        The key of the list of a kind.
        """
        return self._settings.listOf(kind)

    def later(self) -> Deferred[None]:
        """
        Fires when it is time for another attempt.
        """
        return deferLater(self._context.reactor, _RETRY)


class _List:
    """
    One list, and what is to be pushed to it: one push at a time, so that what is behind one that waits waits, too.

    @ivar pendingBytes: bytes of what waits
    """

    log = Logger()

    def __init__(self, queue: RQueue, kind: Kind, done: str) -> None:
        """
        @param done: the key of the number of our last push
        """
        self._queue = queue
        self.kind = kind
        self.key = queue.listOf(kind)
        self._done = done
        self._number = 0
        self._packed: deque[bytes] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._pushing: Deferred[None] | None = None
        self._complaint = ""
        self._idle: list[Deferred[None]] = []
        self.pendingBytes = 0

    def append(self, packed: list[bytes]) -> Deferred[None]:
        """
        Push behind what waits.
        """
        size = sum(map(len, packed))
        waiting = _Waiting(len(packed), size)
        self._packed += packed
        self._waiting.append(waiting)
        self.pendingBytes += size
        if self._pushing is None:
            self._pushing = Deferred.fromCoroutine(self._push())
            self._pushing.addErrback(self._ended)
        return waiting.done

    async def _push(self) -> None:
        # Let what else this turn brings go with it.
        await deferLater(self._queue._context.reactor, 0)
        while self._waiting:
            try:
                await self._pushed(self._next())
            except StoreError as error:
                self._number += 1
                self._failAll(BusError(str(error)))
        self._pushing = None
        self._tellIdle()

    def _next(self) -> list[bytes]:
        """
        What is pushed at once.
        """
        packed: list[bytes] = []
        size = 0
        while self._packed and len(packed) < MOST_PUSHED:
            size += len(self._packed[0])
            if packed and size > MOST_PUSHED_BYTES:
                break
            packed.append(self._packed.popleft())
        return packed

    async def _pushed(self, packed: list[bytes]) -> None:
        """
        Push, however long it takes.

        @raise StoreError: Redis will never take it
        """
        while packed:
            try:
                count = await self._queue.push(self.kind, self._done, self._number, packed)
            except StoreUnavailable as error:
                self._complain(str(error))
                await self._queue.later()
                continue
            self._number += 1
            del packed[:count]
            self._settle(count)
            if packed:
                self._complain(f"{self.key} is full: boxes wait until it is read")
                await self._queue.later()
        self._settle(0)
        if self._complaint:
            self._complaint = ""
            self.log.info("{key} takes events again", key=self.key)

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            self.log.warn("events for CloudConnect wait: {reason}", reason=reason)

    def _settle(self, count: int) -> None:
        while self._waiting:
            waiting = self._waiting[0]
            if waiting.count > count:
                waiting.count -= count
                return
            count -= waiting.count
            self._waiting.popleft()
            self.pendingBytes -= waiting.size
            waiting.done.callback(None)

    def _failAll(self, error: BusError) -> None:
        # In their order, and all that is behind: what is later must not come before what will be sent again.
        self._packed.clear()
        failed, self._waiting = self._waiting, deque()
        for waiting in failed:
            self.pendingBytes -= waiting.size
            waiting.done.errback(Failure(error))

    def whenIdle(self) -> Deferred[None]:
        """
        Fires once nothing waits.
        """
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        if self._pushing is None:
            self._tellIdle()
        return idle

    def _tellIdle(self) -> None:
        idle, self._idle = self._idle, []
        for each in idle:
            if not each.called:
                each.callback(None)

    def abandon(self, error: BusError) -> None:
        """
        Push no more; what waits fails.
        """
        pushing, self._pushing = self._pushing, None
        if pushing is not None:
            pushing.cancel()
        self._failAll(error)

    def _ended(self, failure: Failure) -> None:
        if self._pushing is not None:
            self._pushing = None
            self.log.failure("a queue of CloudConnect failed in an unforeseen way", failure)
            self._failAll(BusError("the queue failed"))

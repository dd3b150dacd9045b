"""
One list of RQueue, read reliably: what is taken from it waits in a second list until it is done with.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred

from binaryserver.bus.rqueue import scriptOf
from binaryserver.errors import StoreError
from binaryserver.session.redislink import RedisLink

_TIME = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# The reader is whom the hash names, until the time that it names; over that time he still is if nobody else has come.
# An exchange of a number that was done is not done again: an answer that was lost leaves it unknown what was done, and
# what a lost connection still holds may come late.
_EXCHANGE = (
    _TIME
    + """
local list, taken, reader, me, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local number, done, most, mostBytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local known = redis.call('HMGET', reader, 'reader', 'until', 'number')
local isNew = known[1] ~= me
if isNew and known[1] and tonumber(known[2]) > now then
    return {0, tonumber(known[2]) - now, redis.call('LLEN', list), {}}
end
if not isNew and tonumber(known[3]) > number then
    return {0, 0, 0, {}}
end
-- A script that has written goes on when memory is short. This one is what makes room.
redis.call('DEL', reader .. ':none')
if isNew or done > 0 or tonumber(known[2]) - now < lease * 2 / 3 then
    redis.call('HSET', reader, 'reader', me, 'until', string.format('%d', now + lease), 'number', ARGV[6])
end
if done > 0 and not isNew and tonumber(known[3]) < number then
    redis.call('LTRIM', taken, done, -1)
end
local events, size = {}, 0
local function gather(key)
    while #events < most do
        local found = redis.call('LRANGE', key, #events, math.min(#events + 63, most - 1))
        for _, event in ipairs(found) do
            size = size + #event
            if #events > 0 and size > mostBytes then
                return
            end
            events[#events + 1] = event
        end
        if #found < 64 then
            return
        end
    end
end
gather(taken)
if #events == 0 and most > 0 then
    gather(list)
    for first = 1, #events, 1000 do
        redis.call('RPUSH', taken, unpack(events, first, math.min(first + 999, #events)))
    end
    if #events > 0 then
        redis.call('LTRIM', list, #events, -1)
    end
end
return {isNew and 2 or 1, 0, redis.call('LLEN', list), events}
"""
)

_RENEW = (
    _TIME
    + """
if redis.call('HGET', ARGV[1], 'reader') ~= ARGV[2] then
    return 0
end
redis.call('DEL', ARGV[1] .. ':none')
redis.call('HSET', ARGV[1], 'until', string.format('%d', now + tonumber(ARGV[3])))
return 1
"""
)

EXCHANGE, RENEW = scriptOf(_EXCHANGE), scriptOf(_RENEW)

MOST_BYTES = 4 * 1024 * 1024
"""Bytes of events that are taken at once, if there are more than one."""


class Taken(NamedTuple):
    """
    What an exchange gave.

    @ivar isOurs: we are the list's reader
    @ivar isNew: only just now
    @ivar wait: s after which another reader is dead unless he says otherwise
    @ivar backlog: how many events are left in the list
    @ivar packed: the events
    """

    isOurs: bool
    isNew: bool
    wait: float
    backlog: int
    packed: list[bytes]


class Source(Protocol):
    """
    A list that at most one of its readers reads at a time.

    A reader is alone for as long as he says so often enough; when he does not, another takes over, beginning with what
    was taken and is not done with.
    """

    key: str

    def exchange(self, done: int, most: int) -> Deferred[Taken]:
        """
        Say that the first C{done} events of those given last are done with, and take what comes next: C{most} at most,
        those first that were taken before. May be called again after it has failed; fails with L{StoreError}.
        """

    def renew(self) -> Deferred[bool]:
        """
        Say that we are alive. Fires with whether we still are the reader; fails with L{StoreError}.
        """

    def release(self) -> Deferred[None]:
        """
        Let another reader take over at once.
        """


class RedisSource:
    """
    See L{Source}.
    """

    def __init__(self, link: RedisLink, key: str, reader: str, lease: float) -> None:
        """
        @param key: of the list
        @param reader: who we are: another one for each process
        @param lease: s after which a reader that was not heard of is dead
        """
        self.key = key
        self._link = link
        self._me = reader
        self._leaseMs = int(lease * 1000)
        self._number = 0

    def exchange(self, done: int, most: int) -> Deferred[Taken]:
        """
        See L{Source.exchange}.
        """

        def read(reply: Any) -> Taken:
            match reply:
                case [int(state), int(wait), int(backlog), list(packed)]:
                    self._number += 1
                    return Taken(state > 0, state == 2, wait / 1000, backlog, packed)
                case _:
                    raise StoreError(f"{self.key}: Redis answers something else than was asked")

        names = (self.key, f"{self.key}:taken", f"{self.key}:reader", self._me, self._leaseMs)
        return self._link.script(EXCHANGE, *names, self._number, done, most, MOST_BYTES).addCallback(read)

    def renew(self) -> Deferred[bool]:
        """
        See L{Source.renew}.
        """
        return self._link.script(RENEW, f"{self.key}:reader", self._me, self._leaseMs).addCallback(bool)

    def release(self) -> Deferred[None]:
        """
        See L{Source.release}.
        """
        return self._link.script(RENEW, f"{self.key}:reader", self._me, 0).addCallback(lambda _: None)

"""
The connection to Redis: kept, and made anew.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError, StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.session.redisfailures import TRANSIENT, Silence, codesOf, describeEnd, unusable
from binaryserver.session.redisreplies import ErrorReply
from binaryserver.session.redisscripts import Script
from binaryserver.session.redissettings import RedisSettings

if TYPE_CHECKING:
    from binaryserver.session.redisprotocol import RedisProtocol

PATIENCE = 2.0
"""s that a call waits for the connection to come back."""

MOST_CALLS, MOST_BYTES = 20_000, 64 * 1024 * 1024
"""How many calls, and bytes of them, may wait, for the connection or for their answers."""

_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0
_STEADY = 5.0
"""s after which a connection was a good one: the next attempt after it is made at once."""

_TICK = 0.1
"""s between two looks at what waits for too long."""


class LinkState(Enum):
    """
    What is waited for.
    """

    stopped = "to be started"
    connecting = "an answer to the greeting"
    ready = "calls"
    waiting = "the time of the next attempt"


class _Waiting(NamedTuple):
    """
    A call that has not been sent.
    """

    deadline: float
    words: tuple[Any, ...]
    size: int
    answer: Deferred[Any]


class _Sent(NamedTuple):
    """
    A call that has not been answered.
    """

    deadline: float
    size: int


class RedisLink:
    """
    One connection. Calls are answered in their order; when it is lost, or one of them is not answered in time, all that
    were sent fail, and a new one is made, again and again.

    @ivar state: what is waited for
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: RedisSettings,
        option: str,
        scripts: Sequence[Script] = (),
        channel: str = "",
        onMessage: Callable[[bytes], None] | None = None,
        onReady: Callable[[], None] = lambda: None,
    ) -> None:
        """
        @param option: the option's name, for errors
        @param scripts: to be handed to Redis beforehand
        @param channel: to be subscribed to; empty: none. Then the only call that Redis takes is PING.
        @param onMessage: called with what is published there
        @param onReady: called whenever the connection was made
        """
        self._reactor = reactor
        self._settings = settings
        self._option = option
        self._scripts = scripts
        self._channel = channel
        self._onMessage = onMessage
        self._onReady = onReady
        self.state = LinkState.stopped
        self._protocol: RedisProtocol | None = None
        self._opening: Deferred[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._sent: deque[_Sent] = deque()
        self._size = 0
        self._tick: IDelayedCall | None = None
        self._failures = 0
        self._readyAt = 0.0
        self._idle: Deferred[None] | None = None

    def start(self, timeout: float) -> Deferred[None]:
        """
        Connect. Fails with L{ConfigError}, at once where another attempt would end alike, or L{StoreUnavailable}.

        @param timeout: s after which to give up
        """
        self._opening = Deferred.fromCoroutine(self._start(self._reactor.seconds() + timeout))
        return self._opening

    async def _start(self, deadline: float) -> None:
        self.state = LinkState.connecting
        delay = _FIRST_DELAY
        last: StoreUnavailable | None = None
        while True:
            rest = max(0.01, deadline - self._reactor.seconds())
            try:
                await self._open(min(self._settings.timeout, rest))
                return
            except StoreUnavailable as error:
                # The last attempt may be cut short: an earlier one knows better what is wrong.
                last = error if last is None or rest >= self._settings.timeout else last
                if self._reactor.seconds() + delay >= deadline:
                    self.state = LinkState.stopped
                    raise last from None
                self.log.debug("{where} is not there yet: {reason}", where=self._settings.where, reason=error)
            except ConfigError:
                self.state = LinkState.stopped
                raise
            await deferLater(self._reactor, delay)
            delay = min(delay * 2, _LONGEST_DELAY)

    def stop(self, timeout: float) -> Deferred[None]:
        """
        Take no more calls; once those under way are answered, or C{timeout} s are over, disconnect.
        """
        return Deferred.fromCoroutine(self._stop(timeout))

    async def _stop(self, timeout: float) -> None:
        if self.state is LinkState.stopped:
            return
        if self._idle is None and (self._sent or self._waiting):
            self._idle = Deferred()
            await self._idle.addTimeout(timeout, self._reactor, lambda *_: None)
        self.state = LinkState.stopped
        text = f"{self._option}: the link to {self._settings.where} was stopped"
        if self._opening is not None:
            self._opening.cancel()
        self._failWaiting(float("inf"), Failure(StoreNotAsked(text)))
        if self._protocol is not None:
            self._protocol.abandon(Failure(StoreUnavailable("the link was stopped")))
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def script(self, script: Script, *arguments: Any) -> Deferred[Any]:
        """
        Call a script by its hash, or by its text if Redis has forgotten it.
        """

        def forgotten(failure: Failure) -> Deferred[Any]:
            refusal = failure.value.__cause__ if failure.check(StoreError) else None  # type: ignore[union-attr]
            if not isinstance(refusal, ErrorReply) or refusal.code != "NOSCRIPT":
                return fail(failure)
            return self._call(("EVAL", script.text, 0, *arguments))

        return self.call("EVALSHA", script.hash, 0, *arguments).addErrback(forgotten)

    def call(self, *words: Any) -> Deferred[Any]:
        """
        Send a command. Fails with L{StoreError}, whose cause is the L{ErrorReply} if there was one; L{StoreNotAsked}:
        it was not sent, or Redis refuses all such commands for now.
        """
        if self.state is LinkState.stopped or self._idle is not None:
            return fail(StoreNotAsked(f"{self._option}: {self._settings.where} is not started"))
        calls = len(self._sent) + len(self._waiting)
        if calls >= MOST_CALLS or self._size >= MOST_BYTES:
            return fail(StoreNotAsked(f"{self._option}: too much waits for {self._settings.where}: {calls} calls"))
        return self._call(words)

    def _call(self, words: tuple[Any, ...]) -> Deferred[Any]:
        size = sum(len(word) for word in words if isinstance(word, str | bytes))
        self._size += size
        # Who cancels it does not want the answer, which comes all the same: the call itself goes on.
        answer: Deferred[Any] = Deferred()
        if self._protocol is not None:
            self._send(self._protocol, words, size).chainDeferred(answer)
        else:
            self._waiting.append(_Waiting(self._reactor.seconds() + PATIENCE, words, size, answer))
            self._watch()
        return answer

    def _send(self, protocol: RedisProtocol, words: Sequence[Any], size: int) -> Deferred[Any]:
        self._sent.append(_Sent(self._reactor.seconds() + self._settings.timeout, size))
        self._watch()
        called: Deferred[Any] = protocol.execute_command(*words)
        return called.addCallbacks(self._answered, self._failed, errbackArgs=(protocol,))

    def _answered(self, reply: Any) -> Any:
        self._size -= self._sent.popleft().size
        return reply

    def _failed(self, failure: Failure, protocol: RedisProtocol) -> None:
        self._size -= self._sent.popleft().size
        error = failure.value
        if not isinstance(error, ErrorReply):
            reason = "the connection is lost" if protocol.ended is None else describeEnd(protocol.ended, self._settings)
            raise StoreUnavailable(f"{self._option}: {self._settings.where}: {reason}") from None
        text = f"{self._option}: {self._settings.where} refuses: {error}"
        codes = codesOf(error)
        if not codes.isdisjoint(("READONLY", "NOAUTH")) and protocol.ended is None:
            # A replica, or one that was made anew: the name may stand for another by now.
            protocol.abandon(failure)
        if not codes.isdisjoint(TRANSIENT):
            raise StoreNotAsked(text) from error
        raise StoreError(text) from error

    # What waits for too long.

    def _watch(self) -> None:
        if self._tick is None:
            self._tick = self._reactor.callLater(_TICK, self._look)

    def _look(self) -> None:
        self._tick = None
        now = self._reactor.seconds()
        if self._sent and self._sent[0].deadline <= now and self._protocol is not None:
            late = StoreUnavailable(f"it has not answered for {self._settings.timeout:g} s")
            self._protocol.abandon(Failure(late))
        away = StoreNotAsked(f"{self._option}: {self._settings.where} cannot be reached")
        self._failWaiting(now, Failure(away))
        if self._sent or self._waiting:
            self._watch()
        elif self._idle is not None and not self._idle.called:
            self._idle.callback(None)

    def _failWaiting(self, until: float, reason: Failure) -> None:
        while self._waiting and self._waiting[0].deadline <= until:
            waiting = self._waiting.popleft()
            self._size -= waiting.size
            waiting.answer.errback(reason)

    # Connecting.

    def _endpoint(self) -> IStreamClientEndpoint:
        host, port, timeout = self._settings.host, self._settings.port, self._settings.timeout
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, host, port, timeout=timeout)
        return endpoint if self._settings.tls is None else wrapClientTLS(self._settings.tls, endpoint)

    async def _open(self, timeout: float) -> None:
        """
        Make a connection, and greet.

        @raise ConfigError: it is there, and cannot be used
        @raise StoreUnavailable: it is not there
        """
        from binaryserver.session.redisprotocol import RedisProtocol

        protocol = RedisProtocol(self._onMessage, self._ended)
        greeting = Deferred.fromCoroutine(self._greet(protocol))
        greeting.addTimeout(timeout, self._reactor, lambda *_: _raise(Silence(f"no answer within {timeout:.3g} s")))
        try:
            await greeting
        except Exception as error:
            ended = protocol.ended
            if protocol.transport is not None:
                protocol.abandon(Failure())
            if isinstance(error, CancelledError) or self.state is LinkState.stopped:
                raise CancelledError from None
            raise unusable(error, ended, self._settings, self._option) from error
        self._protocol = protocol
        self._readyAt = self._reactor.seconds()
        self.state = LinkState.ready
        while self._waiting and self._protocol is protocol:
            waiting = self._waiting.popleft()
            self._send(protocol, waiting.words, waiting.size).chainDeferred(waiting.answer)
        self._onReady()

    async def _greet(self, protocol: RedisProtocol) -> None:
        settings = self._settings
        await self._endpoint().connect(Factory.forProtocol(lambda: protocol))
        if settings.password:
            user = (settings.user,) if settings.user else ()
            await protocol.execute_command("AUTH", *user, settings.password)
        await protocol.execute_command("PING")
        await protocol.execute_command("SELECT", settings.db)
        for script in self._scripts:
            await protocol.execute_command("SCRIPT", "LOAD", script.text)
        if self._channel:
            await protocol.execute_command("SUBSCRIBE", self._channel)

    def _ended(self, protocol: RedisProtocol) -> None:
        if protocol is not self._protocol:
            # It never was ready: whoever greets hears of it.
            return
        self._protocol = None
        if self.state is LinkState.stopped:
            return
        assert protocol.ended is not None
        self.log.warn(
            "{where} is away: {reason}", where=self._settings.where, reason=describeEnd(protocol.ended, self._settings)
        )
        if self._reactor.seconds() - self._readyAt > _STEADY:
            self._failures = 0
        self._opening = Deferred.fromCoroutine(self._reopen()).addErrback(self._unopened)

    async def _reopen(self) -> None:
        reason = ""
        while True:
            self.state = LinkState.waiting
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
            self._failures += 1
            await deferLater(self._reactor, delay)
            self.state = LinkState.connecting
            try:
                await self._open(self._settings.timeout)
            except (ConfigError, StoreUnavailable) as error:
                if str(error) != reason:
                    reason = str(error)
                    self.log.warn("{reason}", reason=reason)
                continue
            self.log.info("{where} is back", where=self._settings.where)
            return

    def _unopened(self, failure: Failure) -> None:
        if self.state is not LinkState.stopped:
            self.log.failure("no connection to Redis is made any more", failure)


def _raise(error: Exception) -> None:
    raise error

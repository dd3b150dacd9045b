"""
Getting documents from a directory service: with time limits, tries, and what was got before.
"""

from __future__ import annotations

import math
import random
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.http import stringToDatetime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from binaryserver.directory.httpbody import Encoded, PlainAgent, TooLarge, readBody
from binaryserver.directory.httpfailures import FAILURES, Refusal, refusalOf
from binaryserver.directory.httpsettings import HttpSettings
from binaryserver.directory.tokenfile import TokenFile
from binaryserver.errors import DirectoryUnavailable

MAX_BODY = 1 << 20
"""Bytes that an answer may have."""

MAX_WAITING = 10_000
"""Requests that may be under way or wait for their turn."""

FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0
"""s that the delay before the second try is below, and those before later ones."""

LONGEST_PAUSE = 60.0
"""s: a service that asks to be left alone for longer is asked again after it."""

_KEPT_ANSWERS, _KEPT_BYTES = 10_000, 16 << 20
_MAX_ERROR_BODY = 64 << 10
_MAX_TAG = 256
_TAG = re.compile(rb'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True, slots=True)
class _Kept:
    tag: bytes
    body: bytes


@dataclass(slots=True)
class _Tries:
    """
    Of one request.

    @ivar made: how many have failed
    @ivar reason: why the last did
    @ivar isOver: nobody wants the answer any more. A request that is cancelled may fail as one does whose host is not
        known: its failure does not tell.
    """

    deadline: float
    made: int = 0
    reason: str = ""
    isOver: bool = False

    def cancellable(self, got: Deferred[bytes | None]) -> Deferred[bytes | None]:
        """
        As C{got}, but its cancellation sets L{isOver}.
        """

        def cancel(_: object) -> None:
            self.isOver = True
            got.cancel()

        answer: Deferred[bytes | None] = Deferred(cancel)
        got.addBoth(lambda result: None if answer.called else answer.callback(result))
        return answer


class Answers:
    """
    The last answers, with their ETags, by URL. The least recently used go first.
    """

    def __init__(self, most: int = _KEPT_ANSWERS, mostBytes: int = _KEPT_BYTES) -> None:
        """
        @param most: how many are kept
        @param mostBytes: how many bytes their bodies may have together
        """
        self._most = most
        self._mostBytes = mostBytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.size = 0

    def get(self, url: str) -> _Kept | None:
        """
        What is kept of a URL.
        """
        kept = self._kept.get(url)
        if kept is not None:
            self._kept.move_to_end(url)
        return kept

    def put(self, url: str, tag: bytes, body: bytes) -> None:
        """
        Keep an answer, or, where C{tag} is empty, forget the last.
        """
        self.drop(url)
        if not tag:
            return
        self._kept[url] = _Kept(tag, body)
        self.size += len(body)
        while len(self._kept) > self._most or self.size > self._mostBytes:
            _, oldest = self._kept.popitem(last=False)
            self.size -= len(oldest.body)

    def drop(self, url: str) -> None:
        """
        Forget an answer.
        """
        old = self._kept.pop(url, None)
        if old is not None:
            self.size -= len(old.body)


class Fetcher:
    """
    Gets documents. A try that fails for now is made again, after a random delay whose bound doubles; a service that
    asks to be left alone is.

    @ivar reused: answers that were got before and have not changed
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: HttpSettings,
        option: str,
        token: TokenFile,
        agent: IAgent,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        @param agent: makes the requests
        @param jitter: gives a number between two
        """
        self._reactor = reactor
        self._settings = settings
        self._option = option
        self._token = token
        self._agent = PlainAgent(agent)
        self._jitter = jitter
        self._turns = DeferredSemaphore(settings.concurrency)
        self._answers = Answers()
        self._under = 0
        self._pauseEnds = float("-inf")
        self.reused = 0

    async def get(self, path: str, query: str = "") -> bytes | None:
        """
        Get a document.

        @param path: what follows the base of all URLs, percent-encoded, with a slash before it
        @param query: what follows C{?}, likewise; errors do not show it
        @return: its bytes; L{None}: there is none
        @raise DirectoryUnavailable: it was not to be had in C{retries + 1} times C{timeout}
        """
        where = self._settings.base + path
        if self._under >= MAX_WAITING:
            raise self._unavailable(where, f"{MAX_WAITING} requests are under way already")
        patience = (self._settings.retries + 1) * self._settings.timeout
        tries = _Tries(self._reactor.seconds() + patience)
        self._under += 1
        try:
            got = Deferred.fromCoroutine(self._tryOn(where, query, tries))

            def late(_: object, __: float) -> NoReturn:
                raise self._unavailable(where, tries.reason or f"it was not its turn within {patience:g} s")

            return await tries.cancellable(got).addTimeout(patience, self._reactor, late)
        finally:
            self._under -= 1

    async def _tryOn(self, where: str, query: str, tries: _Tries) -> bytes | None:
        while True:
            await self._waitForPause(where, tries)
            try:
                return await self._turns.run(self._tryOnce, where, query)
            except Refusal as refusal:
                if tries.isOver:
                    raise CancelledError from None
                tries.reason = str(refusal)
                self.log.debug("{where}: {reason}", where=where, reason=tries.reason)
                self._leaveAlone(refusal)
                if refusal.isLasting or tries.made == self._settings.retries:
                    raise self._unavailable(where, tries.reason) from None
            delay = self._jitter(0.0, min(LONGEST_DELAY, FIRST_DELAY * 2.0**tries.made))
            tries.made += 1
            await deferLater(self._reactor, delay)

    def _leaveAlone(self, refusal: Refusal) -> None:
        if refusal.pause is not None:
            pause = min(refusal.pause, LONGEST_PAUSE)
            self._pauseEnds = max(self._pauseEnds, self._reactor.seconds() + pause)

    async def _waitForPause(self, where: str, tries: _Tries) -> None:
        while (rest := self._pauseEnds - self._reactor.seconds()) > 0:
            if self._pauseEnds >= tries.deadline:
                raise self._unavailable(where, f"it wants to be left alone for {math.ceil(rest)} s")
            await deferLater(self._reactor, rest)

    def _tryOnce(self, where: str, query: str) -> Deferred[bytes | None]:
        timeout = self._settings.timeout

        def late(_: object, __: float) -> NoReturn:
            raise Refusal(f"no answer within {timeout:g} s")

        return Deferred.fromCoroutine(self._exchange(where, query)).addTimeout(timeout, self._reactor, late)

    async def _exchange(self, where: str, query: str) -> bytes | None:
        url = f"{where}?{query}" if query else where
        kept = self._answers.get(url)
        headers = Headers({b"accept": [b"application/json"], b"user-agent": [b"binaryserver"]})
        token = await self._token.current()
        if token:
            headers.setRawHeaders(b"authorization", [b"Bearer " + token])
        if kept is not None:
            headers.setRawHeaders(b"if-none-match", [kept.tag])
        try:
            # A client a request: it keeps no cookies.
            response: IResponse = await HTTPClient(self._agent).get(
                url, headers=headers, allow_redirects=False, unbuffered=True, reactor=self._reactor
            )
            body = await readBody(response, MAX_BODY if response.code == 200 else _MAX_ERROR_BODY)
        except TooLarge:
            if response.code == 200:
                raise Refusal(f"its answer has more than {MAX_BODY} bytes", isLasting=True) from None
            body = b""
        except Encoded:
            raise Refusal("its answer is compressed, which it was not asked for", isLasting=True) from None
        except FAILURES as error:
            raise refusalOf(error) from error
        return self._judge(url, response, body, kept)

    def _judge(self, url: str, response: IResponse, body: bytes, kept: _Kept | None) -> bytes | None:
        status = response.code
        if status == 200:
            self._answers.put(url, _tagOf(response), body)
            return body
        if status == 304 and kept is not None:
            self.reused += 1
            return kept.body
        if status == 404:
            self._answers.drop(url)
            return None
        if 300 <= status < 400:
            raise Refusal(f"it answers {status}: it is not followed to where it points", isLasting=True)
        if status in (401, 403):
            raise Refusal(f"it answers {status}: it does not accept our token", isLasting=True)
        if status in (408, 425, 429) or 500 <= status < 600:
            raise Refusal(f"it answers {status}", pause=_pauseOf(response))
        raise Refusal(f"it answers {status}", isLasting=True)

    def _unavailable(self, where: str, reason: str) -> DirectoryUnavailable:
        return DirectoryUnavailable(f"{self._option}: {where}: {reason}")


def _header(response: IResponse, name: bytes) -> bytes:
    values: list[bytes] = response.headers.getRawHeaders(name, [])
    return values[0].strip() if values else b""


def _tagOf(response: IResponse) -> bytes:
    tag = _header(response, b"etag")
    return tag if len(tag) <= _MAX_TAG and _TAG.fullmatch(tag) else b""


def _pauseOf(response: IResponse) -> float | None:
    """
    What C{Retry-After} asks for, in s. A date is one of the service's clock, by which its answer has a date too.
    """
    wanted, now = _header(response, b"retry-after"), _header(response, b"date")
    if wanted.isdigit() and len(wanted) < 10:
        return float(wanted)
    try:
        return max(0.0, float(stringToDatetime(wanted) - stringToDatetime(now)))
    except (ValueError, IndexError):
        return None

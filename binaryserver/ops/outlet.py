"""
Requests that change something: onto the bus, whose box it is, and the answer once that is durable.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from binaryserver.errors import BinaryServerError, BusError, RecordTooLarge, StoreError
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.model import Record
from binaryserver.ops.problem import sendProblem

_TIMEOUT: Final = 30.0
"""s that a request waits for what it asked for"""
_MAX_PENDING: Final = 16 * 1024 * 1024
"""bytes of records that the bus was handed and has not committed"""


class Refusal(BinaryServerError):
    """
    What cannot be done as it was asked for.

    @ivar status: an HTTP status code
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Outlet:
    """
    The way onto the bus.
    """

    def __init__(self, bus: IBus) -> None:
        self._bus = bus
        self._pending = 0

    async def publish(self, topic: str, record: Record, what: str) -> int:
        """
        Publish a record; done once it is durable.

        @param what: names it in a refusal
        @return: its partition
        @raise Refusal: it was not published, or is not known to be
        """
        size = len(record.key) + len(record.value)
        if self._pending + size > _MAX_PENDING:
            raise Refusal(503, "too many messages wait for the bus already; nothing was published")
        try:
            partition = self._bus.partitionFor(topic, record.key)
        except KeyError:
            raise Refusal(503, "the bus is not there yet; nothing was published") from None
        self._pending += size
        try:
            await self._bus.publish(topic, partition, [record])
        except RecordTooLarge as error:
            raise Refusal(413, str(error)) from error
        except BusError as error:
            raise Refusal(504, f"{what} may or may not be published: {error}") from error
        finally:
            self._pending -= size
        return partition


async def accountOf(store: ISessionStore, asset: str) -> str:
    """
    The one account under which a box is known.

    @raise Refusal: there is none, or more than one, or that cannot be told
    """
    try:
        accounts = await store.accounts(asset)
    except StoreError as error:
        raise Refusal(503, f"whose box {asset} is cannot be told: {error}") from error
    if not accounts:
        raise Refusal(404, f"no box {asset} was ever connected: say whose it is (account, or --account)")
    if len(accounts) > 1:
        raise Refusal(409, f"box {asset} is of {' and of '.join(accounts)}: say which (account, or --account)")
    return accounts[0]


class Posted:
    """
    One request that waits until what it asks for is done.
    """

    log = Logger()

    def __init__(self, request: Request, clock: Any, status: int, late: str) -> None:
        """
        @param status: an HTTP status code, of the answer
        @param late: one sentence, for one who cannot be told in time: what is then known
        """
        self._request = request
        self._status = status
        self._late = late
        self._isOver = False
        self._timer = clock.callLater(_TIMEOUT, self._timedOut)
        request.notifyFinish().addBoth(lambda _: self._end())

    def _end(self) -> bool:
        """
        @return: nobody was answered yet, and the client is there
        """
        wasOver, self._isOver = self._isOver, True
        if self._timer.active():
            self._timer.cancel()
        return not wasOver

    def run(self, doing: Coroutine[Any, Any, dict[str, object]]) -> None:
        """
        Do it, and answer with what it gives.
        """
        Deferred.fromCoroutine(doing).addCallbacks(self._done, self._failed)

    def _done(self, told: dict[str, object]) -> None:
        if self._end():
            body = json.dumps(told).encode() + b"\n"
            self._request.setResponseCode(self._status)
            self._request.setHeader("content-type", "application/json")
            self._request.setHeader("cache-control", "no-store")
            self._request.setHeader("content-length", str(len(body)))
            self._request.write(body)
            self._request.finish()

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Refusal):
            status, detail = failure.value.status, str(failure.value)
        else:
            self.log.failure("a request failed in an unforeseen way", failure)
            status, detail = 500, "this is the gateway's fault; its log says more"
        if self._end():
            if status == 503:
                self._request.setHeader("retry-after", "5")
            sendProblem(self._request, status, detail)

    def _timedOut(self) -> None:
        if self._end():
            sendProblem(self._request, 504, f"{self._late} in {_TIMEOUT:g} s")

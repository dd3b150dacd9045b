"""
Messages for boxes, as they are handed over by HTTP: onto the topic C{downlink} of the bus.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from binaryserver.errors import BinaryServerError, BusError, RecordTooLarge, StoreError
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.model import BoxKey, Record
from binaryserver.ops.problem import sendProblem
from binaryserver.proto.cloudnext_pb2 import DownlinkMessage
from binaryserver.transcode.envelope import CONTENT_TYPE
from binaryserver.transcode.events import isName

_MAX_ID: Final = 128
"""bytes of UTF-8"""
_MAX_AHEAD: Final = 366 * 86_400
"""s from now to the latest expiry"""
_COMMIT_TIMEOUT: Final = 30.0
"""s that a request waits for the bus"""
_MAX_PENDING: Final = 16 * 1024 * 1024
"""bytes of records that the bus was handed and has not committed"""


class Ask(NamedTuple):
    """
    What a request asks to be sent.

    @ivar account: empty: that under which the box is known
    @ivar expiresAt: Unix ms; 0: when the channel's default has it
    """

    account: str
    asset: str
    channel: str
    payload: bytes
    id: str
    correlationId: str
    expiresAt: int
    noQueue: bool
    wantAck: bool

    @classmethod
    def parse(cls, body: bytes, nowMs: int) -> Ask:
        """
        From a request's body: one JSON object.

        @raise ValueError: it cannot be understood, or can be no message
        """
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("the body is no JSON") from None
        if not isinstance(given, dict):
            raise ValueError("the body is no JSON object")
        fields = _Fields(given)
        ask = cls(
            fields.name("account", isOptional=True),
            fields.name("asset"),
            fields.name("channel"),
            fields.payload(),
            fields.id("id") or uuid.uuid4().hex,
            fields.id("correlation_id"),
            fields.expiresAt(nowMs),
            fields.flag("no_queue"),
            fields.flag("want_ack"),
        )
        fields.checkAllRead()
        return ask

    def record(self, box: BoxKey) -> Record:
        """
        The record of C{downlink}.
        """
        message = DownlinkMessage(
            id=self.id,
            account=box.account,
            asset=box.asset,
            channel=self.channel,
            payload=self.payload,
            expires_at=self.expiresAt,
            no_queue=self.noQueue,
            want_ack=self.wantAck,
            correlation_id=self.correlationId,
        )
        return Record(box.busKey, message.SerializeToString(), (CONTENT_TYPE,))


class _Fields:
    """
    The fields of a JSON object, each read by its type. All raise L{ValueError}.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._read: list[str] = []

    def _take(self, name: str) -> Any:
        """
        @return: the value; L{None}: there is none
        """
        self._read.append(name)
        return self._given.get(name)

    def text(self, name: str) -> str:
        """
        Empty if it is not there.
        """
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} is no text")
        return value or ""

    def name(self, name: str, isOptional: bool = False) -> str:
        """
        One that accounts, assets and channels may have.
        """
        value = self.text(name)
        if not isName(value) and (value or not isOptional):
            raise ValueError(f"{name} is to be 1 to 64 of A-Z a-z 0-9 . _ -")
        return value

    def id(self, name: str) -> str:
        """
        Empty if it is not there.
        """
        value = self.text(name)
        if len(_utf8(name, value)) > _MAX_ID:
            raise ValueError(f"{name} has more than {_MAX_ID} bytes")
        return value

    def flag(self, name: str) -> bool:
        """
        False if it is not there.
        """
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{name} is to be true or false")
        return bool(value)

    def payload(self) -> bytes:
        """
        Of one of two fields.
        """
        encoded, text = self._take("payload"), self._take("text")
        if (encoded is None) == (text is None):
            raise ValueError("one of payload (base64) and text is to be given")
        if encoded is None:
            return _utf8("text", text)
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("payload is no base64") from None

    def expiresAt(self, nowMs: int) -> int:
        """
        @return: Unix ms; 0 if neither field is there
        """
        seconds: object = self._take("expires_in")
        when: object = self._take("expires_at")
        if seconds is not None and when is not None:
            raise ValueError("expires_in and expires_at do not go together")
        if seconds is not None:
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < _MAX_AHEAD:
                raise ValueError(f"expires_in is to be seconds, more than 0 and less than {_MAX_AHEAD}")
            return nowMs + math.ceil(seconds * 1000)
        if when is None:
            return 0
        # As protobuf's JSON has 64-bit numbers, too.
        if isinstance(when, str) and when.isascii() and when.isdigit() and len(when) < 20:
            when = int(when)
        if not isinstance(when, int) or isinstance(when, bool) or not 0 < when < nowMs + _MAX_AHEAD * 1000:
            raise ValueError("expires_at is to be Unix ms, within the next 366 days")
        return when

    def checkAllRead(self) -> None:
        """
        There is nothing else.
        """
        unknown = sorted(set(self._given) - set(self._read))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r:.80}; known: {', '.join(self._read)}")


def _utf8(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half a surrogate pair") from None


class Refusal(BinaryServerError):
    """
    A message that cannot be sent as it was asked for.

    @ivar status: an HTTP status code
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Outlet:
    """
    The way onto the bus.
    """

    def __init__(self, bus: IBus, store: ISessionStore, topic: str) -> None:
        self._bus = bus
        self._store = store
        self._topic = topic
        self._pending = 0

    async def send(self, ask: Ask) -> dict[str, object]:
        """
        Publish a message; done once it is durable.

        @return: what its sender is told
        @raise Refusal: it was not published, or is not known to be
        """
        box = BoxKey(ask.account or await self._accountOf(ask.asset), ask.asset)
        record = ask.record(box)
        size = len(record.key) + len(record.value)
        if self._pending + size > _MAX_PENDING:
            raise Refusal(503, "too many messages wait for the bus already; nothing was published")
        try:
            partition = self._bus.partitionFor(self._topic, record.key)
        except KeyError:
            raise Refusal(503, "the bus is not there yet; nothing was published") from None
        self._pending += size
        try:
            await self._bus.publish(self._topic, partition, [record])
        except RecordTooLarge as error:
            raise Refusal(413, str(error)) from error
        except BusError as error:
            raise Refusal(504, f"message {ask.id} may or may not be published: {error}") from error
        finally:
            self._pending -= size
        return {"id": ask.id, **box._asdict(), "topic": self._topic, "partition": partition}

    async def _accountOf(self, asset: str) -> str:
        try:
            accounts = await self._store.accounts(asset)
        except StoreError as error:
            raise Refusal(503, f"whose box {asset} is cannot be told: {error}") from error
        if not accounts:
            raise Refusal(404, f"no box {asset} was ever connected: say whose it is (account, or --account)")
        if len(accounts) > 1:
            raise Refusal(409, f"box {asset} is of {' and of '.join(accounts)}: say which (account, or --account)")
        return accounts[0]


class Posted:
    """
    One request that waits for its message to be durable.
    """

    log = Logger()

    def __init__(self, request: Request, ask: Ask, clock: Any) -> None:
        self._request = request
        self._ask = ask
        self._isOver = False
        self._timer = clock.callLater(_COMMIT_TIMEOUT, self._late)
        request.notifyFinish().addBoth(lambda _: self._end())

    def _end(self) -> bool:
        """
        @return: nobody was answered yet, and the client is there
        """
        wasOver, self._isOver = self._isOver, True
        if self._timer.active():
            self._timer.cancel()
        return not wasOver

    def run(self, send: Callable[[Ask], Any]) -> None:
        """
        Send it, and answer.
        """
        Deferred.fromCoroutine(send(self._ask)).addCallbacks(self._sent, self._failed)

    def _sent(self, told: dict[str, object]) -> None:
        if self._end():
            body = json.dumps(told).encode() + b"\n"
            self._request.setResponseCode(202)
            self._request.setHeader("content-type", "application/json")
            self._request.setHeader("cache-control", "no-store")
            self._request.setHeader("content-length", str(len(body)))
            self._request.write(body)
            self._request.finish()

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Refusal):
            status, detail = failure.value.status, str(failure.value)
        else:
            self.log.failure("a message was not sent, in an unforeseen way", failure)
            status, detail = 500, "this is the gateway's fault; its log says more"
        if self._end():
            if status == 503:
                self._request.setHeader("retry-after", "5")
            sendProblem(self._request, status, detail)

    def _late(self) -> None:
        if self._end():
            sendProblem(
                self._request,
                504,
                f"message {self._ask.id} may or may not be published: the bus did not take it in {_COMMIT_TIMEOUT:g} s",
            )

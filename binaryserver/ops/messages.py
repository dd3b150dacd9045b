"""
Messages for boxes, as they are handed over by HTTP: onto the topic C{downlink} of the bus.
"""

from __future__ import annotations

import base64
import binascii
import math
import uuid
from typing import Final, NamedTuple

from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey, Record
from binaryserver.ops.fields import Fields, utf8
from binaryserver.ops.outlet import Outlet, accountOf
from binaryserver.proto.cloudnext_pb2 import DownlinkMessage
from binaryserver.transcode.envelope import CONTENT_TYPE

_MAX_ID: Final = 128
"""bytes of UTF-8"""
_MAX_AHEAD: Final = 366 * 86_400
"""s from now to the latest expiry"""


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
        fields = _MessageFields(body)
        ask = cls(
            fields.name("account", isOptional=True),
            fields.addressee("asset"),
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


class _MessageFields(Fields):
    """
    Those that only messages have.
    """

    def id(self, name: str) -> str:
        """
        Empty if it is not there.
        """
        value = self.text(name)
        if len(utf8(name, value)) > _MAX_ID:
            raise ValueError(f"{name} has more than {_MAX_ID} bytes")
        return value

    def payload(self) -> bytes:
        """
        Of one of two fields.
        """
        encoded, text = self.take("payload"), self.take("text")
        if (encoded is None) == (text is None):
            raise ValueError("one of payload (base64) and text is to be given")
        if encoded is None:
            return utf8("text", text)
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("payload is no base64") from None

    def expiresAt(self, nowMs: int) -> int:
        """
        @return: Unix ms; 0 if neither field is there
        """
        seconds: object = self.take("expires_in")
        when: object = self.take("expires_at")
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
        # To JSON that is a whole number as well.
        if isinstance(when, float) and when.is_integer():
            when = int(when)
        if not isinstance(when, int) or isinstance(when, bool) or not 0 < when < nowMs + _MAX_AHEAD * 1000:
            raise ValueError("expires_at is to be Unix ms, within the next 366 days")
        return when


async def sendMessage(ask: Ask, outlet: Outlet, store: ISessionStore, topic: str) -> dict[str, object]:
    """
    Publish a message; done once it is durable.

    @param topic: C{downlink}
    @return: what its sender is told
    @raise Refusal: it was not published, or is not known to be
    """
    box = BoxKey(ask.account or await accountOf(store, ask.asset), ask.asset)
    partition = await outlet.publish(topic, ask.record(box), f"message {ask.id}")
    return {"id": ask.id, **box._asdict(), "topic": topic, "partition": partition}

"""
What a simulated box makes of messages from the cloud: which are repeats, whether they come in order, and what its
application answers. There is no link, and no packet.
"""

from __future__ import annotations

import re
from enum import Enum
from random import Random
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from binaryserver.errors import MalformedPacket
from binaryserver.proto import md30_pb2
from binaryserver.tools.box_sums import MessageSums

REMEMBERED: Final = 1024
"""The ids, and the channels, that a box remembers."""
_NUMBER: Final = re.compile(rb"[0-9]{1,30}")


class AckChoice(Enum):
    """
    What the application of a box answers where an answer is wanted; its value is the option's.
    """

    OK = "ok"
    NO_LISTENER = "no-listener"
    NOT_UNDERSTOOD = "not-understood"
    NONE = "none"


_STATUS: Final = {
    AckChoice.OK: md30_pb2.ACK_STATUS_OK,
    AckChoice.NO_LISTENER: md30_pb2.ACK_STATUS_NO_LISTENER,
    AckChoice.NOT_UNDERSTOOD: md30_pb2.ACK_STATUS_NOT_UNDERSTOOD,
}


class Answer(NamedTuple):
    """
    An application's answer to a message.

    @ivar ackOf: the message's id
    """

    ackOf: str
    message: md30_pb2.Message

    @property
    def payload(self) -> bytes:
        """
        bytes, one C{md30.v1.Message}
        """
        return self.message.SerializeToString()


class Heard(NamedTuple):
    """
    A message that came.

    @ivar at: Unix ms, when it came
    @ivar isNew: it is no repeat
    @ivar answer: L{None}: none is wanted, or given
    """

    message: md30_pb2.Message
    at: int
    isNew: bool
    answer: Answer | None


class Inbox:
    """
    The messages of one box, over all its links.
    """

    def __init__(self, choice: AckChoice, random: Random, sums: MessageSums) -> None:
        self._choice = choice
        self._random = random
        self._sums = sums
        # By id, the oldest first; each with the id of its answer, so that a second one can be told for a repeat.
        self._known: dict[str, str] = {}
        self._last: dict[str, int] = {}

    def receive(self, payload: bytes, dup: bool, nowMs: int) -> Heard:
        """
        @param payload: bytes, one C{md30.v1.Message}
        @param dup: the PUBLISH said that it may have come before
        @param nowMs: Unix ms
        @raise MalformedPacket: it is none
        """
        try:
            message = md30_pb2.Message.FromString(payload)
        except DecodeError as error:
            raise MalformedPacket("a downlink message that is not an md30.v1.Message") from error
        return self.hear(message, dup, nowMs)

    def hear(self, message: md30_pb2.Message, dup: bool, nowMs: int) -> Heard:
        """
        The same of a message that another protocol has brought; one without an id is never a repeat.
        """
        sums = self._sums
        sums.redelivered += dup
        answerId = self._known.pop(message.id, None) if message.id else None
        isNew = answerId is None
        if answerId is None:
            sums.received += 1
            sums.disordered += not self._isInOrder(message)
            sums.expired += 0 < message.expires_at < nowMs
            answerId = f"{self._random.getrandbits(64):016x}"
        else:
            sums.repeats += 1
        if message.id:
            _remember(self._known, message.id, answerId)
        return Heard(message, nowMs, isNew, self._answer(message, answerId, nowMs))

    def _isInOrder(self, message: md30_pb2.Message) -> bool:
        """
        Whether a payload that is a number is larger than the one before it on its channel.
        """
        if not _NUMBER.fullmatch(message.payload):
            return True
        number = int(message.payload)
        last = self._last.pop(message.channel, -1)
        _remember(self._last, message.channel, max(number, last))
        return number > last

    def _answer(self, message: md30_pb2.Message, answerId: str, nowMs: int) -> Answer | None:
        if not message.want_ack or self._choice is AckChoice.NONE:
            return None
        answer = md30_pb2.Message(
            id=answerId,
            channel=message.channel,
            recorded_at=nowMs,
            ack_of=message.id,
            ack_status=_STATUS[self._choice],
        )
        return Answer(message.id, answer)


_T = TypeVar("_T")


def _remember(known: dict[str, _T], name: str, value: _T) -> None:
    known[name] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]

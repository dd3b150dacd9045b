"""
Mailboxes in Redis.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from binaryserver.errors import StoreNotAsked, StoreUnavailable
from binaryserver.model import (
    BoxKey,
    DownlinkMessage,
    Final,
    FinalStatus,
    MailboxEntry,
    MailboxLimits,
    Progress,
    Put,
    Take,
)
from binaryserver.session.redistext import boxName, boxOfName, escape, fields, lines, reading, unescape

T = TypeVar("T")
A = TypeVar("A")

Call = Callable[..., Deferred[bytes]]
"""Calls a script by its name, with what follows the prefix."""

MOST_AT_ONCE = 200
"""How many of a batch one script takes: while it runs, Redis does nothing else."""

_MOST_BYTES = 1_048_576
_NONE = "-"
_STATUSES = {status.value: status for status in FinalStatus}


def chunks(items: Sequence[A], size: Callable[[A], int] = lambda item: 0) -> list[Sequence[A]]:
    """
    A batch in parts that one script takes each.
    """
    parts: list[Sequence[A]] = []
    start = total = 0
    for index, item in enumerate(items):
        total += size(item)
        if index > start and (index - start >= MOST_AT_ONCE or total > _MOST_BYTES):
            parts.append(items[start:index])
            start, total = index, size(item)
    if start < len(items):
        parts.append(items[start:])
    return parts


def joined(parts: Sequence[Deferred[list[T]]]) -> Deferred[list[T]]:
    """
    The answers to the parts of a batch, which go out together: one round trip.
    """
    if len(parts) == 1:
        return parts[0]

    def join(answers: list[list[T]]) -> list[T]:
        return [answer for part in answers for answer in part]

    gathered: Deferred[list[T]] = gatherResults(parts, consumeErrors=True).addErrback(_first).addCallback(join)
    return gathered


def _first(failure: Failure) -> Failure:
    failure.trap(FirstError)
    first: Failure = failure.value.subFailure  # type: ignore[union-attr]
    if first.check(StoreNotAsked):
        # Other parts may have been.
        return Failure(StoreUnavailable(first.getErrorMessage()))
    return first


def _word(text: str) -> str:
    """
    A text that is a word of a state.
    """
    return escape(text).replace(" ", "\\u0020").replace(_NONE, "\\u002d") or _NONE


class RedisMailboxes:
    """
    Every box's. Methods as those of L{binaryserver.interfaces.ISessionStore}.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    def put(self, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int) -> Deferred[list[Put]]:
        """
        C{putMessages}.
        """

        def one(part: Sequence[DownlinkMessage]) -> Deferred[list[Put]]:
            values: list[object] = []
            for message in part:
                values += _packMessage(message)
            reply = self._call("put", nowMs, limits.messages, limits.size, fields(values))
            return reply.addCallback(reading(lambda text: _puts(text, part)))

        return joined([one(part) for part in chunks(messages, lambda message: len(message.payload))])

    def take(self, takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        C{takeMessages}.
        """

        def one(part: Sequence[Take]) -> Deferred[list[list[MailboxEntry] | None]]:
            values: list[object] = []
            for take in part:
                values += (boxName(take.box), take.linkEpoch, take.after, take.limit)
            return self._call("take", nowMs, fields(values)).addCallback(reading(lambda text: _taken(text, part)))

        return joined([one(part) for part in chunks(takes)])

    def progress(self, heard: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
        """
        C{progressMessages}.
        """

        def one(part: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
            values: list[object] = []
            for box, id_, at, final, attempts in part:
                values += (boxName(box), escape(id_), at, attempts)
                values += (_NONE, _NONE, 0) if final is None else (final.status.value, _word(final.reason), final.at)
            return self._call("progress", fields(values)).addCallback(reading(lambda text: _changed(text, part)))

        return joined([one(part) for part in chunks(heard)])

    def remove(self, finished: Sequence[tuple[BoxKey, str]]) -> Deferred[None]:
        """
        C{removeMessages}.
        """

        def one(part: Sequence[tuple[BoxKey, str]]) -> Deferred[list[None]]:
            values = [value for box, id_ in part for value in (boxName(box), escape(id_))]
            return self._call("remove", fields(values)).addCallback(lambda _: [])

        return joined([one(part) for part in chunks(finished)]).addCallback(lambda _: None)

    def due(self, nowMs: int, limit: int) -> Deferred[list[MailboxEntry]]:
        """
        C{dueMessages}.
        """

        def entries(reply: bytes) -> list[MailboxEntry]:
            texts = lines(reply)
            pairs = zip(texts[0:-1:2], texts[1::2], strict=True)
            return [_unpackEntry(boxOfName(name), text) for name, text in pairs]

        return self._call("due", nowMs, limit).addCallback(reading(entries))

    def mailbox(self, box: BoxKey) -> Deferred[list[MailboxEntry]]:
        """
        C{mailbox}.
        """
        found = self._call("mailbox", boxName(box))
        return found.addCallback(reading(lambda reply: [_unpackEntry(box, text) for text in lines(reply)[:-1]]))


def _packMessage(message: DownlinkMessage) -> tuple[object, ...]:
    return (
        boxName(message.box),
        escape(message.id),
        int(message.noQueue),
        int(message.wantAck),
        message.queuedAt,
        message.expiresAt,
        len(message.payload),
        _word(message.rejected),
        ",".join(map(json.dumps, (message.id, message.channel, message.correlationId, message.rejected))),
        b2a_base64(message.payload, newline=False).decode("ascii"),
    )


def _unpackEntry(box: BoxKey, text: str) -> MailboxEntry:
    words, head, payload = text.split("\t")
    id_, channel, correlationId, rejected = json.loads(f"[{head}]")
    state = words.split(" ")
    message = DownlinkMessage(
        box,
        id_,
        channel,
        a2b_base64(payload),
        correlationId,
        int(state[4]),
        state[1] == "1",
        state[2] == "1",
        int(state[3]),
        rejected,
    )
    return _withState(message, state)


def _withState(message: DownlinkMessage, state: Sequence[str]) -> MailboxEntry:
    sequence, *_, attempts, sentAt, deliveredAt, finalAt, status, reason = state
    final = None
    if status != _NONE:
        final = Final(_STATUSES[status], "" if reason == _NONE else unescape(reason), int(finalAt))
    return MailboxEntry(message, int(sequence), int(attempts), int(sentAt), int(deliveredAt), final)


def _puts(reply: bytes, messages: Sequence[DownlinkMessage]) -> list[Put]:
    texts = iter(lines(reply))
    puts = []
    for message, listener, what, text in zip(messages, texts, texts, texts, strict=False):
        if what == "new":
            entry = _withState(message, text.split(" "))
            if entry.final is not None:
                entry = entry._replace(message=message._replace(payload=b""))
            puts.append(Put(entry, True, unescape(listener)))
        else:
            entry_ = _unpackEntry(message.box, text) if what == "known" else None
            puts.append(Put(entry_, False, unescape(listener)))
    return puts


def _taken(reply: bytes, takes: Sequence[Take]) -> list[list[MailboxEntry] | None]:
    texts = iter(lines(reply))
    taken: list[list[MailboxEntry] | None] = []
    for take in takes:
        count = next(texts)
        taken.append(None if count == _NONE else [_unpackEntry(take.box, next(texts)) for _ in range(int(count))])
    return taken


def _changed(reply: bytes, heard: Sequence[Progress]) -> list[MailboxEntry | None]:
    return [_unpackEntry(one.box, text) if text else None for one, text in zip(heard, lines(reply), strict=False)]

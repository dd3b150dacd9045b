"""
What operators are told of the boxes in Redis.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from binaryserver.model import BoxKey
from binaryserver.session.boxrecords import (
    MOST_STRANGERS,
    BoxEvent,
    BoxPage,
    BoxQuery,
    BoxRecord,
    BoxSummary,
    EventKind,
    MailboxSummary,
    RefusalNote,
)
from binaryserver.session.redismail import MOST_AT_ONCE, Call, chunks, joined
from binaryserver.session.redistext import (
    boxName,
    boxOfName,
    escape,
    fields,
    keyName,
    lines,
    marksOf,
    ownerOf,
    reading,
    unescape,
    unpackMqtt,
)

_NONE = "-"

_CONNECTED = {None: "", True: "1", False: "0"}


def packEvent(event: BoxEvent) -> tuple[object, ...]:
    """
    An event for a script: at, epoch, peer, instance, rest.
    """
    return event.at, event.linkEpoch, _word(event.peer), _word(event.instance), event.sameness


def _word(text: str) -> str:
    return escape(text).replace(" ", "\\u0020").replace(_NONE, "\\u002d") or _NONE


def _unpackEvent(text: str) -> BoxEvent:
    at, times, since, epoch, peer, instance, rest = text.split(" ", 6)
    kind, reason, detail, protocol = json.loads(rest)
    peer, instance = ("" if word == _NONE else unescape(word) for word in (peer, instance))
    numbers = int(epoch), int(times), int(since)
    return BoxEvent(EventKind(kind), int(at), reason, detail, protocol, peer, instance, *numbers)


def _summaryOf(box: BoxKey, texts: Sequence[str]) -> BoxSummary | None:
    owner = ownerOf(texts[:4])
    if owner is None:
        return None
    protocol, peer, since, listening = texts[4:]
    return BoxSummary(box, owner, unescape(protocol), unescape(peer), int(since), listening == "1")


class RedisRecords:
    """
    Of every box. Methods as those of L{binaryserver.interfaces.ISessionStore}.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    def listBoxes(self, query: BoxQuery, after: BoxKey | None, limit: int) -> Deferred[BoxPage]:
        """
        C{listBoxes}.
        """
        behind = "" if after is None else boxName(after)
        connected = _CONNECTED[query.isConnected]
        # While a script runs, Redis does nothing else.
        limit = min(limit, MOST_AT_ONCE)
        listed = self._call("list", keyName(query.account), keyName(query.prefix), connected, behind, limit)
        return listed.addCallback(reading(_page))

    def boxRecord(self, box: BoxKey) -> Deferred[BoxRecord | None]:
        """
        C{boxRecord}.
        """

        def record(reply: bytes) -> BoxRecord | None:
            if not reply:
                return None
            texts = lines(reply)
            marks, mqtt, isAlive, fingerprints, *mailbox = texts[8:15]
            return BoxRecord(
                _summaryOf(box, texts[:8]),
                isAlive == "1",
                marksOf(marks),
                unpackMqtt(mqtt),
                int(fingerprints),
                MailboxSummary(*map(int, mailbox)),
                tuple(_unpackEvent(text) for text in texts[15:] if text),
            )

        return self._call("record", boxName(box)).addCallback(reading(record))

    def noteRefusals(self, refusals: Sequence[RefusalNote]) -> Deferred[None]:
        """
        C{noteRefusals}.
        """

        def one(part: Sequence[RefusalNote]) -> Deferred[list[None]]:
            values: list[object] = []
            for box, event, isBox in part:
                values += (boxName(box), int(isBox), *packEvent(event))
            return self._call("refused", MOST_STRANGERS, fields(values)).addCallback(lambda _: [])

        return joined([one(part) for part in chunks(refusals)]).addCallback(lambda _: None)


def _page(reply: bytes) -> BoxPage:
    last, *texts = lines(reply)
    each: Any = iter(texts)
    boxes = []
    for name, *rest in zip(*[each] * 9, strict=False):
        summary = _summaryOf(boxOfName(name), rest)
        assert summary is not None
        boxes.append(summary)
    return BoxPage(tuple(boxes), boxOfName(last) if last else None)

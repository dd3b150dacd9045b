"""
The list of boxes: a page of it, or all of it as lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from twisted.internet.task import deferLater
from twisted.web.server import Request

from binaryserver.errors import StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey
from binaryserver.ops.boxjson import summaryJson
from binaryserver.ops.linestream import LineStream
from binaryserver.ops.outlet import Refusal
from binaryserver.session.boxrecords import BoxQuery
from binaryserver.transcode.events import isName

_AT_ONCE: Final = 25
"""Boxes in one step of the store, and of ours: what the links wait for."""
_REST: Final = 0.004
"""s between two steps of a long list, in which the links have the reactor to themselves"""
_MAX_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 100
_MAX_LOOKED_AT: Final = 5000
"""boxes, by one page: where few are asked for, it ends before it is full"""
_MAX_LIMIT: Final = 1_000_000_000
_STATES: Final = {"connected": True, "disconnected": False}


class ListQuery(NamedTuple):
    """
    What is asked for.

    @ivar after: behind which box it begins; L{None}: at the first
    @ivar limit: how many boxes at most; 0: as many as there are, or as a page has
    """

    boxes: BoxQuery
    after: BoxKey | None
    limit: int

    @classmethod
    def parse(cls, arguments: Mapping[bytes, list[bytes]]) -> ListQuery:
        """
        From a URL's arguments.

        @raise ValueError: they cannot be understood
        """
        given = onlyOnce(arguments, ("account", "prefix", "state", "limit", "after"))
        for name in ("account", "prefix"):
            if name in given and not isName(given[name]):
                raise ValueError(f"{name} is to be 1 to 64 of A-Z a-z 0-9 . _ -")
        state = given.get("state")
        if state is not None and state not in _STATES:
            raise ValueError(f"state is to be {' or '.join(_STATES)}")
        limit = given.get("limit", "0")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 11 and int(limit) <= _MAX_LIMIT) or (
            "limit" in given and not int(limit)
        ):
            raise ValueError(f"limit is to be a number from 1 to {_MAX_LIMIT}")
        after = None
        if "after" in given:
            account, slash, asset = given["after"].partition("/")
            if not (slash and isName(account) and isName(asset)):
                raise ValueError("after is to be ACCOUNT/ASSET, as next has it")
            after = BoxKey(account, asset)
        isConnected = None if state is None else _STATES[state]
        return cls(BoxQuery(given.get("account", ""), given.get("prefix", ""), isConnected), after, int(limit))


def onlyOnce(arguments: Mapping[bytes, list[bytes]], known: tuple[str, ...]) -> dict[str, str]:
    """
    A URL's arguments, none of which may be given twice.

    @raise ValueError: they are other ones
    """
    given = {}
    for key, values in arguments.items():
        name = key.decode("utf-8", "replace")
        if name not in known:
            raise ValueError(f"unknown argument {name!r:.80}; known: {', '.join(known)}")
        if len(values) > 1:
            raise ValueError(f"{name} is given twice")
        given[name] = values[0].decode("utf-8", "replace")
    return given


async def page(query: ListQuery, store: ISessionStore, clock: Any) -> dict[str, object]:
    """
    A page of the list.

    @param clock: the reactor
    @return: the boxes, and behind which box the next page begins, if there is one
    @raise Refusal: the store does not answer
    """
    limit = min(query.limit or _DEFAULT_PAGE, _MAX_PAGE)
    boxes: list[dict[str, object]] = []
    after, lookedAt = query.after, 0
    while len(boxes) < limit and lookedAt < _MAX_LOOKED_AT:
        if lookedAt:
            await deferLater(clock, 0)
        step = min(_AT_ONCE, limit - len(boxes))
        try:
            part = await store.listBoxes(query.boxes, after, step)
        except StoreError as error:
            raise Refusal(503, f"the session store does not answer: {error}") from error
        boxes += map(summaryJson, part.boxes)
        after, lookedAt = part.after, lookedAt + step
        if after is None:
            break
    return {"boxes": boxes, "next": None if after is None else "/".join(after)}


class Listing(LineStream):
    """
    The list as lines, one JSON object a box.
    """

    what = "a list of boxes"

    def __init__(self, request: Request, query: ListQuery, store: ISessionStore, clock: Any) -> None:
        LineStream.__init__(self, request, clock)
        self._query = query
        self._store = store

    async def produce(self) -> None:
        """
        See L{LineStream.produce}.
        """
        left = self._query.limit or _MAX_LIMIT
        after = self._query.after
        while left and not self.isGone:
            part = await self._store.listBoxes(self._query.boxes, after, min(_AT_ONCE, left))
            left -= len(part.boxes)
            await self.send(b"".join(json.dumps(summaryJson(box)).encode() + b"\n" for box in part.boxes))
            after = part.after
            if after is None:
                return
            await deferLater(self._clock, _REST)

"""
The boxes of a session store in memory: found, counted and listed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed

from binaryserver.model import BoxKey, Owner
from binaryserver.session.boxrecords import (
    MOST_STRANGERS,
    BoxEvent,
    BoxPage,
    BoxQuery,
    BoxRecord,
    BoxSummary,
    MailboxSummary,
    RefusalNote,
    remembered,
)
from binaryserver.session.fingerprints import SIZE
from binaryserver.session.memorybox import MemoryBox
from binaryserver.session.memorymailbox import MemoryMailboxes


class MemoryBoxes:
    """
    The part of L{binaryserver.session.memorystore.MemorySessionStore} that knows which boxes there are.
    """

    _mailboxes: MemoryMailboxes

    def __init__(self, clock: Any) -> None:
        """
        @param clock: the reactor
        """
        self._clock = clock
        self._boxes: dict[BoxKey, MemoryBox] = {}
        # Those with an owner, in their order.
        self._names: list[BoxKey] = []
        # How many boxes of each account are connected.
        self._linked: Counter[str] = Counter()
        # What is remembered of names that are no box, the one refused last at the end.
        self._strangers: OrderedDict[BoxKey, list[BoxEvent]] = OrderedDict()

    def listBoxes(self, query: BoxQuery, after: BoxKey | None, limit: int) -> Deferred[BoxPage]:
        """
        See L{ISessionStore.listBoxes<binaryserver.interfaces.ISessionStore.listBoxes>}.
        """
        start = bisect_left(self._names, BoxKey(query.account, query.prefix if query.account else ""))
        if after is not None:
            start = max(start, bisect_right(self._names, after))
        seen: list[BoxSummary] = []
        for box in self._names[start : start + limit]:
            if query.account and not (box.account == query.account and box.asset.startswith(query.prefix)):
                return succeed(BoxPage(tuple(seen), None))
            if query.matches(box, self._boxes[box].isConnected):
                seen.append(self._summary(box, self._boxes[box]))
        isLast = start + limit >= len(self._names)
        return succeed(BoxPage(tuple(seen), None if isLast else self._names[start + limit - 1]))

    def boxRecord(self, box: BoxKey) -> Deferred[BoxRecord | None]:
        """
        See L{ISessionStore.boxRecord<binaryserver.interfaces.ISessionStore.boxRecord>}.
        """
        known = self._boxes.get(box) or MemoryBox(events=self._strangers.get(box, []))
        mailbox = self._mailboxes.summary(box)
        if not (known.isKnown or known.events or mailbox is not None):
            return succeed(None)
        owner = known.owner
        record = BoxRecord(
            None if owner is None else self._summary(box, known),
            owner is not None and self._isAlive(owner.incarnation),
            tuple(known.marks.values()),
            known.mqtt,
            len(known.fingerprints) // SIZE,
            mailbox or MailboxSummary(),
            tuple(known.events),
        )
        return succeed(record)

    def links(self, account: str) -> Deferred[int]:
        """
        See L{ISessionStore.links<binaryserver.interfaces.ISessionStore.links>}.
        """
        return succeed(self._linked[account])

    def noteRefusals(self, refusals: Sequence[RefusalNote]) -> Deferred[None]:
        """
        See L{ISessionStore.noteRefusals<binaryserver.interfaces.ISessionStore.noteRefusals>}.
        """
        for box, event, isBox in refusals:
            known = self._boxes.get(box)
            if isBox or (known is not None and (known.owner is not None or known.events)):
                known = self._known(box)
                self._welcome(box, known)
                known.events = remembered(known.events, event)
                continue
            self._strangers[box] = remembered(self._strangers.get(box, []), event)
            self._strangers.move_to_end(box)
            if len(self._strangers) > MOST_STRANGERS:
                self._strangers.popitem(last=False)
        return succeed(None)

    def refusedAs(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.refusedAs<binaryserver.interfaces.ISessionStore.refusedAs>}.
        """
        found = {box.account for box in self._strangers if box.asset == asset}
        found |= {box.account for box, known in self._boxes.items() if box.asset == asset and known.wasRefused}
        return succeed(tuple(sorted(found)))

    def accounts(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.accounts<binaryserver.interfaces.ISessionStore.accounts>}.
        """
        return succeed(
            tuple(sorted(key.account for key, box in self._boxes.items() if key.asset == asset and box.owner))
        )

    def _isAlive(self, incarnation: str) -> bool:
        raise NotImplementedError

    def _summary(self, box: BoxKey, known: MemoryBox) -> BoxSummary:
        assert known.owner is not None
        return BoxSummary(box, known.owner, known.protocol, known.peer, known.since, known.isListening)

    def _known(self, box: BoxKey) -> MemoryBox:
        known = self._boxes.get(box)
        if known is None:
            known = self._boxes[box] = MemoryBox(int(self._clock.seconds() * 1000))
        return known

    def _own(self, box: BoxKey, owner: Owner) -> None:
        """
        Note a box's owner, and count it where it is connected.
        """
        known = self._boxes[box]
        self._linked[box.account] += owner.connected - known.isConnected
        if not self._linked[box.account]:
            del self._linked[box.account]
        if known.owner is None:
            insort(self._names, box)
            self._welcome(box, known)
        if owner.connected:
            known.since = owner.seenAt
        known.owner, known.lastEpoch = owner, owner.linkEpoch

    def _welcome(self, box: BoxKey, known: MemoryBox) -> None:
        """
        A name that is no stranger's any more.
        """
        events = self._strangers.pop(box, None)
        if events is not None:
            known.events = events

    def _disown(self, box: BoxKey) -> None:
        """
        A box is to be forgotten.
        """
        known = self._boxes.pop(box, None)
        self._strangers.pop(box, None)
        if known is not None and known.owner is not None:
            del self._names[bisect_left(self._names, box)]

    def _forgetStrangers(self, beforeMs: int) -> None:
        for box in [box for box, events in self._strangers.items() if events[-1].at < beforeMs]:
            del self._strangers[box]

    def _latest(self, box: BoxKey, linkEpoch: int) -> MemoryBox | None:
        """
        What is known of a box, if that epoch is its latest.
        """
        known = self._boxes.get(box)
        return known if known is not None and known.owner is not None and known.owner.linkEpoch == linkEpoch else None

    def _ownerOf(self, box: BoxKey) -> Owner | None:
        known = self._boxes.get(box)
        return known.owner if known is not None else None

    def _listenerOf(self, box: BoxKey) -> str:
        known = self._boxes.get(box)
        if known is None or known.owner is None or not (known.owner.connected and known.isListening):
            return ""
        return known.owner.incarnation if self._isAlive(known.owner.incarnation) else ""

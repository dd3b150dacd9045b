"""
From mailboxes to the boxes whose links are here, and what they answer back to the mailboxes.

Everything goes in batches (L{binaryserver.downlink.gathering}): a call of the session store costs one round trip
however many boxes and messages it is about, and there are never two of a kind at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.downlink.gathering import Gathering
from binaryserver.downlink.statuses import Statuses
from binaryserver.downlink.window import Window
from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey, Final, FinalStatus, MailboxEntry, Progress, Take
from binaryserver.session.line import Pause
from binaryserver.transcode.downlink import DELIVERED, SENT

if TYPE_CHECKING:
    from binaryserver.session.link import BoxLink

_MAX_TAKES = 500
_MAX_HEARD = 2000

# s between two calls of a kind. A message waits for the first on its way to the box; nobody waits for the second.
_TAKE_DISTANCE = 0.004
_NOTE_DISTANCE = 0.02

_DUE_PERIOD = 1.0
_MAX_DUE = 500

SWEEP_PERIOD = 30.0
"""s, within which every link asks for its mail: a word that there is some may be lost."""


_Taken = list[tuple["BoxLink", Take, list[MailboxEntry] | None]]
"""What was asked for each link, and what its mailbox gave."""


@dataclass(eq=False, slots=True)
class _Heard:
    """
    What a box answered.

    @ivar done: fires once it is written
    """

    progress: Progress
    done: Deferred[None] | None


_Noted = list[tuple[_Heard, MailboxEntry | None]]
"""What was written, and the entry that it moved."""


class Delivery:
    """
    Of one instance.

    @ivar links: those that listen, each with its window
    """

    log = Logger()

    def __init__(
        self,
        store: ISessionStore,
        statuses: Statuses,
        clock: IReactorTime,
        nowMs: Callable[[], int],
        window: int,
        hasMuchToTell: Callable[[], bool],
    ) -> None:
        """
        @param window: how many messages a link may have sent and not acked
        @param hasMuchToTell: says whether the bus is behind, so that what is due has to wait
        """
        self._hasMuchToTell = hasMuchToTell
        self._store = store
        self._statuses = statuses
        self._clock = clock
        self._nowMs = nowMs
        self._limit = window
        self.links: dict[BoxLink, Window] = {}
        self._byBox: dict[BoxKey, BoxLink] = {}
        self._wanted: Gathering[BoxLink, _Taken] = Gathering(
            clock, "give messages", _TAKE_DISTANCE, _MAX_TAKES, self._take, self._taken
        )
        self._heard: Gathering[_Heard, _Noted] = Gathering(
            clock, "note acks", _NOTE_DISTANCE, _MAX_HEARD, self._note, self._noted
        )
        self._isRunning = False
        self._unswept: list[BoxLink] = []

    @property
    def isIdle(self) -> bool:
        """
        Nothing is being taken for boxes, and nothing that they answered is yet to be written.
        """
        return self._wanted.isIdle and self._heard.isIdle

    def start(self) -> None:
        """
        Begin to look after what is due, and after boxes that missed the word of their mail.
        """
        self._isRunning = True
        self._clock.callLater(_DUE_PERIOD, self._sweep)

    def stop(self) -> None:
        """
        Look no more, and send no more.
        """
        self._isRunning = False

    # Links.

    def listen(self, link: BoxLink) -> None:
        """
        A link's box is subscribed to its downlink, and the session store knows.
        """
        if link not in self.links:
            self.links[link] = Window(self._limit)
            self._byBox[link.box.key] = link
        self._want(link)

    def leave(self, link: BoxLink) -> None:
        """
        A link is gone. One that only does not listen any more stays: what was sent over it may still be acked.
        """
        if self.links.pop(link, None) is not None and self._byBox.get(link.box.key) is link:
            del self._byBox[link.box.key]

    def wake(self, boxes: Iterable[BoxKey]) -> None:
        """
        There is mail for these boxes.
        """
        for box in boxes:
            link = self._byBox.get(box)
            if link is not None:
                self._want(link)

    def wakeAll(self) -> None:
        """
        There may be mail for any box.
        """
        for link in self.links:
            self._want(link)

    def startAgain(self) -> None:
        """
        The session store lost its memory: all mailboxes begin anew.
        """
        for window in self.links.values():
            window.startAgain()
        self.wakeAll()

    def readable(self, link: BoxLink) -> None:
        """
        The box takes what it is sent again.
        """
        window = self.links.get(link)
        if window is not None and window.mayHaveMore:
            self._want(link)

    # From the mailbox to the box.

    def _want(self, link: BoxLink) -> None:
        self.links[link].mayHaveMore = True
        if self._isRunning:
            self._wanted.add(link)

    def _take(self, links: Sequence[BoxLink]) -> Deferred[_Taken]:
        asking: list[BoxLink] = []
        takes: list[Take] = []
        for link in links:
            window = self.links.get(link)
            # Without room its next ack asks again, and one that does not read what it is sent once it does.
            if window is None or not window.room or link.pauses & (Pause.output | Pause.closing):
                continue
            if link.isListening and self._isRunning:
                asking.append(link)
                takes.append(Take(link.box.key, link.linkEpoch, window.after, window.room))
        if not takes:
            return succeed([])
        taken = self._store.takeMessages(takes, self._nowMs())
        return taken.addCallback(lambda answer: list(zip(asking, takes, answer, strict=True)))

    def _taken(self, answer: _Taken) -> None:
        for link, take, entries in answer:
            window = self.links.get(link)
            if window is None or not link.isListening or link.pauses & Pause.closing:
                self._unsent(entries or ())
            elif not entries:
                # None at all: the box has a newer link, whose owner tells this one, or the store lost its memory, and
                # is told again.
                window.mayHaveMore = link in self._wanted
            else:
                fitting = window.take(entries)
                try:
                    self._send(link, window, fitting)
                except Exception:
                    # What was taken for the others of this call is to be sent all the same.
                    self.log.failure("a link failed at its messages in an unforeseen way")
                    link.abort()
                if len(entries) < take.limit and len(fitting) == len(entries):
                    window.mayHaveMore = link in self._wanted
                elif window.room:
                    self._wanted.add(link)

    def _send(self, link: BoxLink, window: Window, entries: Sequence[MailboxEntry]) -> None:
        isAcked = link.deliveryQos > 0
        for entry in entries:
            packetId = window.sent(entry) if isAcked else 0
            link.deliver(entry.message, packetId, entry.attempts > 1)
            self._statuses.progress(entry, SENT, entry.sentAt)
            if not isAcked:
                self._hear(Progress(entry.message.box, entry.message.id, self._nowMs()))
        link.delivered()

    def _unsent(self, entries: Sequence[MailboxEntry]) -> None:
        """
        What was taken for a link that is gone by now: it waits for the box's next one, unless it never waits.
        """
        for entry in entries:
            if entry.message.noQueue and entry.attempts == 1:
                final = Final(FinalStatus.refused, "BOX_AWAY", self._nowMs())
                # Unless another link of the box has taken it since.
                self._hear(Progress(entry.message.box, entry.message.id, final.at, final, entry.attempts))

    # From the box to the mailbox.

    def acked(self, link: BoxLink, packetId: int) -> None:
        """
        A box has acked a packet. One that nothing was sent with is passed over.
        """
        window = self.links.get(link)
        entry = window.acked(packetId) if window is not None else None
        if window is None or entry is None:
            return
        self._hear(Progress(entry.message.box, entry.message.id, self._nowMs()))
        if window.mayHaveMore:
            self._want(link)

    def answered(self, box: BoxKey, id_: str, final: Final) -> Deferred[None]:
        """
        A box's application has answered a message. Fires once that is written, however long it takes; an answer to a
        message that is not there, or has its final status, changes nothing.
        """
        done: Deferred[None] = Deferred()
        self._hear(Progress(box, id_, final.at, final), done)
        return done

    def _hear(self, progress: Progress, done: Deferred[None] | None = None) -> None:
        self._heard.add(_Heard(progress, done))

    def _note(self, heard: Sequence[_Heard]) -> Deferred[_Noted]:
        noted = self._store.progressMessages([one.progress for one in heard])
        return noted.addCallback(lambda entries: list(zip(heard, entries, strict=True)))

    def _noted(self, noted: _Noted) -> None:
        for _, entry in noted:
            if entry is None:
                continue
            if entry.final is not None:
                self._statuses.final(entry)
            else:
                self._statuses.progress(entry, DELIVERED, entry.deliveredAt)
        for one, _ in noted:
            if one.done is not None:
                one.done.callback(None)

    # What is due.

    def _sweep(self) -> None:
        if not self._isRunning:
            return
        if not self._unswept:
            self._unswept = list(self.links)
        count = int(len(self.links) * _DUE_PERIOD / SWEEP_PERIOD) + 1
        for link in self._unswept[-count:]:
            if link in self.links:
                self._want(link)
        del self._unswept[-count:]
        if self._statuses.isFailing or self._hasMuchToTell():
            # More of them would wait here, and each instance would tell what another is about to.
            self._clock.callLater(_DUE_PERIOD, self._sweep)
            return
        due: Deferred[Any] = maybeDeferred(self._store.dueMessages, self._nowMs(), _MAX_DUE)
        due.addCallbacks(self._wasDue, self._notDue).addErrback(self._failed).addCallback(self._sweepAgain)

    def _wasDue(self, entries: list[MailboxEntry]) -> bool:
        for entry in entries:
            self._statuses.final(entry)
        return len(entries) == _MAX_DUE

    def _notDue(self, failure: Failure) -> None:
        self.log.debug("session store did not say what is due: {reason}", reason=failure.getErrorMessage())

    def _failed(self, failure: Failure) -> None:
        self.log.failure("what is due was not told, in an unforeseen way", failure)

    def _sweepAgain(self, isMore: bool | None) -> None:
        self._clock.callLater(_DUE_PERIOD / 10 if isMore else _DUE_PERIOD, self._sweep)

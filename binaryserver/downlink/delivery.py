"""
From mailboxes to the boxes whose links are here, and what they answer back to the mailboxes.

Everything goes in batches: while one call of the session store is under way, what comes meanwhile gathers for the next,
and under load the next waits for a moment. So a call costs one round trip however many boxes and messages it is about,
and there are never two of a kind at once; what comes alone goes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

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
_RETRY = 1.0

# s between two calls of a kind. A message waits for the first on its way to the box; nobody waits for the second.
_TAKE_PACE = 0.004
_NOTE_PACE = 0.02

_DUE_PERIOD = 1.0
_MAX_DUE = 500

SWEEP_PERIOD = 30.0
"""s, within which every link asks for its mail: a word that there is some may be lost."""


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
        self._wanted: dict[BoxLink, None] = {}
        self._isTaking = False
        self._tookAt = self._notedAt = 0.0
        self._heard: list[tuple[Progress, Deferred[None] | None]] = []
        self._isNoting = False
        self._isRunning = False
        self._unswept: list[BoxLink] = []

    @property
    def isIdle(self) -> bool:
        """
        Nothing is being taken for boxes, and nothing that they answered is yet to be written.
        """
        return not (self._isTaking or self._heard or self._isNoting)

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
        self._wanted = {}

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
        self._wanted.pop(link, None)

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
        self._wanted[link] = None
        if not self._isTaking and self._isRunning:
            self._isTaking = True
            self._takeSoon()

    def _takeSoon(self) -> None:
        self._clock.callLater(max(0.0, self._tookAt + _TAKE_PACE - self._clock.seconds()), self._take)

    def _take(self) -> None:
        self._tookAt = self._clock.seconds()
        links: list[BoxLink] = []
        takes: list[Take] = []
        while self._wanted and len(takes) < _MAX_TAKES:
            link = next(iter(self._wanted))
            del self._wanted[link]
            window = self.links[link]
            room = window.room
            # Without room its next ack asks again, and one that does not read what it is sent once it does.
            if room and link.isListening and not link.pauses & (Pause.output | Pause.closing):
                links.append(link)
                takes.append(Take(link.box.key, link.linkEpoch, window.after, room))
        if not takes:
            self._isTaking = False
            return
        taken: Deferred[Any] = maybeDeferred(self._store.takeMessages, takes, self._nowMs())
        taken.addCallbacks(self._taken, self._notTaken, callbackArgs=(links, takes), errbackArgs=(links,))
        taken.addErrback(self._failed).addCallback(self._takeMore)

    def _taken(self, answer: list[list[MailboxEntry] | None], links: Sequence[BoxLink], takes: Sequence[Take]) -> None:
        for link, take, entries in zip(links, takes, answer, strict=True):
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
                    self._wanted[link] = None

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

    def _notTaken(self, failure: Failure, links: Sequence[BoxLink]) -> Deferred[None]:
        self.log.warn("session store did not give messages, trying again: {reason}", reason=failure.getErrorMessage())
        for link in links:
            if link in self.links:
                self._wanted[link] = None
        later: Deferred[None] = Deferred()
        self._clock.callLater(_RETRY, later.callback, None)
        return later

    def _failed(self, failure: Failure) -> None:
        self.log.failure("messages were not sent, in an unforeseen way", failure)

    def _takeMore(self, _: None) -> None:
        if self._wanted and self._isRunning:
            self._takeSoon()
        else:
            self._isTaking = False

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
        self._heard.append((progress, done))
        if not self._isNoting:
            self._isNoting = True
            self._noteSoon()

    def _noteSoon(self) -> None:
        self._clock.callLater(max(0.0, self._notedAt + _NOTE_PACE - self._clock.seconds()), self._note)

    def _note(self) -> None:
        self._notedAt = self._clock.seconds()
        heard, self._heard = self._heard[:_MAX_HEARD], self._heard[_MAX_HEARD:]
        noted: Deferred[Any] = maybeDeferred(self._store.progressMessages, [progress for progress, _ in heard])
        noted.addCallbacks(self._wasNoted, self._notNoted, callbackArgs=(heard,), errbackArgs=(heard,))
        noted.addErrback(self._failed).addCallback(self._noteMore)

    def _wasNoted(
        self, entries: list[MailboxEntry | None], heard: Sequence[tuple[Progress, Deferred[None] | None]]
    ) -> None:
        for entry in entries:
            if entry is None:
                continue
            if entry.final is not None:
                self._statuses.final(entry)
            else:
                self._statuses.progress(entry, DELIVERED, entry.deliveredAt)
        for _, done in heard:
            if done is not None:
                done.callback(None)

    def _notNoted(self, failure: Failure, heard: list[tuple[Progress, Deferred[None] | None]]) -> Deferred[None]:
        self.log.warn("session store did not note acks, trying again: {reason}", reason=failure.getErrorMessage())
        self._heard = heard + self._heard
        later: Deferred[None] = Deferred()
        self._clock.callLater(_RETRY, later.callback, None)
        return later

    def _noteMore(self, _: None) -> None:
        if self._heard:
            self._noteSoon()
        else:
            self._isNoting = False

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

    def _sweepAgain(self, isMore: bool | None) -> None:
        self._clock.callLater(_DUE_PERIOD / 10 if isMore else _DUE_PERIOD, self._sweep)

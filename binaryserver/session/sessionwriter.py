"""
A link's MQTT session on its way to the session store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import StoreUnavailable
from binaryserver.session.line import Pause
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.session.arrival import ArrivingLink

_RETRY = 1.0
_MOST_DUE = 16


class SessionWriter:
    """
    One write is under way at a time, and what is due meanwhile is in the next one; a link with much of it is not read
    until that has begun. While the session store is away the write waits, and the box's data goes on.
    """

    log = Logger()

    __slots__ = ("_due", "_isWriting", "_link")

    def __init__(self, link: ArrivingLink) -> None:
        self._link = link
        self._due: list[Deferred[None]] = []
        self._isWriting = False

    def write(self) -> Deferred[None]:
        """
        Write the session as it is by the time that the write begins. Fires once written; never, if the link ends first.
        """
        due: Deferred[None] = Deferred()
        self._due.append(due)
        if len(self._due) > _MOST_DUE:
            self._link.pause(Pause.saving)
        if not self._isWriting:
            self._isWriting = True
            self._write()
        return due

    def _write(self) -> None:
        link = self._link
        if link.hasEnded:
            # One that is only to end has acks that wait for this write.
            return
        writing, self._due = self._due, []
        store = link.gateway.store
        saved = store.saveMqtt(link.box.key, link.linkEpoch, link.mqttSession(), link.isListening)
        saved.addCallbacks(self._written, self._failed, callbackArgs=(writing,), errbackArgs=(writing,))
        link.resume(Pause.saving)

    def _written(self, isLatest: bool, written: list[Deferred[None]]) -> None:
        if not isLatest:
            # Whoever holds the box now closes this link; or the store lost its memory, and is told again.
            self._writeLater(written)
            return
        for one in written:
            one.callback(None)
        if self._due:
            self._write()
        else:
            self._isWriting = False

    def _failed(self, failure: Failure, unwritten: list[Deferred[None]]) -> None:
        if failure.check(StoreUnavailable):
            self._writeLater(unwritten)
            return
        self.log.warn("session store did not keep a session: {reason}", reason=failure.getErrorMessage())
        self._link.end(Ending(Reason.socketClosed, "its session could not be kept"))

    def _writeLater(self, unwritten: list[Deferred[None]]) -> None:
        self._due[:0] = unwritten
        self._link.gateway.clock.callLater(_RETRY, self._write)

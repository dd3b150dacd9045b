"""
Sessions in one SQLite file, which the workers of a host share.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import ConfigError, StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    BoxKey,
    Claim,
    DownlinkMessage,
    Draw,
    Erased,
    FingerprintUpdate,
    LinkState,
    MailboxEntry,
    MailboxLimits,
    MarkUpdate,
    MqttSession,
    Orphan,
    Progress,
    Put,
    Renewal,
    StreamMark,
    Take,
)
from binaryserver.plugins import BackEndContext
from binaryserver.session import (
    sqlitebuckets,
    sqliteerasing,
    sqliteevents,
    sqlitefingerprints,
    sqliteleases,
    sqlitemailbox,
    sqliteowners,
    sqliterecords,
)
from binaryserver.session.boxrecords import BoxEvent, BoxPage, BoxQuery, BoxRecord, RefusalNote
from binaryserver.sqlitelog import deleteForGood, emptyLog
from binaryserver.sqlitethread import Job, SqliteThread, isLocked

# Of the tables of all parts; counts up with each change of them.
_VERSION = 7

_SCHEMA = "".join(
    part.SCHEMA for part in (sqliteowners, sqliteevents, sqliteleases, sqlitemailbox, sqlitefingerprints, sqlitebuckets)
)


@implementer(ISessionStore)
class SqliteSessionStore:
    """
    C{sqlite:PATH}
    """

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path = spec.partition(":")[2]
        if not path or "?" in path:
            raise ConfigError(context.option, f"{spec!r}: the form is sqlite:PATH")
        self._context = context
        self._path = path
        self._thread = self._newThread()

    def _newThread(self, writes: bool = True) -> SqliteThread:
        context = self._context
        return SqliteThread(
            context.reactor,
            context.option,
            self._path,
            _SCHEMA,
            StoreUnavailable,
            context.startTimeout,
            context.startTimeout,
            writes,
            version=_VERSION,
        )

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return self._thread.start().addCallback(lambda _: self._call(deleteForGood))

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        late = StoreError("the session store was stopped before it was written")
        return self._thread.stop(self._context.stopTimeout, late)

    def _call(self, job: Job, *arguments: Any) -> Deferred[Any]:
        return self._thread.call(job, *arguments).addErrback(_storeError)

    def peers(self, incarnation: str) -> None:
        """
        See L{ISessionStore.peers}: a file tells nobody anything.
        """

    def leaseWorker(self, incarnation: str, wanted: int | None = None) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker} and L{sqliteleases.leaseWorker}.
        """
        return self._call(sqliteleases.leaseWorker, incarnation, wanted)

    def renew(self, incarnation: str) -> Deferred[Renewal]:
        """
        See L{ISessionStore.renew}.
        """
        return self._call(sqliteleases.renew, incarnation)

    def bury(self, leaseMs: int) -> Deferred[list[str]]:
        """
        See L{ISessionStore.bury}.
        """
        return self._call(sqliteleases.bury, leaseMs)

    def isDead(self, incarnation: str) -> Deferred[bool]:
        """
        See L{ISessionStore.isDead}.
        """
        return self._call(sqliteleases.isDead, incarnation)

    def resign(self, incarnation: str) -> Deferred[None]:
        """
        See L{ISessionStore.resign}.
        """
        return self._call(sqliteleases.resign, incarnation)

    def claim(
        self,
        box: BoxKey,
        incarnation: str,
        protocol: str,
        peer: str,
        nowMs: int,
        clean: bool,
        attempt: str,
        most: int = 0,
    ) -> Deferred[Claim]:
        """
        See L{ISessionStore.claim}.
        """
        return self._call(sqliteowners.claim, box, incarnation, protocol, peer, nowMs, clean, attempt, most)

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int, event: BoxEvent | None = None) -> Deferred[bool]:
        """
        See L{ISessionStore.release}.
        """
        return self._call(sqliteowners.release, box, linkEpoch, nowMs, event)

    def restore(self, incarnation: str, links: Sequence[LinkState]) -> Deferred[list[bool]]:
        """
        See L{ISessionStore.restore}.
        """
        return self._call(sqliteowners.restore, incarnation, links)

    def adopt(self, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
        """
        See L{ISessionStore.adopt}.
        """
        return self._call(sqliteowners.adopt, dead, incarnation, nowMs, limit, attempt)

    def accounts(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.accounts}.
        """
        return self._call(sqliteowners.accounts, asset)

    def listBoxes(self, query: BoxQuery, after: BoxKey | None, limit: int) -> Deferred[BoxPage]:
        """
        See L{ISessionStore.listBoxes}.
        """
        return self._call(sqliterecords.listBoxes, query, after, limit)

    def boxRecord(self, box: BoxKey) -> Deferred[BoxRecord | None]:
        """
        See L{ISessionStore.boxRecord}.
        """
        return self._call(sqliterecords.boxRecord, box)

    def links(self, account: str) -> Deferred[int]:
        """
        See L{ISessionStore.links}.
        """
        return self._call(sqliterecords.links, account)

    def noteRefusals(self, refusals: Sequence[RefusalNote]) -> Deferred[None]:
        """
        See L{ISessionStore.noteRefusals}.
        """
        return self._call(sqliteowners.noteRefusals, refusals)

    def refusedAs(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.refusedAs}.
        """
        return self._call(sqliteevents.refusedAs, asset)

    def draw(self, draws: Sequence[Draw]) -> Deferred[list[float]]:
        """
        See L{ISessionStore.draw}.
        """
        return self._call(sqlitebuckets.draw, draws)

    def erase(self, box: BoxKey) -> Deferred[Erased]:
        """
        See L{ISessionStore.erase}.
        """
        return Deferred.fromCoroutine(self._erase(box)).addErrback(_storeError)

    async def _erase(self, box: BoxKey) -> Erased:
        erased: Erased = await self._thread.call(sqliteerasing.erase, box)
        if not erased.isConnected:
            await self._emptyLog()
        return erased

    async def _emptyLog(self) -> None:
        # In a thread without transactions: there must be none when the log is emptied. It is a rare thing to do.
        thread = self._newThread(writes=False)
        try:
            await thread.start()
            await emptyLog(self._context.reactor, thread)
        except (ConfigError, sqlite3.Error) as error:
            raise StoreError(f"a box is erased, but its bytes may be in the file still: {error}") from error
        finally:
            await thread.stop(self._context.stopTimeout, StoreError("the session store was stopped"))

    def purge(self, beforeMs: int, limit: int) -> Deferred[int]:
        """
        See L{ISessionStore.purge}.
        """
        return self._call(sqliteerasing.purge, beforeMs, limit)

    def commitMarks(self, marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        See L{ISessionStore.commitMarks}.
        """
        return self._call(sqliteowners.commitMarks, marks)

    def marks(self, box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{ISessionStore.marks}.
        """
        return self._call(sqliteowners.marks, box)

    def fingerprints(self, box: BoxKey) -> Deferred[bytes]:
        """
        See L{ISessionStore.fingerprints}.
        """
        return self._call(sqlitefingerprints.fingerprints, box)

    def commitFingerprints(self, updates: Sequence[FingerprintUpdate], window: int) -> Deferred[None]:
        """
        See L{ISessionStore.commitFingerprints}.
        """
        return self._call(sqlitefingerprints.commitFingerprints, updates, window)

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> Deferred[bool]:
        """
        See L{ISessionStore.saveMqtt}.
        """
        return self._call(
            sqliteowners.update,
            "UPDATE boxes SET mqtt = ?, listening = ? "
            "WHERE account = ? AND asset = ? AND epoch = ? AND incarnation <> ''",
            (sqliteowners.encodeSession(session), isListening, *box, linkEpoch),
        )

    def putMessages(
        self, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int
    ) -> Deferred[list[Put]]:
        """
        See L{ISessionStore.putMessages}.
        """
        return self._call(sqlitemailbox.putMessages, messages, limits, nowMs)

    def takeMessages(self, takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        See L{ISessionStore.takeMessages}.
        """
        return self._call(sqlitemailbox.takeMessages, takes, nowMs)

    def progressMessages(self, heard: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
        """
        See L{ISessionStore.progressMessages}.
        """
        return self._call(sqlitemailbox.progressMessages, heard)

    def removeMessages(self, finished: Sequence[tuple[BoxKey, str]]) -> Deferred[None]:
        """
        See L{ISessionStore.removeMessages}.
        """
        return self._call(sqlitemailbox.removeMessages, finished)

    def dueMessages(self, nowMs: int, limit: int) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.dueMessages}.
        """
        return self._call(sqlitemailbox.dueMessages, nowMs, limit)

    def mailbox(self, box: BoxKey) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.mailbox}.
        """
        return self._call(sqlitemailbox.mailbox, box)

    def mailboxMessages(self) -> Deferred[int]:
        """
        See L{ISessionStore.mailboxMessages}.
        """
        return self._call(sqlitemailbox.mailboxMessages)


def _storeError(failure: Failure) -> NoReturn:
    # An OverflowError is SQLite's too: a number of more than 64 bits.
    failure.trap(sqlite3.Error, OverflowError)
    # Who waits in vain for the file's lock has changed nothing.
    kind = StoreNotAsked if isLocked(failure.value) else StoreError
    raise kind(f"SQLite: {failure.getErrorMessage()}") from failure.value

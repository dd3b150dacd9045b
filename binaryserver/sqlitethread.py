"""
One SQLite file in a thread of its own.

What waits is done in one transaction, so that a synced commit is paid for once however many asked; each job has a
savepoint, so that one that fails takes no other with it. The answers of a transaction come back at once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError, LocalError

# s that SQLite waits for another process's lock before an end of ours is looked for.
_BUSY_STEP = 1.0

# Bytes that the write-ahead log keeps of the file system after a large transaction.
_KEPT_WAL = 64 << 20

_T = TypeVar("_T")

Job = Callable[..., Any]
_Jobs = Sequence[tuple[Job, Sequence[Any], Deferred[Any]]]


class _State(Enum):
    """
    What the thread's owner did last.
    """

    made = auto()
    started = auto()
    stopped = auto()


class SqliteThread:
    """
    Calls functions with the connection as their first argument.
    """

    def __init__(
        self,
        reactor: Any,
        option: str,
        path: str,
        schema: str,
        unavailable: type[LocalError],
        startTimeout: float,
        patience: float,
        writes: bool = True,
        merged: int = 500,
        version: int = 0,
    ) -> None:
        """
        @param option: the option that named the file, for L{ConfigError}s
        @param schema: run at the start; makes what is missing
        @param unavailable: what the start fails with when another process keeps the file locked
        @param startTimeout: s, how long the start waits for another process's lock
        @param patience: s, how long a transaction waits for it
        @param writes: C{False}: jobs only read, and have no transaction
        @param merged: how many jobs one transaction may hold
        @param version: of the schema: a file that was made with another is refused
        """
        self._reactor = reactor
        self._option = option
        self.path = path
        self._schema = schema
        self._unavailable = unavailable
        self._startTimeout = startTimeout
        self._patience = patience
        self._writes = writes
        self._merged = merged
        self._version = version
        self._state = _State.made
        self._jobs: SimpleQueue[tuple[Job, Sequence[Any], Deferred[Any]] | None] = SimpleQueue()
        self._unanswered: dict[Deferred[Any], None] = {}
        self._isOver = False
        self._isAbandoned = False
        self._giveUp: IDelayedCall | None = None
        self._stopping: list[Deferred[None]] = []

    def start(self) -> Deferred[None]:
        """
        Open the file; make it and its folder if need be. Fails with L{ConfigError}, or with C{unavailable}.
        """
        self._state = _State.started
        started: Deferred[None] = Deferred()
        Thread(target=self._run, args=(started,), name=f"sqlite {self.path}", daemon=True).start()
        return started

    def call(self, job: Job, *arguments: Any) -> Deferred[Any]:
        """
        Fires with what C{job(connection, *arguments)} gave, once that is committed; fails with what it raised, or with
        C{sqlite3.Error}: then nothing of it is in the file, unless it is the commit that failed.
        """
        if self._state is not _State.started or self._isOver:
            return fail(sqlite3.ProgrammingError(f"{self.path} is not open"))
        answer: Deferred[Any] = Deferred()
        self._unanswered[answer] = None
        self._jobs.put((job, arguments, answer))
        return answer

    def stop(self, timeout: float, late: LocalError) -> Deferred[None]:
        """
        Do what waits, then close the file.

        @param timeout: s, after which what has not ended, a disk that hangs included, is left to itself
        @param late: what it then fails with
        """
        if self._state is _State.made or self._isOver:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        if self._state is not _State.stopped:
            self._state = _State.stopped
            self._jobs.put(None)
            self._giveUp = self._reactor.callLater(timeout, self._abandon, late)
        return stopped

    def _abandon(self, error: LocalError) -> None:
        self._isAbandoned = True
        self._over(error)

    # In the thread.

    def _run(self, started: Deferred[None]) -> None:
        try:
            connection = self._open()
        except Exception as error:
            self._reactor.callFromThread(self._startFailed, started, self._whyNotOpen(error))
            return
        self._reactor.callFromThread(started.callback, None)
        isLast = False
        while not isLast:
            jobs, isLast = self._waiting()
            if jobs and not self._isAbandoned:
                self._reactor.callFromThread(self._answer, self._do(connection, jobs))
        connection.close()
        self._reactor.callFromThread(self._over, sqlite3.ProgrammingError(f"{self.path} is closed"))

    def _waiting(self) -> tuple[_Jobs, bool]:
        """
        The jobs that wait, at least one; and whether they are the last.
        """
        jobs = []
        job = self._jobs.get()
        try:
            while job is not None:
                jobs.append(job)
                if len(jobs) == self._merged:
                    return jobs, False
                job = self._jobs.get_nowait()
        except Empty:
            return jobs, False
        return jobs, True

    def _open(self) -> sqlite3.Connection:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_BUSY_STEP, isolation_level=None)
        try:
            schema = self._schema
            # Before anything is changed: it may be a file of something else.
            if self._retry(lambda: self._isNew(connection), self._startTimeout):
                # All of it at once, lest another process that starts finds a half-made file of version 0.
                schema = f"BEGIN IMMEDIATE;\n{schema};\nPRAGMA user_version = {self._version};\nCOMMIT"
            (mode,) = self._retry(
                lambda: connection.execute("PRAGMA journal_mode = WAL"), self._startTimeout
            ).fetchone()
            if mode != "wal":
                raise sqlite3.NotSupportedError(f"no write-ahead log is possible there, only {mode}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_KEPT_WAL}")
            self._retry(lambda: connection.executescript(schema), self._startTimeout)
            if self._writes:
                # A file that may only be read opens all the same, even a transaction begins: it takes a write to tell.
                self._retry(lambda: connection.execute("BEGIN IMMEDIATE"), self._startTimeout)
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                connection.execute(f"PRAGMA user_version = {version}")
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _isNew(self, connection: sqlite3.Connection) -> bool:
        # One statement sees one state of the file, which another process may be making.
        found = connection.execute("SELECT (SELECT count(*) FROM sqlite_master), user_version FROM pragma_user_version")
        objects, version = found.fetchone()
        if objects and version != self._version:
            raise sqlite3.NotSupportedError(
                f"its schema is of version {version}, but this release needs {self._version}: move the file away"
            )
        return not objects

    def _whyNotOpen(self, error: Exception) -> Exception:
        if isLocked(error):
            return self._unavailable(f"{self._option}: {self.path}: another process keeps it locked")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return ConfigError(self._option, f"{self.path}: {reason}")

    def _retry(self, step: Callable[[], _T], patience: float) -> _T:
        """
        Wait for another process's lock in steps, so that an end is noticed.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                if not isLocked(error) or self._isAbandoned or time.monotonic() > deadline:
                    raise

    def _do(self, connection: sqlite3.Connection, jobs: _Jobs) -> list[tuple[Deferred[Any], Any]]:
        # Whatever a job raises is its caller's to hear; it must not end the thread, nor leave the file locked.
        try:
            if not self._writes:
                return [(answer, _read(connection, job, arguments)) for job, arguments, answer in jobs]
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._retry(lambda: connection.execute("BEGIN IMMEDIATE"), self._patience)
            answers = [(answer, _write(connection, job, arguments, len(jobs))) for job, arguments, answer in jobs]
            connection.execute("COMMIT")
            return answers
        except Exception:
            failure = Failure()
            _rollBack(connection)
            return [(answer, failure) for _, _, answer in jobs]

    # Back in the reactor's.

    def _startFailed(self, started: Deferred[None], error: Exception) -> None:
        self._over(error)
        started.errback(error)

    def _answer(self, answers: list[tuple[Deferred[Any], Any]]) -> None:
        for answer, result in answers:
            if answer in self._unanswered:
                del self._unanswered[answer]
                answer.callback(result)

    def _over(self, error: Exception) -> None:
        """
        Nothing will be answered any more.
        """
        if self._isOver:
            return
        self._isOver = True
        if self._giveUp is not None and self._giveUp.active():
            self._giveUp.cancel()
        unanswered, self._unanswered = self._unanswered, {}
        for answer in unanswered:
            answer.errback(error)
        stopping, self._stopping = self._stopping, []
        for stopped in stopping:
            stopped.callback(None)


# In the thread.


def isLocked(error: object) -> bool:
    """
    Whether it says that another process keeps the file locked.
    """
    # What the module itself raises has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _read(connection: sqlite3.Connection, job: Job, arguments: Sequence[Any]) -> Any:
    try:
        return job(connection, *arguments)
    except Exception:
        return Failure()


def _write(connection: sqlite3.Connection, job: Job, arguments: Sequence[Any], jobs: int) -> Any:
    """
    @param jobs: how many the transaction holds; one alone needs no savepoint
    """
    if jobs == 1:
        return job(connection, *arguments)
    connection.execute("SAVEPOINT job")
    try:
        result = job(connection, *arguments)
    except Exception:
        if not connection.in_transaction:  # a full disk, say: SQLite has rolled back all of it
            raise
        failure = Failure()
        connection.execute("ROLLBACK TO job")
        result = failure
    connection.execute("RELEASE job")
    return result


def _rollBack(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        # A disk may be so broken that not even this works: the next transaction begins with another attempt.
        return

"""
One SQLite file in a thread of its own.

What waits is done in one transaction, so that a synced commit is paid for once however many asked; each job has a
savepoint, so that one that fails takes no other with it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError

_BUSY_STEP = 1.0
_MAX_JOBS = 500

Job = Callable[..., Any]


class SqliteThread:
    """
    Calls functions with the connection as their first argument.
    """

    def __init__(self, reactor: Any, option: str, path: str, schema: str, patience: float, writes: bool = True) -> None:
        """
        @param option: the option that named the file, for L{ConfigError}s
        @param schema: run at the start; makes what is missing
        @param patience: s, how long another process's transaction is waited for
        @param writes: C{False}: jobs only read, and have no transaction
        """
        self._reactor = reactor
        self._option = option
        self.path = path
        self._schema = schema
        self._patience = patience
        self._writes = writes
        self._jobs: SimpleQueue[tuple[Job, Sequence[Any], Deferred[Any]] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._isAbandoned = False
        self._unanswered: dict[Deferred[Any], None] = {}
        self._ended: Deferred[None] = Deferred()

    def start(self) -> Deferred[None]:
        """
        Open the file; make it and its folder if need be. Fails with L{ConfigError}.
        """
        started: Deferred[None] = Deferred()
        self._thread = Thread(target=self._run, args=(started,), name=f"sqlite {self.path}", daemon=True)
        self._thread.start()
        return started

    def call(self, job: Job, *arguments: Any) -> Deferred[Any]:
        """
        Fires with what C{job(connection, *arguments)} gave, once that is committed; fails with what it raised, or with
        C{sqlite3.Error}.
        """
        answer: Deferred[Any] = Deferred()
        self._unanswered[answer] = None
        self._jobs.put((job, arguments, answer))
        return answer

    def stop(self) -> Deferred[None]:
        """
        Do what waits, then close the file.
        """
        if self._thread is None:
            self._ended.callback(None)
        else:
            self._jobs.put(None)
        return self._ended

    def abandon(self, error: Exception) -> None:
        """
        Fail what waits and what is under way, whatever becomes of it.
        """
        self._isAbandoned = True
        unanswered, self._unanswered = self._unanswered, {}
        for answer in unanswered:
            answer.errback(error)

    # In the thread.

    def _run(self, started: Deferred[None]) -> None:
        try:
            connection = self._open()
        except Exception as error:
            failed = ConfigError(self._option, f"{self.path}: {error}")
            self._thread = None
            self._reactor.callFromThread(started.errback, failed)
            return
        self._reactor.callFromThread(started.callback, None)
        isLast = False
        while not isLast:
            jobs = [self._jobs.get()]
            try:
                while len(jobs) < _MAX_JOBS and jobs[-1] is not None:
                    jobs.append(self._jobs.get_nowait())
            except Empty:
                pass
            isLast = jobs[-1] is None
            due = [job for job in jobs if job is not None]
            if due and not self._isAbandoned:
                self._reactor.callFromThread(self._answer, self._do(connection, due))
        connection.close()
        self._reactor.callFromThread(self._ended.callback, None)

    def _open(self) -> sqlite3.Connection:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_BUSY_STEP, isolation_level=None)
        try:
            self._retry(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            connection.execute("PRAGMA synchronous = FULL")
            self._retry(lambda: connection.executescript(self._schema))
        except BaseException:
            connection.close()
            raise
        return connection

    def _retry(self, step: Callable[[], object]) -> None:
        """
        Wait for another process's lock in steps, so that an end is noticed.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                step()
                return
            except sqlite3.OperationalError as error:
                locked = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not locked or self._isAbandoned or time.monotonic() > deadline:
                    raise

    def _do(
        self, connection: sqlite3.Connection, jobs: Sequence[tuple[Job, Sequence[Any], Deferred[Any]]]
    ) -> list[tuple[Deferred[Any], Any]]:
        answers: list[tuple[Deferred[Any], Any]] = []
        try:
            if self._writes:
                self._retry(lambda: connection.execute("BEGIN IMMEDIATE"))
            for job, arguments, answer in jobs:
                answers.append((answer, self._one(connection, job, arguments, len(jobs) > 1)))
            if self._writes:
                connection.execute("COMMIT")
        except sqlite3.Error:
            failure = Failure()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return [(answer, failure) for _, _, answer in jobs]
        return answers

    def _one(self, connection: sqlite3.Connection, job: Job, arguments: Sequence[Any], isAmongOthers: bool) -> Any:
        nests = self._writes and isAmongOthers
        try:
            if nests:
                connection.execute("SAVEPOINT job")
            result = job(connection, *arguments)
            if nests:
                connection.execute("RELEASE job")
            return result
        except sqlite3.Error:
            if not nests or not connection.in_transaction:
                raise
            failure = Failure()
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return failure
        except Exception:
            if not self._writes:
                return Failure()
            raise

    # Back in the reactor's.

    def _answer(self, answers: list[tuple[Deferred[Any], Any]]) -> None:
        for answer, result in answers:
            if answer in self._unanswered:
                del self._unanswered[answer]
                answer.callback(result)

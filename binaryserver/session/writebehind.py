"""
What the bus has and the session store is to note: merged while it waits, and written until it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from binaryserver.session.box import BoxSession

T = TypeVar("T")

_RETRY = 1.0


class WriteBehind(Generic[T]):
    """
    One kind of it. One write at a time; what changes meanwhile goes with the next.

    @ivar dirty: what is to be written, and its box
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        what: str,
        write: Callable[[Mapping[T, BoxSession]], Deferred[None]],
        onWritten: Callable[[Mapping[T, BoxSession]], None],
    ) -> None:
        """
        @param what: for the log
        @param write: writes them, as they are when it is called
        @param onWritten: called once they are written
        """
        self._clock = clock
        self._what = what
        self._write = write
        self._onWritten = onWritten
        self.dirty: dict[T, BoxSession] = {}
        self._writing: dict[T, BoxSession] = {}

    def __contains__(self, one: T) -> bool:
        return one in self.dirty or one in self._writing

    def __len__(self) -> int:
        return len(self.dirty.keys() | self._writing.keys())

    @property
    def isEmpty(self) -> bool:
        """
        All is written.
        """
        return not self.dirty and not self._writing

    def start(self) -> None:
        """
        Write what is dirty, if nothing is being written.
        """
        if self.dirty and not self._writing:
            self._writing, self.dirty = self.dirty, {}
            self._write(self._writing).addCallbacks(self._written, self._failed)

    def _written(self, _: None) -> None:
        written, self._writing = self._writing, {}
        self._onWritten(written)
        self.start()

    def _failed(self, failure: Failure) -> None:
        # An ack does not wait for it; what the bus holds stays known here until the store takes it.
        self.log.error("session store did not take {what}: {reason}", what=self._what, reason=failure.getErrorMessage())
        self._clock.callLater(_RETRY, self._retry)

    def _retry(self) -> None:
        self.dirty = {**self._writing, **self.dirty}
        self._writing = {}
        self.start()

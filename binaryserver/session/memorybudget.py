"""
The memory that packets may take before they are whole.

A packet of C{--max-packet} bytes is legal, and a peer that sends most of one and then stalls is not to be told from a
slow one until its time is up. So what many links may hold in such packets together is bounded: beyond a little for
each, a link asks for its packet's whole size at once, and is not read until it is given.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Waiter(Protocol):
    """
    A link that asks.
    """

    def memoryGranted(self) -> None:
        """
        Go on reading.
        """

    def memoryReclaimed(self) -> None:
        """
        Others need it: give up, which ends in a L{MemoryBudget.release}.
        """


FREE = 16_384
"""Bytes that each link may hold without asking."""


class MemoryBudget:
    """
    Grants in the order of asking.
    """

    def __init__(self, size: int) -> None:
        """
        @param size: bytes
        """
        self._size = size
        self._granted: dict[Waiter, int] = {}
        self._used = 0
        self._waiting: deque[tuple[Waiter, int]] = deque()

    @property
    def used(self) -> int:
        """
        Bytes that are granted.
        """
        return self._used

    def request(self, waiter: Waiter, size: int) -> bool:
        """
        Ask for C{size} bytes; give them back with L{release}.

        @return: whether they are granted now; if not, C{waiter.memoryGranted} is called when they are
        """
        if not self._waiting and self._fits(size):
            self._grant(waiter, size)
            return True
        self._waiting.append((waiter, size))
        return False

    def release(self, waiter: Waiter) -> None:
        """
        Give back what was granted, or ask no more. Nothing happens if it neither has nor waits.
        """
        granted = self._granted.pop(waiter, None)
        if granted is not None:
            self._used -= granted
        else:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not waiter)
        while self._waiting and self._fits(self._waiting[0][1]):
            next_, size = self._waiting.popleft()
            self._grant(next_, size)
            next_.memoryGranted()

    def reclaim(self) -> None:
        """
        Somebody has waited for long: let the one go that has held its memory for the longest.
        """
        for oldest in self._granted:
            oldest.memoryReclaimed()
            break

    def _fits(self, size: int) -> bool:
        # One packet larger than all of it must be possible, alone.
        return self._used + size <= self._size or not self._granted

    def _grant(self, waiter: Waiter, size: int) -> None:
        self._granted[waiter] = size
        self._used += size

"""
The 64-bit ids of events and links: 42 bits of ms since 2010-01-01, 8 bits of counter, 14 bits of worker.
"""

from __future__ import annotations

from collections.abc import Callable

from binaryserver.model import EPOCH_2010_MS

_TIME_MASK = (1 << 42) - 1


class IdSource:
    """
    Gives ids that grow, and that no other worker gives.

    More than 256 ids in one ms borrow from the ms that follow; a clock that goes back is waited for in the same way.
    """

    def __init__(self, worker: int, nowMs: Callable[[], int]) -> None:
        """
        @param worker: 0 to 16383, leased from the session store
        @param nowMs: Unix ms
        """
        self._worker = worker
        self._nowMs = nowMs
        self._last = 0

    def next(self) -> int:
        """
        The next id.
        """
        self._last = max(self._last + 1, (self._nowMs() - EPOCH_2010_MS) << 8)
        return ((self._last & ((1 << 50) - 1)) << 14) | self._worker


def streamSalt(stream: int) -> int:
    """
    What L{trackId} mixes in of a stream.
    """
    return (stream * 0x9E3779B97F4A7C15 >> 20) & 0xFFFFFFFF


def trackId(recordedAt: int, salt: int, index: int) -> int:
    """
    A track's id: 42 bits of its recorded time and 22 of a hash of stream and index. The same track has the same id
    however often it is sent; unique within a box only.

    @param recordedAt: Unix ms
    @param salt: of its stream, by L{streamSalt}
    """
    return ((recordedAt - EPOCH_2010_MS & _TIME_MASK) << 22) | (((index * 2654435761 + salt) >> 10) & 0x3FFFFF)

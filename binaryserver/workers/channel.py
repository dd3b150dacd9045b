"""
What the parent and a worker say to each other: JSON objects, one a line, over a pair of pipes.

Parent to worker: C{start} (once: what to be), C{stop}, C{handOver} and C{disconnect} (C{id}, C{account}, C{asset},
C{epoch}), C{answer} (C{id}, C{answer}: marks or null of the one, a boolean or null of the other), C{wake} (C{boxes}:
account and asset of each), C{logs} (C{levels}, by namespace), C{reload} (C{settings}: those that can change),
C{metrics} (C{id}). Worker to parent: C{started}, C{failed} (C{option}, C{message}), C{handOver} and C{disconnect}
(C{id}, C{incarnation} and the rest), C{answer}, C{wake} (C{incarnation}, C{boxes}), C{health} (C{checks}: by their
names, whether it is well and a sentence), C{metrics} (C{id}, C{families}: see L{binaryserver.metrics.families.toJson}),
C{drained} (C{status}).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from binaryserver.model import BoxKey, StreamMark

# Four marks and some names fit many times; the first message carries every setting.
_MAX_LINE = 1_048_576


class Channel(LineOnlyReceiver):
    """
    One end.
    """

    delimiter = b"\n"
    MAX_LENGTH = _MAX_LINE

    def __init__(self, received: Callable[[dict[str, Any]], None], lost: Callable[[], None]) -> None:
        """
        @param received: called with each message; its C{kind} says which
        @param lost: called once the other end is gone
        """
        self._received = received
        self._lost = lost

    def lineReceived(self, line: bytes) -> None:
        """
        See L{LineOnlyReceiver.lineReceived}.
        """
        self._received(json.loads(line))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{LineOnlyReceiver.connectionLost}.
        """
        self._lost()

    def send(self, kind: str, **fields: Any) -> None:
        """
        Send a message.
        """
        self.sendLine(json.dumps({"kind": kind, **fields}).encode())


def marksToJson(marks: tuple[StreamMark, ...] | None) -> list[list[int]] | None:
    """
    Marks as a message carries them.
    """
    return None if marks is None else [list(mark) for mark in marks]


def marksFromJson(marks: list[list[int]] | None) -> tuple[StreamMark, ...] | None:
    """
    The opposite of L{marksToJson}.
    """
    return None if marks is None else tuple(StreamMark(*mark) for mark in marks)


def boxOf(message: dict[str, Any]) -> BoxKey:
    """
    The box that a message speaks of.
    """
    return BoxKey(message["account"], message["asset"])

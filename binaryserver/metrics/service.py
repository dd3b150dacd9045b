"""
What runs for the numbers' sake.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from binaryserver.service import Component


class Running(Protocol):
    """
    What is started and stopped at once.
    """

    def start(self) -> None:
        """
        Begin.
        """

    def stop(self) -> None:
        """
        End.
        """


class MetricsService(Component):
    """
    Of one process.
    """

    def __init__(self, *parts: Running) -> None:
        self._parts = parts

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """
        for part in self._parts:
            part.start()
        return succeed(None)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        for part in self._parts:
            part.stop()
        return succeed(None)

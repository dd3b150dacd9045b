"""
A back end whose calls are timed, at the one place where it is made.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from binaryserver.errors import AccountFull
from binaryserver.metrics.observed import Calls

BackEnd = TypeVar("BackEnd")


def timed(backEnd: BackEnd, calls: Calls, clock: IReactorTime) -> BackEnd:
    """
    What stands before a back end: the same, but those of its methods that C{calls} names are timed.
    """
    return cast(BackEnd, _Timed(backEnd, calls, clock))


class _Timed:
    """
    Provides what its back end does.
    """

    def __init__(self, backEnd: Any, calls: Calls, clock: IReactorTime) -> None:
        self._backEnd = backEnd
        self._calls = calls
        self._clock = clock
        directlyProvides(self, providedBy(backEnd))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backEnd, name)
        if name in self._calls.made:
            # Found at the object itself from now on.
            found = self.__dict__[name] = self._timing(name, found)
        return found

    def _timing(self, name: str, method: Any) -> Any:
        calls, seconds = self._calls, self._clock.seconds

        def call(*arguments: Any, **named: Any) -> Deferred[Any]:
            began = seconds()

            def ended(result: Any) -> Any:
                calls.seconds.observe(seconds() - began)
                calls.made[name] += 1
                # That an account is full is an answer.
                if isinstance(result, Failure) and not result.check(AccountFull):
                    calls.failures += 1
                return result

            asked: Deferred[Any] = method(*arguments, **named)
            return asked.addBoth(ended)

        return call

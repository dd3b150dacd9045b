"""
Whether a process may be sent boxes, and why not: what C{/readyz} says.

Nothing is probed when somebody asks. Each part says what it knows anyway, of the last answers that it had and of how
long it has waited for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple


class Check(NamedTuple):
    """
    What one part says. For everybody to read: no addresses, names of boxes or words of others.

    @ivar ok: boxes may come, as far as it goes
    @ivar detail: a sentence for a person
    """

    ok: bool
    detail: str


class Phase(Enum):
    """
    Of a process's life.
    """

    starting = "it starts"
    serving = "it serves"
    draining = "it drains"


SERVING = "serving"
"""The name of the check that L{Phase} is told by."""


class Health:
    """
    Of one process.

    @ivar phase: it is only ready while it serves
    """

    def __init__(self) -> None:
        self.phase = Phase.starting
        self._looks: dict[str, Callable[[], Check]] = {}
        self._more: list[Callable[[], Mapping[str, Check]]] = []

    def watch(self, name: str, look: Callable[[], Check]) -> None:
        """
        Have a part asked each time that somebody wants to know. It must neither wait nor take long.
        """
        self._looks[name] = look

    def join(self, look: Callable[[], Mapping[str, Check]]) -> None:
        """
        Likewise of several parts, whose names are only known then.
        """
        self._more.append(look)

    def checks(self) -> dict[str, Check]:
        """
        What each part says now.
        """
        found = {SERVING: Check(self.phase is Phase.serving, self.phase.value)}
        found |= {name: look() for name, look in self._looks.items()}
        for look in self._more:
            # Of one name, what is not well is what counts.
            found |= {name: check for name, check in look().items() if name not in found or found[name].ok}
        return found


def asReport(checks: Mapping[str, Check]) -> tuple[bool, dict[str, Any]]:
    """
    @return: whether boxes may be sent here, and what C{/readyz} answers
    """
    isReady = all(check.ok for check in checks.values())
    shown = {name: check._asdict() for name, check in checks.items()}
    return isReady, {"status": "ready" if isReady else "not ready", "checks": shown}


def merged(names: Mapping[str, Mapping[str, Check]]) -> dict[str, Check]:
    """
    What several processes say together: each part is well if it is well in all of them.

    @param names: the checks of each, by its name
    """
    found: dict[str, list[tuple[str, Check]]] = {}
    for process, checks in names.items():
        for name, check in checks.items():
            found.setdefault(name, []).append((process, check))
    return {name: _together(said) for name, said in found.items()}


def _together(said: list[tuple[str, Check]]) -> Check:
    bad = [f"{process}: {check.detail}" for process, check in said if not check.ok]
    if bad:
        return Check(False, "; ".join(bad))
    # Once, where all say the same.
    details = {check.detail for _, check in said}
    if len(details) == 1:
        return Check(True, details.pop())
    return Check(True, "; ".join(f"{process}: {check.detail}" for process, check in said))

"""
How the links of an instance end when it stops: one after the other, so that their boxes do not come to the others all
at once.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from twisted.internet.task import deferLater

from binaryserver.session.line import Pause
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway
    from binaryserver.session.link import BoxLink

PACE = 500.0
"""Links that end in a second, unless that takes more than L{SHARE} of the time."""
SHARE = 0.5
"""Of the time that a drain may take, in which they all end."""

_TICK = 0.02


async def endLinks(
    gateway: Gateway, timeout: float, deadline: float, random: Callable[[], float] | None = None
) -> bool:
    """
    End every link with SERVER_SHUTDOWN, each at a moment drawn by chance: until then it goes on as if nothing was, and
    then it is read no more, what it has in flight commits and is acked, and it closes.

    @param timeout: s, the time that a drain may take
    @param deadline: s of the clock, when links end as they are
    @param random: gives numbers of [0, 1)
    @return: everything that was taken from them was acked
    """
    random = random or Random().random
    clock = gateway.clock
    links = gateway.registry.links
    spread = min(timeout * SHARE, len(links) / PACE)
    began: float = clock.seconds()
    moments = sorted(((began + random() * spread, number, link) for number, link in enumerate(links)), reverse=True)
    ending: set[BoxLink] = set()
    while (moments or ending) and clock.seconds() < deadline:
        now = clock.seconds()
        while moments and moments[-1][0] <= now:
            link = moments.pop()[2]
            link.pause(Pause.closing)
            ending.add(link)
        for link in [link for link in ending if not link.inFlight]:
            ending.remove(link)
            link.end(Ending(Reason.serverShutdown))
        if moments or ending:
            await deferLater(clock, _TICK)
    isWhole = not any(link.inFlight for link in links)
    for link in list(links):
        link.end(Ending(Reason.serverShutdown))
    return isWhole

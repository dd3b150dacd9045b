"""
What there is to tell of all links of an instance, found by one look at each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from binaryserver.session.line import Pause

if TYPE_CHECKING:
    from binaryserver.session.link import BoxLink

MAX_ACCOUNTS = 100
"""Accounts that have numbers of their own: those with the most links."""

OTHER = "other"
"""What the rest are together."""

CAUSES = {name: bit for name, bit in vars(Pause).items() if isinstance(bit, int) and bit}
"""Of L{Pause}, by their names."""

_WAITS = Pause.globalWindow | Pause.handover


class LinkCensus:
    """
    As of one moment.

    @ivar byAccount: open links of boxes, by protocol and account; at most L{MAX_ACCOUNTS} accounts, and L{OTHER}
    @ivar paused: links that are not read, by cause
    @ivar arriving: links that no box has opened yet, or that are ending
    @ivar heldFor: s for which the longest waits with data that the bus has not been handed: for room in the global
        window, or for its box's earlier owner
    """

    def __init__(self, links: Iterable[BoxLink], now: float) -> None:
        """
        @param now: s of the reactor's clock
        """
        found: Counter[tuple[str, str]] = Counter()
        pauses: Counter[int] = Counter()
        self.arriving = 0
        self.heldFor = 0.0
        for link in links:
            if link.isBoxOpen:
                found[link.protocolName, link.box.key.account] += 1
            else:
                self.arriving += 1
            if link.pauses:
                pauses[link.pauses] += 1
                if link.pauses & _WAITS:
                    waited = max(link.pausedFor(Pause.globalWindow, now), link.pausedFor(Pause.handover, now))
                    self.heldFor = max(self.heldFor, waited)
        self.byAccount = _bounded(found)
        self.paused = {
            name: sum(count for together, count in pauses.items() if together & bit) for name, bit in CAUSES.items()
        }


def _bounded(found: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    accounts: Counter[str] = Counter()
    for (_, account), count in found.items():
        accounts[account] += count
    large = {account for account, _ in accounts.most_common(MAX_ACCOUNTS)}
    bounded: dict[tuple[str, str], int] = {}
    for (protocol, account), count in found.items():
        place = protocol, account if account in large else OTHER
        bounded[place] = bounded.get(place, 0) + count
    return bounded

"""
What there is to tell of all links of an instance, found by one look at each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
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
    As of one moment. Links that are read cost next to nothing: there may be tens of thousands.

    @ivar paused: links that are not read, by cause
    @ivar heldFor: s for which the longest waits with data that the bus has not been handed: for room in the global
        window, or for its box's earlier owner
    """

    def __init__(self, links: Iterable[BoxLink], now: float) -> None:
        """
        @param now: s of the reactor's clock
        """
        pauses: Counter[int] = Counter()
        self.heldFor = 0.0
        for link in links:
            if link.pauses:
                pauses[link.pauses] += 1
                if link.pauses & _WAITS:
                    waited = max(link.pausedFor(Pause.globalWindow, now), link.pausedFor(Pause.handover, now))
                    self.heldFor = max(self.heldFor, waited)
        self.paused = {
            name: sum(count for together, count in pauses.items() if together & bit) for name, bit in CAUSES.items()
        }


def bounded(found: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """
    Boxes that are here, by box protocol and account: at most L{MAX_ACCOUNTS} accounts, and L{OTHER}.

    @param found: by all accounts
    """
    accounts: Counter[str] = Counter()
    for (_, account), count in found.items():
        accounts[account] += count
    large = {account for account, _ in accounts.most_common(MAX_ACCOUNTS)}
    few: dict[tuple[str, str], int] = {}
    for (protocol, account), count in found.items():
        place = protocol, account if account in large else OTHER
        few[place] = few.get(place, 0) + count
    return few

"""
Removing what the gateway keeps of a box, and saying what it cannot remove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, StoreError
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.model import BoxKey
from binaryserver.ops.outlet import Refusal, accountOf


class Eraser:
    """
    Of one gateway.
    """

    def __init__(
        self,
        bus: IBus,
        store: ISessionStore,
        topics: Topics,
        published: Callable[[BoxKey], BoxKey],
        elsewhere: Sequence[str],
    ) -> None:
        """
        @param published: the name that a box's events may have beside its own: its pseudonym, if it can have any
        @param elsewhere: where else events of boxes are, each as words for a person
        """
        self._bus = bus
        self._store = store
        self._topics = topics
        self._published = published
        self._elsewhere = elsewhere

    async def erase(self, box: BoxKey) -> dict[str, object]:
        """
        Remove everything that is kept of a box.

        @param box: without an account: the one box of that asset
        @return: what was removed, by kind, and what remains
        @raise Refusal: nothing was removed, or not all of it is known to be
        """
        box = BoxKey(box.account or await accountOf(self._store, box.asset), box.asset)
        try:
            erased = await self._store.erase(box)
        except StoreError as error:
            raise Refusal(504, f"box {box.asset} may or may not be erased; ask again: {error}") from error
        if erased.isConnected:
            raise Refusal(409, f"box {box.asset} is connected: revoke it first; nothing was removed")
        records, isKept = 0, False
        # Messages for it stand under its own name; which one its events have depends on when they were published.
        for key in dict.fromkeys((box.busKey, self._published(box).busKey)):
            try:
                removed = await self._bus.erase(key)
            except BusError as error:
                raise Refusal(
                    504,
                    f"the session of box {box.asset} is erased, its records on the bus may not be; "
                    f"ask again, with the account {box.account}: {error}",
                ) from error
            records += removed or 0
            isKept = isKept or removed is None
        if not (erased.wasKnown or records):
            kept = f"; topics {', '.join(self._topics)} keep records until their retention" if isKept else ""
            raise Refusal(404, f"nothing is kept of a box {box.asset} of {box.account}{kept}")
        return {
            **box._asdict(),
            "removed": {
                "sessions": int(erased.wasKnown),
                "messages": erased.messages,
                "streams": erased.streams,
                "fingerprints": erased.fingerprints,
                "records": records,
            },
            "remains": self._remains(isKept),
        }

    def _remains(self, isKept: bool) -> list[str]:
        """
        @param isKept: the bus removes nothing by itself
        """
        remains = ["the number of its last link, which must not go back"]
        if isKept:
            remains += [f"records in the topic {topic}, until its retention" for topic in self._topics]
        return [*remains, *self._elsewhere]

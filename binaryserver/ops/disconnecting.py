"""
Closing a box's link as an operator asks, wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater

from binaryserver.errors import StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey, Owner
from binaryserver.ops.outlet import Refusal, accountOf
from binaryserver.session.boxrecords import BoxRecord

Disconnect = Callable[[str, BoxKey, int], "Deferred[bool | None]"]
"""As L{binaryserver.interfaces.IPeers.disconnect}, of any instance."""

_PATIENCE: Final = 5.0
"""s that the owner has to answer"""
_TRIES: Final = 20
_PAUSE: Final = 0.25
"""s between two tries"""


class Disconnector:
    """
    Of one HTTP side.
    """

    def __init__(self, store: ISessionStore, disconnect: Disconnect, clock: Any) -> None:
        """
        @param clock: the reactor
        """
        self._store = store
        self._disconnect = disconnect
        self._clock = clock

    async def disconnect(self, box: BoxKey) -> dict[str, object]:
        """
        Close the link that a box has now.

        @param box: without an account: the one box of that asset
        @return: which link it was, and whose
        @raise Refusal: it has none, or is not known to have lost it
        """
        box = BoxKey(box.account or await accountOf(self._store, box.asset), box.asset)
        owner = await self._owner(box)
        if owner is None:
            raise Refusal(404, f"no box {box.asset} of {box.account} was ever connected")
        if not owner.connected:
            raise Refusal(409, f"box {box.asset} is not connected")
        asked = owner
        for _ in range(_TRIES):
            if await self._ask(box, asked):
                break
            # Its link is on its way in, or out, or its instance is gone: the store will say.
            await deferLater(self._clock, _PAUSE)
            owner = await self._owner(box)
            if owner is None or not owner.connected or owner.linkEpoch != asked.linkEpoch:
                break
        else:
            raise Refusal(504, f"box {box.asset} has its link still: {asked.incarnation} has not given it up")
        return {**box._asdict(), "link_epoch": asked.linkEpoch, "instance": asked.incarnation}

    async def _owner(self, box: BoxKey) -> Owner | None:
        try:
            record: BoxRecord | None = await self._store.boxRecord(box)
        except StoreError as error:
            raise Refusal(503, f"who has box {box.asset} cannot be told: {error}") from error
        return None if record is None or record.summary is None else record.summary.owner

    async def _ask(self, box: BoxKey, owner: Owner) -> bool:
        asked = self._disconnect(owner.incarnation, box, owner.linkEpoch)
        try:
            had: bool | None = await asked.addTimeout(_PATIENCE, self._clock)
        except TimeoutError:
            raise Refusal(
                504, f"box {box.asset} may or may not be disconnected: {owner.incarnation} does not answer"
            ) from None
        if had is None:
            raise Refusal(
                409, f"box {box.asset} has no link: its instance {owner.incarnation} is dead; it will be told gone"
            )
        return had

"""
What operators ask of boxes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TypeVar

from binaryserver.directory.cache import Directory
from binaryserver.errors import DirectoryUnavailable, StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey
from binaryserver.ops.boxjson import recordJson
from binaryserver.ops.explaining import NOTHING, DirectoryWord, Explanation
from binaryserver.ops.listing import onlyOnce
from binaryserver.ops.outlet import Refusal
from binaryserver.transcode.events import isName

_Value = TypeVar("_Value")


def parseBox(asset: bytes, arguments: Mapping[bytes, list[bytes]]) -> BoxKey:
    """
    From the name in a URL, and its arguments: C{account}, which need not be there.

    @return: its account is empty if it was not given
    @raise ValueError: they cannot be understood
    """
    given = onlyOnce(arguments, ("account",))
    box = BoxKey(given.get("account", ""), asset.decode("utf-8", "replace"))
    for name, value in (("account", box.account), ("asset", box.asset)):
        if not isName(value) and (value or name == "asset" or given):
            raise ValueError(f"{name} is to be 1 to 64 of A-Z a-z 0-9 . _ -")
    return box


class Boxes:
    """
    Of one HTTP side.
    """

    def __init__(self, store: ISessionStore, directory: Directory | None) -> None:
        """
        @param directory: L{None}: there is none here
        """
        self._store = store
        self._directory = directory

    async def show(self, box: BoxKey) -> dict[str, object]:
        """
        All that is kept of a box.

        @param box: without an account: the one box of that asset
        @raise Refusal: there is none, or more than one, or that cannot be told
        """
        box, _ = await self._resolved(box)
        record = await self._asked(self._store.boxRecord(box))
        if record is None:
            raise Refusal(404, f"nothing is kept of a box {box.asset} of {box.account}")
        return recordJson(box, record)

    async def explain(self, box: BoxKey) -> dict[str, object]:
        """
        Why a box is offline.

        @param box: without an account: the one box of that asset
        @raise Refusal: there is more than one, or that cannot be told
        """
        box, others = await self._resolved(box)
        record = await self._asked(self._store.boxRecord(box)) or NOTHING
        word = await self._word(box)
        return Explanation(box, record, word, others).asJson()

    async def _resolved(self, box: BoxKey) -> tuple[BoxKey, tuple[str, ...]]:
        """
        @return: the box with its account, and the other accounts under which its asset came or was refused
        """
        came = await self._asked(self._store.accounts(box.asset))
        refused = await self._asked(self._store.refusedAs(box.asset))
        heard = sorted({*came, *refused})
        account = box.account
        if not account:
            found = came or refused
            if len(found) > 1:
                names = " and of ".join(one or "no account" for one in found)
                raise Refusal(409, f"box {box.asset} is of {names}: say which (account, or --account)")
            if not found and not (self._directory is not None and self._directory.defaultAccount):
                raise Refusal(
                    404, f"nothing was ever heard of a box {box.asset}: say whose it is (account, or --account)"
                )
            account = found[0] if found else self._directory.defaultAccount if self._directory is not None else ""
        return BoxKey(account, box.asset), tuple(one for one in heard if one != account)

    async def _asked(self, asked: Awaitable[_Value]) -> _Value:
        try:
            return await asked
        except StoreError as error:
            raise Refusal(503, f"the session store does not answer: {error}") from error

    async def _word(self, box: BoxKey) -> DirectoryWord:
        directory = self._directory
        if directory is None:
            return DirectoryWord(trouble="there is none here")
        links = await self._asked(self._store.links(box.account))
        try:
            account = await directory.account(box.account) if box.account else None
            known = await directory.box(*box) if account is not None else None
        except DirectoryUnavailable as error:
            return DirectoryWord(trouble=str(error), links=links)
        return DirectoryWord(account, known, "", links)

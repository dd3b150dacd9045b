"""
What the parts of the stores' contract share.
"""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import count
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor as globalReactor
from twisted.internet.task import deferLater

from binaryserver.errors import StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    BoxKey,
    Claim,
    DownlinkMessage,
    Final,
    FinalStatus,
    MailboxEntry,
    MailboxLimits,
    Orphan,
    Put,
    Take,
)

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

reactor: Any = globalReactor

NOW = 1_790_000_000_000
BOX, OTHER = BoxKey("acme", "box-1"), BoxKey("acme", "box-2")
LIMITS = MailboxLimits(1000, 1 << 20)

MAX_INT64, MAX_UINT64 = 2**63 - 1, 2**64 - 1

AWKWARD = (
    "ünï",
    "\u65e5\u672c",
    "\U0001f697",
    "a\tb\r\n",
    "a\x00b",
    "{}[]:,|/",
    "'\"\\%_*?",
    " ",
    "downlink/0/17",
    "1e3",
    "-0",
)
"""Any UTF-8 is an id, a correlation id or a reason."""


_attempts = count()


def messageFor(
    id_: str = "m1",
    box: BoxKey = BOX,
    payload: bytes = b"open the door",
    expiresAt: int = NOW + 60_000,
    noQueue: bool = False,
    wantAck: bool = False,
    queuedAt: int = NOW,
) -> DownlinkMessage:
    """
    A message with what a test does not care about.
    """
    return DownlinkMessage(box, id_, "door", payload, f"of {id_}", expiresAt, noQueue, wantAck, queuedAt)


def idsOf(entries: list[MailboxEntry] | None) -> list[str]:
    """
    The ids of messages, in the order of their entries.
    """
    assert entries is not None
    return [entry.message.id for entry in entries]


def expired(at: int) -> Final:
    """
    It was chosen then.
    """
    return Final(FinalStatus.expired, "", at)


def refused(reason: str, at: int = NOW) -> Final:
    """
    It was chosen then.
    """
    return Final(FinalStatus.refused, reason, at)


def acked(at: int = NOW) -> Final:
    """
    It was chosen then.
    """
    return Final(FinalStatus.acked, "", at)


class ContractBase(_Base):
    """
    What a store brings, and what the tests use.
    """

    timeout = 60

    def makeStore(self) -> Awaitable[ISessionStore]:
        """
        Make a store, not started. All those made during one test see the same data (a memory store is made once).
        """
        raise NotImplementedError

    def elapse(self, seconds: float) -> Awaitable[None]:
        """
        Let time pass on the clock by which the store judges leases.
        """
        return deferLater(reactor, seconds, lambda: None)

    async def startStore(self) -> ISessionStore:
        """
        A started store; stopped at the end of the test.
        """
        store = await self.makeStore()
        self.addCleanup(store.stop)
        await store.start()
        return store

    async def claim(
        self,
        store: ISessionStore,
        box: BoxKey = BOX,
        incarnation: str = "a@1",
        nowMs: int = NOW,
        clean: bool = False,
        attempt: str | None = None,
        most: int = 0,
    ) -> Claim:
        """
        Claim with what a test does not care about.

        @param attempt: L{None}: one that was never made before
        """
        attempt = attempt or f"try-{next(_attempts)}"
        return await store.claim(box, incarnation, "md30", "192.0.2.1", nowMs, clean, attempt, most)

    async def refusalOf(self, call: Awaitable[Any]) -> StoreError:
        """
        How it fails.
        """
        try:
            await call
        except StoreError as error:
            return error
        self.fail("it did not fail")

    async def adopt(
        self,
        store: ISessionStore,
        dead: str = "a@1",
        incarnation: str = "b@1",
        nowMs: int = NOW,
        limit: int = 10,
        attempt: str | None = None,
    ) -> list[Orphan]:
        """
        Adopt with what a test does not care about.

        @param attempt: L{None}: one that was never made before
        """
        return await store.adopt(dead, incarnation, nowMs, limit, attempt or f"try-{next(_attempts)}")

    async def listen(self, store: ISessionStore, box: BoxKey = BOX, incarnation: str = "a@1", nowMs: int = NOW) -> int:
        """
        The epoch of a link whose box is subscribed to its downlink, at an incarnation that is alive.
        """
        await store.leaseWorker(incarnation)
        epoch = (await self.claim(store, box, incarnation, nowMs)).linkEpoch
        self.assertTrue(await store.saveMqtt(box, epoch, None, True))
        return epoch

    async def put(
        self, store: ISessionStore, *messages: DownlinkMessage, nowMs: int = NOW, limits: MailboxLimits = LIMITS
    ) -> list[Put]:
        """
        Put with what a test does not care about.
        """
        return await store.putMessages(list(messages), limits, nowMs)

    async def take(
        self, store: ISessionStore, epoch: int, after: int = 0, limit: int = 100, nowMs: int = NOW
    ) -> list[MailboxEntry]:
        """
        Take for a link that is the box's latest.
        """
        (entries,) = await store.takeMessages([Take(BOX, epoch, after, limit)], nowMs)
        assert entries is not None
        return entries

    async def listenerOf(self, store: ISessionStore, box: BoxKey = BOX) -> str:
        """
        Who is told of mail for the box. Leaves a message in its mailbox, the same one each time.
        """
        (put,) = await self.put(store, messageFor("who listens?", box))
        return put.listener

"""
Tests for L{binaryserver.admission.allowance}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.admission.allowance import Allowance, Allowances
from binaryserver.directory.records import Account, AccountLimits
from binaryserver.errors import StoreUnavailable
from binaryserver.model import Draw


class Link:
    """
    One that sends a message of 10 bytes as often as it may.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.isPaused = False
        self.sent = 0
        allowance.links += 1

    def send(self, most: int = 1_000_000) -> None:
        """
        As often as it may now.
        """
        while not self.isPaused and most:
            if not self.allowance.room:
                self.allowance.wait(self)
                continue
            most -= 1
            self.sent += 1
            self.allowance.spendMessages(1)
            self.allowance.spendBytes(self, 10)

    def pauseForAllowance(self) -> None:
        """
        See L{binaryserver.admission.allowance.Spender}.
        """
        self.isPaused = True

    def resumeForAllowance(self) -> None:
        """
        See L{binaryserver.admission.allowance.Spender}.
        """
        self.isPaused = False
        self.send()


class HandBudget:
    """
    A session store of which only the budget is asked, and answered by hand.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Deferred[list[float]], Sequence[Draw]]] = []

    def draw(self, draws: Sequence[Draw]) -> Deferred[list[float]]:
        """
        See L{binaryserver.interfaces.ISessionStore.draw}.
        """
        answer: Deferred[list[float]] = Deferred()
        self.asked.append((answer, draws))
        return answer


def handBudget() -> Any:
    """
    Of no type that the checker would compare with a whole session store's.
    """
    return HandBudget()


class AllowanceTests(SynchronousTestCase):
    """
    Links that send as fast as they may.
    """

    def setUp(self) -> None:
        """
        An account of 40 messages a second.
        """
        self.clock: Any = MemoryReactorClock()
        self.store = handBudget()
        self.limits = AccountLimits(messages=40.0)
        self.allowance = Allowance("acme", self.limits, self.store, self.clock)
        self.link = Link(self.allowance)

    def grant(self, *granted: float) -> list[tuple[str, float]]:
        """
        Answer the draw that is under way.

        @return: what was wanted
        """
        ((answer, draws),) = self.store.asked
        self.store.asked.clear()
        answer.callback(list(granted))
        return [(draw.kind, draw.wanted) for draw in draws]

    def test_drawn(self) -> None:
        """
        A message that there is no room for pauses its link until the store has granted some; what it grants beyond is
        spent without asking.
        """
        self.link.send()
        self.assertEqual(self.link.sent, 0)
        self.assertEqual(self.grant(10.0), [("messages", 10.0)])
        self.assertEqual(self.link.sent, 10)
        self.assertTrue(self.link.isPaused)
        self.assertEqual(len(self.store.asked), 1)

    def test_notEnough(self) -> None:
        """
        Where too little is granted, the rest is asked for a little later, for all links together.
        """
        other = Link(self.allowance)
        self.link.send()
        other.send()
        self.grant(0.5)
        self.clock.advance(0.2)
        self.assertEqual(self.store.asked, [])
        self.clock.advance(0.1)
        self.assertEqual(self.grant(9.5), [("messages", 9.5)])
        self.assertEqual(self.link.sent + other.sent, 10)

    def test_turns(self) -> None:
        """
        Links take turns: who was served waits behind those that were not.
        """
        other = Link(self.allowance)
        self.link.send()
        other.send()
        for _ in range(4):
            self.grant(10.0)
        self.assertEqual((self.link.sent, other.sent), (20, 20))

    def test_slow(self) -> None:
        """
        A rate of less than one a second lets one through now and then.
        """
        self.allowance.changed(AccountLimits(messages=0.1))
        self.link.send()
        self.assertEqual(self.grant(0.4), [("messages", 1.0)])
        self.clock.advance(0.3)
        self.assertEqual(self.grant(0.6), [("messages", 0.6)])
        self.assertEqual(self.link.sent, 1)

    def test_bytes(self) -> None:
        """
        Bytes are counted once they are here, and only what is short is drawn.
        """
        self.allowance.changed(AccountLimits(messages=40.0, bandwidth=400.0))
        self.link.send()
        self.assertEqual(self.grant(10.0), [("messages", 10.0)])
        self.assertEqual(self.link.sent, 1)
        self.assertEqual(self.grant(30.0), [("bytes", 110.0)])
        self.assertEqual(self.link.sent, 1 + 3)
        self.assertEqual(self.grant(110.0), [("bytes", 110.0)])
        self.assertEqual(self.link.sent, 10)
        ((_, draws),) = self.store.asked
        self.assertEqual([draw.kind for draw in draws], ["messages"])

    def test_raised(self) -> None:
        """
        A limit that is gone holds nobody back.
        """
        self.link.send()
        self.allowance.changed(AccountLimits())
        self.assertFalse(self.allowance.limits.messages)

    def test_storeAway(self) -> None:
        """
        While the store is away an instance grants itself the rate.
        """
        self.link.send()
        for _ in range(40):
            while self.store.asked:
                self.store.asked.pop()[0].errback(StoreUnavailable("away"))
            self.clock.advance(0.25)
        self.assertTrue(300 < self.link.sent <= 420, self.link.sent)

    def test_left(self) -> None:
        """
        A link that is gone is not resumed, and the last one takes the timer with it.
        """
        self.link.send()
        self.allowance.leave(self.link)
        self.grant(0.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.link.isPaused)

    def test_leftWhileWaiting(self) -> None:
        """
        So it is when a draw is due.
        """
        self.link.send()
        self.grant(0.0)
        self.allowance.leave(self.link)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leftInDebt(self) -> None:
        """
        Where nobody waits any more, nothing is drawn: a debt that its last link left is not run after.
        """
        self.allowance.changed(AccountLimits(bandwidth=400.0))
        self.link.send()
        self.allowance.leave(self.link)
        self.grant(0.0)
        self.assertEqual(self.store.asked, [])
        self.link = Link(self.allowance)
        self.link.send()
        self.assertEqual(self.grant(110.0), [("bytes", 110.0)])

    def test_silent(self) -> None:
        """
        A draw that is never answered holds nobody back for ever; should its answer come after all, it is too late.
        """
        self.link.send()
        ((answer, _),) = self.store.asked
        self.store.asked.clear()
        self.clock.advance(4.9)
        self.assertTrue(self.link.isPaused)
        self.clock.advance(0.2)
        self.clock.advance(0.3)
        sent = self.link.sent
        self.assertEqual(sent, 10)
        answer.callback([100.0])
        self.assertEqual(self.link.sent, sent)
        self.assertEqual(len(self.store.asked), 1)


class AllowancesTests(SynchronousTestCase):
    """
    Of all accounts.
    """

    def test_terms(self) -> None:
        """
        Only accounts with limits have one, one for all their links, that goes by the terms of now.
        """
        allowances = Allowances(handBudget(), MemoryReactorClock())
        self.assertIsNone(allowances.of(Account("acme")))
        limited = Account("acme", limits=AccountLimits(messages=1.0))
        allowance = allowances.of(limited)
        assert allowance is not None
        self.assertIs(allowances.of(limited), allowance)
        allowances.of(Account("acme", limits=AccountLimits(messages=9.0)))
        self.assertEqual(allowance.limits.messages, 9.0)
        self.assertIsNone(allowances.of(Account("acme")))
        self.assertEqual(allowance.limits, AccountLimits())

"""
Tests for L{binaryserver.session.memorystore}; the contract is run over it in L{tests.session.test_stores}.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError, StoreError
from binaryserver.model import REMEMBERED_MS
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorybox import MemoryBox
from binaryserver.session.memorystore import MAX_WORKERS, MemorySessionStore, instanceOf
from tests.session.contract_base import BOX, LIMITS, NOW, OTHER, messageFor
from tests.session.model import ModelStore
from tests.session.operations import Operation, operations, run


class MemorySessionStoreTests(SynchronousTestCase):
    """
    What is its own.
    """

    def makeStore(self) -> MemorySessionStore:
        """
        A store.
        """
        clock = MemoryReactorClock()
        # Later than all that the operations name.
        clock.advance(NOW / 1000)
        return MemorySessionStore("memory:", BackEndContext(clock, "--sessions"))

    @settings(deadline=None)
    @given(operations)
    def test_model(self, doing: list[Operation]) -> None:
        """
        Whatever is done in whatever order, it answers as plain dicts do.
        """
        store, model = self.makeStore(), ModelStore()

        def answers(name: str, *arguments: Any) -> Any:
            answer: list[Any] = []
            getattr(store, name)(*arguments).addBoth(answer.append)
            if isinstance(answer[0], Failure):
                answer[0].raiseException()
            return answer[0]

        self.assertEqual(run(doing, answers), run(doing, lambda name, *given: getattr(model, name)(*given)))

    def test_everyNumberTaken(self) -> None:
        """
        A number is not given twice; those who had one keep it.
        """
        store = self.makeStore()
        leased = {self.successResultOf(store.leaseWorker(f"host-{n}@1")) for n in range(MAX_WORKERS)}
        self.assertEqual(leased, set(range(MAX_WORKERS)))
        self.failureResultOf(store.leaseWorker("one-more@1"), StoreError)
        self.assertEqual(self.successResultOf(store.leaseWorker("host-7@2")), 7)

    def test_nothingIsLeft(self) -> None:
        """
        Of a box that was erased its last epoch is, of one that never came nothing once the ids of its messages are
        forgotten; of an account without boxes nothing is counted.
        """
        store = self.makeStore()
        claim = self.successResultOf(store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "x"))
        store.putMessages([messageFor(), messageFor(box=OTHER, expiresAt=NOW)], LIMITS, NOW)
        store.removeMessages([(OTHER, "m1")])
        store.release(BOX, claim.linkEpoch, NOW)
        store.erase(BOX)
        store.dueMessages(NOW + REMEMBERED_MS, 10)
        self.assertEqual(store._boxes, {BOX: MemoryBox(lastEpoch=claim.linkEpoch)})
        mailboxes = store._mailboxes
        self.assertEqual((mailboxes._boxes, mailboxes._dueAt, mailboxes._remembered), ({}, {}, []))
        self.assertEqual(store._linked, {})

    def test_instanceOf(self) -> None:
        """
        What stands before the last sign; all of it where there is none.
        """
        self.assertEqual([instanceOf(one) for one in ("a@1", "a@b@1", "a")], ["a", "a@b", "a"])

    def test_takesNoValue(self) -> None:
        """
        C{memory:} names no place.
        """
        context = BackEndContext(MemoryReactorClock(), "--sessions")
        error = self.assertRaises(ConfigError, MemorySessionStore, "memory:x", context)
        self.assertTrue(str(error).startswith("--sessions: "), str(error))

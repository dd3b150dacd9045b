"""
Tests for L{binaryserver.ops.explaining}: what an operator is told of a box, and what to do. The usual cases are
shown on real gateways in L{tests.integration.test_operators}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Account, AccountLimits, Box
from binaryserver.errors import StoreUnavailable
from binaryserver.model import BoxKey, Owner
from binaryserver.ops.boxes import Boxes
from binaryserver.ops.explaining import NOTHING, DirectoryWord, Explanation
from binaryserver.ops.outlet import Refusal
from binaryserver.ops.reasonwords import REASONS, wordsFor
from binaryserver.plugins import BackEndContext
from binaryserver.session.boxrecords import BoxEvent, BoxRecord, BoxSummary, EventKind, MailboxSummary, RefusalNote
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.reasons import Reason
from tests.admission.handdirectory import HandDirectory

NOW = 1_790_000_000_000
BOX = BoxKey("acme", "box-1")
GOOD = DirectoryWord(Account("acme"), Box("acme", "box-1"))
WRONG = BoxEvent(EventKind.refused, NOW + 9, "AUTH_FAILED_ASSET", "wrong secret", "md30", "192.0.2.9", "a@1", since=NOW)


def was(isConnected: bool = False, isListening: bool = False) -> BoxSummary:
    """
    A box that came once.
    """
    return BoxSummary(BOX, Owner("a@1", 7, isConnected, NOW), "md30", "192.0.2.1", NOW - 5, isListening)


def ended(reason: str, detail: str = "", times: int = 1) -> BoxEvent:
    """
    Its last link's end.
    """
    return BoxEvent(EventKind.disconnected, NOW, reason, detail, "md30", "192.0.2.1", "a@1", 7, times, NOW - 60_000)


class ExplanationTests(SynchronousTestCase):
    """
    L{Explanation}.
    """

    def explain(
        self, record: BoxRecord = NOTHING, word: DirectoryWord = GOOD, others: tuple[str, ...] = (), box: BoxKey = BOX
    ) -> Explanation:
        """
        Explain; every sentence ends as one.
        """
        made = Explanation(box, record, word, others)
        for sentence in (*made.why, *made.advice):
            self.assertTrue(sentence.endswith(".") and not sentence.endswith(".."), sentence)
            self.assertNotIn("  ", sentence)
        return made

    def test_everyReason(self) -> None:
        """
        Each that the gateway or a box gives has words; of another it is the word itself.
        """
        self.assertEqual({reason.value for reason in Reason} - set(REASONS), set())
        for reason in (*REASONS, "OF_ITS_OWN"):
            made = self.explain(NOTHING._replace(summary=was(), events=(ended(reason, "a detail"),)))
            self.assertEqual(made.state, "disconnected")
            self.assertIn(f"because {wordsFor(reason).what} ({reason}: a detail). Its last link was 7", made.why[0])
            self.assertTrue(made.advice)
        self.assertIn("because of OF_ITS_OWN (OF_ITS_OWN: a detail)", made.why[0])

    def test_often(self) -> None:
        """
        It went like that before.
        """
        made = self.explain(NOTHING._replace(summary=was(), events=(ended("PPP_LOST", times=5),)))
        self.assertIn("It went like that 5 times since 2026-09-21 14:12:20 UTC.", made.why[0])

    def test_notRemembered(self) -> None:
        """
        An end of before is not that of the last link.
        """
        before = ended("PPP_LOST")._replace(at=NOW - 1)
        for events in ((), (before,)):
            made = self.explain(NOTHING._replace(summary=was(), events=events))
            self.assertIn("why is not remembered.", made.why[0])

    def test_directoryAway(self) -> None:
        """
        It is not known what the directory says: that is all that is said of it.
        """
        made = self.explain(NOTHING._replace(events=(WRONG,)), DirectoryWord(trouble="it cannot be reached"))
        self.assertIn("What the directory says of it is not known: it cannot be reached.", made.why)
        self.assertEqual(made.asJson()["directory"]["account"], "unknown")  # type: ignore[index]
        self.assertTrue(any("wrong secret" in sentence for sentence in made.why))

    def test_ourFault(self) -> None:
        """
        It was refused since something of ours was away.
        """
        made = self.explain(NOTHING._replace(events=(WRONG._replace(reason="", detail="the directory: away"),)))
        self.assertIn("because: the directory: away.", made.why[-1])
        self.assertTrue(made.advice[0].startswith("Look at the gateway's /readyz and log"))

    def test_refusedBefore(self) -> None:
        """
        A refusal of before its last link says nothing of now.
        """
        old = WRONG._replace(at=NOW - 100)
        made = self.explain(NOTHING._replace(summary=was(), events=(old, ended("SOCKET_CLOSED"))))
        self.assertFalse(any("refused" in sentence for sentence in made.why))
        made = self.explain(NOTHING._replace(summary=was(True), isOwnerAlive=True, events=(WRONG,)))
        self.assertEqual((len(made.why), made.advice), (1, []))

    def test_waiting(self) -> None:
        """
        It is here and hears nothing of what waits for it.
        """
        record = NOTHING._replace(summary=was(True), isOwnerAlive=True, mailbox=MailboxSummary(3, 9, NOW))
        self.assertIn("3 messages wait for it, and it is not subscribed", self.explain(record).why[1])
        record = record._replace(summary=was(True, isListening=True))
        self.assertEqual(len(self.explain(record).why), 1)

    def test_full(self) -> None:
        """
        The limit is told when it is reached, and to whom it matters.
        """
        word = GOOD._replace(account=Account("acme", limits=AccountLimits(links=2)))
        for links, isConnected, isTold in ((1, False, False), (2, False, True), (3, False, True), (2, True, False)):
            record = NOTHING._replace(summary=was(isConnected), isOwnerAlive=True)
            made = self.explain(record, word._replace(links=links))
            self.assertEqual(any("as may be" in sentence for sentence in made.why), isTold)

    def test_anyBox(self) -> None:
        """
        An account that admits any box needs none in the directory.
        """
        made = self.explain(word=DirectoryWord(Account("acme", admitsAnyBox=True)))
        self.assertEqual(made.asJson()["directory"]["box"], "any")  # type: ignore[index]
        self.assertFalse(any("directory" in sentence for sentence in made.why))

    def test_fewTakeovers(self) -> None:
        """
        Two in a row are no sign of two devices.
        """
        taken = BoxEvent(EventKind.takenOver, NOW, "TAKEOVER", "", "md30", "192.0.2.2", "b@1", 8, 2, NOW - 9)
        record = NOTHING._replace(summary=was(True), isOwnerAlive=True, events=(taken,))
        self.assertEqual(len(self.explain(record).why), 1)
        made = self.explain(record._replace(events=(taken, ended("SOCKET_CLOSED"), taken)))
        self.assertIn("taken over 4 times", made.why[1])

    def test_lastHeard(self) -> None:
        """
        When it last came, went or tried.
        """
        self.assertIsNone(self.explain().lastHeard)
        self.assertEqual(self.explain(NOTHING._replace(summary=was())).lastHeard, NOW)
        self.assertEqual(self.explain(NOTHING._replace(summary=was(), events=(WRONG,))).lastHeard, NOW + 9)

    def test_wildTimes(self) -> None:
        """
        A clock that says anything breaks nothing.
        """
        summary = was()._replace(owner=Owner("a@1", 7, False, 2**62))
        self.assertIn(f"since {2**62} ms", self.explain(NOTHING._replace(summary=summary)).why[0])


class BoxesTests(SynchronousTestCase):
    """
    L{Boxes}: which box is meant, and what the directory says of it.
    """

    def setUp(self) -> None:
        clock: Any = MemoryReactorClock()
        self.store = MemorySessionStore("memory:", BackEndContext(clock, "--sessions"))
        self.source = HandDirectory(Account("acme"), Box("acme", "box-1"), Account("zeta"))
        self.boxes = Boxes(self.store, Directory(self.source, clock))

    def explained(self, account: str = "") -> Any:
        """
        Explain the box.
        """
        return self.successResultOf(self.deferred(account))

    def deferred(self, account: str = "") -> Any:
        """
        The same, not waited for.
        """
        return Deferred.fromCoroutine(self.boxes.explain(BoxKey(account, "box-1")))

    def refuse(self, account: str) -> None:
        """
        It was refused under an account.
        """
        self.store.noteRefusals([RefusalNote(BoxKey(account, "box-1"), WRONG, False)])

    def test_default(self) -> None:
        """
        Where boxes need not give an account, one that nobody heard of is of the usual one.
        """
        self.assertEqual(self.failureResultOf(self.deferred(), Refusal).value.status, 404)
        self.source.defaultAccount = "acme"
        boxes = Boxes(self.store, Directory(self.source, MemoryReactorClock()))
        self.boxes = boxes
        self.assertEqual(self.explained()["account"], "acme")

    def test_which(self) -> None:
        """
        The account under which it came goes before those under which it was refused; of several, which has to be said.
        """
        self.refuse("acne")
        self.assertEqual((self.explained()["account"], self.explained()["other_accounts"]), ("acne", []))
        self.refuse("zeta")
        self.assertEqual(self.failureResultOf(self.deferred(), Refusal).value.status, 409)
        self.store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "1")
        self.assertEqual(self.explained()["account"], "acme")
        self.assertEqual(self.explained()["other_accounts"], ["acne", "zeta"])
        self.assertEqual(self.explained("zeta")["other_accounts"], ["acme", "acne"])

    def test_word(self) -> None:
        """
        The directory's, with how many of the account are connected; and that it is away.
        """
        self.store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "1")
        known = {"account": "active", "box": "known", "trouble": "", "links": 1, "max_links": 0}
        self.assertEqual(self.explained()["directory"], known)
        self.source.isAway = True
        directory = self.explained("zeta")["directory"]
        self.assertEqual((directory["account"], directory["box"]), ("unknown", "unknown"))
        self.assertTrue(directory["trouble"])
        self.boxes = Boxes(self.store, None)
        self.assertEqual(self.explained()["directory"]["trouble"], "there is none here")

    def test_storeAway(self) -> None:
        """
        Without the store there is nothing to tell.
        """
        self.patch(self.store, "refusedAs", lambda asset: fail(StoreUnavailable("away")))
        self.assertEqual(self.failureResultOf(self.deferred(), Refusal).value.status, 503)

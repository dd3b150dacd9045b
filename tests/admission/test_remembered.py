"""
What a gateway has the session store remember of its boxes: how their links ended, and why there was none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail

from binaryserver.directory.records import AccountLimits, Change
from binaryserver.directory.records import Box as Known
from binaryserver.errors import StoreUnavailable
from binaryserver.model import BoxKey
from binaryserver.session.boxrecords import MOST_STRANGERS, BoxEvent, EventKind, RefusalNote
from tests.admission.test_links import ACME, NOT_AUTHORIZED, LinksCase, assets
from tests.harness import ASSET, NOW_MS, World

BOX = BoxKey("acme", ASSET)


class RememberedTests(LinksCase):
    """
    By a whole gateway, over a session store in memory.
    """

    def events(self, box: BoxKey = BOX) -> tuple[BoxEvent, ...]:
        """
        What is remembered of a box.
        """
        record = self.successResultOf(self.world.store.boxRecord(box))
        return () if record is None else record.events

    def told(self, box: BoxKey = BOX) -> list[tuple[str, str, str, int]]:
        """
        The same, in short.
        """
        return [(one.kind.name, one.reason, one.detail, one.times) for one in self.events(box)]

    def test_end(self) -> None:
        """
        Why a link ended, with all that names it.
        """
        box = self.admitted()
        epoch = box.link.linkEpoch
        box.lose()
        self.assertEqual(
            self.events(),
            (
                BoxEvent(
                    EventKind.disconnected,
                    NOW_MS,
                    "SOCKET_CLOSED",
                    "",
                    "md30",
                    box.link.peer,
                    "test@1",
                    epoch,
                    since=NOW_MS,
                ),
            ),
        )

    def test_takeover(self) -> None:
        """
        A second link of the box: the first one's end is told by that, and not as an end of the box.
        """
        first = self.admitted()
        second = self.admitted()
        first.lose()
        self.assertEqual(self.told(), [("takenOver", "TAKEOVER", "", 1)])
        self.assertEqual(self.events()[0].linkEpoch, second.link.linkEpoch)

    def test_refusals(self) -> None:
        """
        Why somebody was not let in, with how often.
        """
        for _ in range(3):
            self.assertEqual(self.arrive(secret=b"wrong").received(), NOT_AUTHORIZED)
        self.world.wait(1)
        self.arrive(secret=b"wrong")
        self.assertEqual(self.told(), [("refused", "AUTH_FAILED_ASSET", "wrong secret", 4)])
        (event,) = self.events()
        self.assertEqual((event.since, event.protocol, event.instance), (NOW_MS, "md30", "test@1"))
        self.assertGreaterEqual(event.at, NOW_MS + 1000)
        self.change(Known("acme", ASSET, isRevoked=True), told=Change("acme", ASSET))
        self.arrive()
        self.assertEqual(self.told()[1:], [("refused", "AUTH_FAILED_ASSET", "the box is revoked", 1)])

    def test_limits(self) -> None:
        """
        As many as may be are there already: that box is one to the directory.
        """
        self.change(replace(ACME, limits=AccountLimits(links=1)), told=Change("acme"))
        self.admitted()
        other = assets(2)[1]
        self.arrive(other)
        self.assertEqual(
            self.told(BoxKey("acme", other)),
            [("refused", "AUTH_FAILED_ACCOUNT", "1 boxes of acme are connected already", 1)],
        )
        self.crowd()
        self.assertEqual(len(self.told(BoxKey("acme", other))), 1)

    def crowd(self) -> None:
        """
        So many made-up names that they drive out each other.
        """
        event = BoxEvent(EventKind.refused, NOW_MS + 9, "AUTH_FAILED_ASSET")
        self.world.store.noteRefusals(
            [RefusalNote(BoxKey("acme", f"made-up-{number}"), event, False) for number in range(MOST_STRANGERS)]
        )

    def test_strangers(self) -> None:
        """
        Names that are no box to the directory, and boxes that give no account, are remembered while there are few.
        """
        self.arrive("nobody")
        self.arrive(account="acne")
        self.arrive(account="")
        for box, detail in (
            (BoxKey("acme", "nobody"), "the account has no such box"),
            (BoxKey("acne", ASSET), "no such account"),
            (BoxKey("", ASSET), "no such account"),
        ):
            self.assertEqual([event.detail for event in self.events(box)], [detail])
        self.assertEqual(self.successResultOf(self.world.store.refusedAs(ASSET)), ("", "acne"))
        self.assertEqual(len(self.presences()), 2)
        self.crowd()
        self.assertEqual(self.told(BoxKey("acne", ASSET)), [])

    def test_ourFault(self) -> None:
        """
        The directory is away: it is remembered, and nobody is told of a box that failed.
        """
        self.source.isAway = True
        self.arrive()
        ((kind, reason, detail, _),) = self.told()
        self.assertEqual((kind, reason, self.presences()), ("refused", "", []))
        self.assertIn("the directory: ", detail)

    def test_flood(self) -> None:
        """
        No more of them are remembered than are told.
        """
        for number in range(300):
            self.arrive(f"made-up-{number}")
        noted = [number for number in range(300) if self.told(BoxKey("acme", f"made-up-{number}"))]
        self.assertEqual(noted, list(range(200)))
        self.assertEqual(self.world.gateway.refusals.untold, 100)

    def test_slowStore(self) -> None:
        """
        While the store is told of some the next ones gather, and go together; those that it does not take are lost.
        """
        noted: list[Sequence[RefusalNote]] = []
        answers: list[Deferred[None]] = []

        def note(notes: Sequence[RefusalNote]) -> Deferred[None]:
            noted.append(notes)
            answers.append(Deferred())
            return answers[-1]

        self.patch(self.world.store, "noteRefusals", note)
        for number in range(4):
            self.arrive(f"made-up-{number}")
        self.assertEqual([len(notes) for notes in noted], [1])
        answers[0].callback(None)
        self.assertEqual([len(notes) for notes in noted], [1, 3])
        answers[1].errback(StoreUnavailable("away"))
        self.arrive("made-up-9")
        self.assertEqual([len(notes) for notes in noted], [1, 3, 1])

    def test_disconnect(self) -> None:
        """
        An operator's wish closes that link and no later one; its presence says so, whatever the box left behind.
        """
        box = self.admitted()
        epoch = box.link.linkEpoch
        gateway = self.world.gateway
        self.assertEqual(
            [gateway.disconnect(BOX, epoch - 1), gateway.disconnect(BoxKey("acme", "1"), epoch)], [False] * 2
        )
        self.assertTrue(gateway.disconnect(BOX, epoch))
        self.world.turn()
        self.assertTrue(box.transport.disconnecting)
        self.assertFalse(gateway.disconnect(BOX, epoch))
        self.assertEqual(self.presences()[-1], ("DISCONNECT", ASSET, "CLOSED_BY_SERVER"))
        box.lose()
        self.assertEqual(self.told(), [("disconnected", "CLOSED_BY_SERVER", "an operator disconnected it", 1)])
        self.assertEqual(len(self.presences()), 2)

    def test_releaseAgain(self) -> None:
        """
        An end that the store did not note at first is noted with its reason later.
        """
        box = self.admitted()
        store: Any = self.world.store
        release = store.release
        store.release = lambda *arguments: fail(StoreUnavailable("away"))
        box.lose()
        store.release = release
        self.world.wait(1.5)
        self.assertEqual(self.told(), [("disconnected", "SOCKET_CLOSED", "", 1)])

    def test_will(self) -> None:
        """
        The reason that a box left behind is the one that is remembered; not where an operator sent it away.
        """
        world = World()
        for asset, end, reason in (
            ("1", lambda box: box.lose(), "PPP_LOST"),
            ("2", lambda box: world.gateway.disconnect(BoxKey("dev", "2"), box.link.linkEpoch), "CLOSED_BY_SERVER"),
        ):
            end(world.box(asset, will=("w", b"PPP_LOST")))
            world.turn()
            record = self.successResultOf(world.store.boxRecord(BoxKey("dev", asset)))
            assert record is not None
            self.assertEqual([event.reason for event in record.events], [reason])

"""
What the chaos test found, each once, small, without a socket and without sleep.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import StoreUnavailable
from binaryserver.model import BoxKey, DownlinkMessage, MailboxEntry, MailboxLimits, Orphan, Take
from tests.downlink.world import DownlinkWorld, delivered, listening, message
from tests.harness import NOW_MS
from tests.session.test_membership import Instances, SharedStore

_LIMITS = MailboxLimits(1000, 1 << 20)


class SlowStore(SharedStore):
    """
    A session store whose answers to C{takeMessages} may be held up.
    """

    isSlow = False

    def __init__(self) -> None:
        SharedStore.__init__(self)
        self.held: list[tuple[Deferred[list[list[MailboxEntry] | None]], list[list[MailboxEntry] | None]]] = []

    def takeMessages(self, takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        See L{SharedStore.takeMessages}.
        """
        taken = SharedStore.takeMessages(self, takes, nowMs)
        if not self.isSlow:
            return taken
        answer: Deferred[list[list[MailboxEntry] | None]] = Deferred()
        taken.addCallback(lambda entries: self.held.append((answer, entries)))
        return answer

    def answer(self) -> None:
        """
        Let what was held up arrive.
        """
        held, self.held = self.held, []
        for answer, entries in held:
            answer.callback(entries)


class FoundTests(SynchronousTestCase):
    """
    Several instances on one session store.
    """

    def test_takenByTwo(self) -> None:
        """
        A C{no_queue} message is taken for a link that is gone by the time of the answer, and meanwhile for the box's
        next link, at another instance: the box gets it, so that its end is not C{BOX_AWAY}.
        """
        store = SlowStore()
        old, new = DownlinkWorld(store=store, incarnation="old@1"), DownlinkWorld(store=store, incarnation="new@1")
        first = listening(old)
        store.isSlow = True
        old.bring(message("now", no_queue=True))
        self.assertEqual(len(store.held), 1)
        store.isSlow = False
        second = listening(new)
        (sent,) = delivered(second)
        self.assertEqual(sent.message.id, "now")
        first.lose()
        store.answer()
        old.wait(1)
        second.send(b"\x40\x02" + sent.packetId.to_bytes(2, "big"))
        new.wait(1)
        told = [status for world in (old, new) for status in world.statuses("now") if status.startswith(("ack", "ref"))]
        self.assertEqual(told, ["acked"])

    def test_declaredDead(self) -> None:
        """
        An instance that was declared dead, and lives, asks for the mail that came meanwhile as soon as it has its lease
        again: nobody told it of it.
        """
        all_ = Instances(2)
        assets = [f"box-{number}" for number in range(60)]
        boxes = [listening(all_.worlds["i0@1"], asset) for asset in assets]
        all_.wait(1)
        all_.frozen.add("i0@1")
        all_.wait(15)
        nowMs = NOW_MS + int(all_.store.reactor.seconds() * 1000)
        mail = [
            DownlinkMessage(BoxKey("dev", asset), "m1", "config", b"x", "", nowMs + 600_000, False, False, nowMs)
            for asset in assets
        ]
        puts = self.successResultOf(all_.store.putMessages(mail, _LIMITS, nowMs))
        self.assertEqual({put.listener for put in puts}, {""})
        all_.thaw("i0@1", 15)
        all_.wait(4)
        self.assertEqual([len(delivered(box)) for box in boxes], [1] * 60)

    def test_claimOfTheDead(self) -> None:
        """
        The claim of an instance that died reaches the session store after the box was claimed elsewhere: the box's
        living link does not stay open while the box is told gone.
        """
        all_ = Instances(2)
        box = listening(all_.worlds["i0@1"])
        all_.frozen.add("i1@1")
        nowMs = NOW_MS + int(all_.store.reactor.seconds() * 1000)
        all_.store.claim(BoxKey("dev", box.asset), "i1@1", "md30", "192.0.2.7", nowMs, True, "late")
        all_.wait(90)
        latest = max(all_.presences(), key=lambda presence: presence[1])
        self.assertNotEqual((latest[0], box.transport.isAborted), ("disconnect", False))

    def test_adoptionUnheard(self) -> None:
        """
        The session store adopts the boxes of a dead instance, and its answer is lost: they are told gone all the same.
        """
        all_ = Instances(2)
        listening(all_.worlds["i1@1"])
        adopt = all_.store.adopt
        asked: list[str] = []

        def unheard(dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
            adopted = adopt(dead, incarnation, nowMs, limit, attempt)
            asked.append(dead)
            return fail(StoreUnavailable("the answer is lost")) if len(asked) == 1 else adopted

        self.patch(all_.store, "adopt", unheard)
        all_.frozen.add("i1@1")
        all_.wait(90)
        self.assertIn("i1@1", asked)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "disconnect"])

    def test_restoredLate(self) -> None:
        """
        The session store loses its memory, and the first attempt to write the links again fails: mail that comes after
        the second is taken, although its sequences begin anew.
        """
        all_ = Instances(1)
        world = all_.worlds["i0@1"]
        box = listening(world)

        def put(id_: str) -> None:
            nowMs = NOW_MS + int(all_.store.reactor.seconds() * 1000)
            mail = DownlinkMessage(
                BoxKey("dev", box.asset), id_, "config", b"x", "", nowMs + 600_000, False, False, nowMs
            )
            self.successResultOf(all_.store.putMessages([mail], _LIMITS, nowMs))
            world.gateway.delivery.wakeAll()
            all_.wait(1)

        put("m1")
        (sent,) = delivered(box)
        box.send(b"\x40\x02" + sent.packetId.to_bytes(2, "big"))
        all_.wait(2)
        restore = all_.store.restore
        failing = [StoreUnavailable("away again")]
        self.patch(
            all_.store,
            "restore",
            lambda incarnation, links: fail(failing.pop()) if failing else restore(incarnation, links),
        )
        all_.store.forget()
        all_.wait(15)
        self.assertEqual(failing, [])
        put("m2")
        all_.wait(40)
        self.assertEqual([one.message.id for one in delivered(box)], ["m2"])

    def test_killedBeforeToldGone(self) -> None:
        """
        A box leaves, and its instance is killed before the bus has that: another instance tells it.
        """
        all_ = Instances(2)
        box = listening(all_.worlds["i1@1"])
        all_.wait(1)
        all_.bus.isOpen = False
        box.lose()
        all_.frozen.add("i1@1")
        all_.bus.waiting.clear()
        all_.bus.isOpen = True
        all_.wait(90)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "disconnect"])

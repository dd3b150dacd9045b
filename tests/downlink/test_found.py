"""
What chaos found: each once, small, without a socket and without sleep.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.model import BoxKey, DownlinkMessage, MailboxEntry, MailboxLimits, Take
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

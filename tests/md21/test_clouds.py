"""
Boxes of accounts in CloudNext, in CloudConnect and in both, on one gateway without sockets: whose acks wait for what.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.clouds import CloudsBus
from binaryserver.bus.topics import Topics
from binaryserver.directory.records import Account, Change
from binaryserver.interfaces import IBus
from binaryserver.md21.codec import encode
from binaryserver.md21.framing import frame
from binaryserver.model import Clouds
from binaryserver.proto import cloudnext_pb2
from tests.admission.handdirectory import HandDirectory
from tests.bus.memoryqueue import MemoryQueue
from tests.harness import HandBus
from tests.md21.world import Md21Box, Md21World, makeBlock

TOPICS = Topics.named()
ACCOUNTS = {"next": Clouds.cloudnext, "connect": Clouds.cloudconnect, "both": Clouds.both}


class CloudsTests(SynchronousTestCase):
    """
    A box of each account.
    """

    def setUp(self) -> None:
        self.main = HandBus()
        self.queue = MemoryQueue(None, (TOPICS.tracks, TOPICS.messages, TOPICS.presences))
        self.queue.start()
        bus = CloudsBus(cast(IBus, self.main), self.queue, lambda account: self.world.directory.clouds(account))
        self.source = HandDirectory(
            *(Account(name, clouds=clouds, admitsAnyBox=True) for name, clouds in ACCOUNTS.items())
        )
        self.world = Md21World(bus=cast(Any, bus), directory=self.source)
        self.queue._clock = self.world.clock
        self.boxes = {name: self.world.md21Box(account=name) for name in ACCOUNTS}
        self.world.turn()

    def inOneTurn(self, first: int) -> None:
        """
        A block of every box, all in one turn of the reactor.
        """
        for box in self.boxes.values():
            box.link.dataReceived(frame(encode(makeBlock(first, 3))))
        self.world.turn()

    def acks(self) -> dict[str, int]:
        """
        Whose boxes got how many acks since last asked.
        """
        return {name: count for name, box in self.boxes.items() if (count := box.acks())}

    def tracksOf(self, account: str) -> tuple[int, int]:
        """
        How many tracks of an account are on the bus, and in the queue.
        """
        queued = [cloudnext_pb2.Event.FromString(one.value) for one, _ in self.queue.lists[TOPICS.tracks]]
        found = (self.main.events("tracks"), queued)
        onBus, inQueue = (Counter(event.account for event in events)[account] for events in found)
        return onBus, inQueue

    def test_queueAway(self) -> None:
        """
        Without the queue those in CloudNext alone are acked, though their blocks came in one turn with others; these
        are, once it has theirs.
        """
        self.queue.isAway = True
        self.inOneTurn(0)
        self.inOneTurn(3)
        self.assertEqual(self.acks(), {"next": 2})
        self.queue.isAway = False
        self.queue.settle()
        self.world.turn()
        self.assertEqual(self.acks(), {"connect": 2, "both": 2})
        self.assertEqual([self.tracksOf(name) for name in ACCOUNTS], [(6, 0), (0, 6), (6, 6)])
        self.assertEqual(self.world.gateway.uplink.pendingBytes, 0)

    def test_busAway(self) -> None:
        """
        Without the bus those in CloudConnect alone are acked.
        """
        self.main.isOpen = False
        self.inOneTurn(0)
        self.assertEqual(self.acks(), {"connect": 1})
        while self.main.waiting:
            self.main.commit()
        self.world.turn()
        self.assertEqual(self.acks(), {"next": 1, "both": 1})

    def test_queueFails(self) -> None:
        """
        A failure of one cloud costs the links of its accounts; what they bring again is then in the other one twice.
        """
        self.queue.isBroken = True
        self.inOneTurn(0)
        self.assertEqual({name for name, box in self.boxes.items() if box.isClosed}, {"connect", "both"})
        self.assertEqual(self.boxes["next"].acks(), 1)
        self.queue.isBroken = False
        self.boxes = {name: self.world.md21Box(account=name) for name in ACCOUNTS}
        self.inOneTurn(0)
        self.assertEqual(self.acks(), dict.fromkeys(ACCOUNTS, 1))
        self.assertEqual([self.tracksOf(name) for name in ACCOUNTS], [(3, 0), (0, 3), (6, 3)])

    def test_movesInFlight(self) -> None:
        """
        An account moves while a block of it waits for the queue: that block stays where it was handed to, what comes
        behind it goes to the other cloud, and the acks keep their order.
        """
        self.queue.isAway = True
        box: Md21Box = self.boxes["connect"]
        box.block(0, 3)
        self.source.put(Account("connect", clouds=Clouds.cloudnext, admitsAnyBox=True))
        self.world.directory.changed(Change("connect"))
        self.world.turn()
        box.block(3, 3)
        self.assertEqual((box.acks(), self.tracksOf("connect")), (0, (3, 0)))
        self.queue.isAway = False
        self.queue.settle()
        self.world.turn()
        self.assertEqual((box.acks(), self.tracksOf("connect")), (2, (3, 3)))

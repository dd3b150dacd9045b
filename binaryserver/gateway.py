"""
One instance of the gateway: what its links share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from binaryserver.admission.admission import Admission
from binaryserver.admission.allowance import Allowances
from binaryserver.admission.passwords import PasswordChecker
from binaryserver.admission.recheck import Recheck
from binaryserver.bus.topics import Topics
from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Account
from binaryserver.downlink.delivery import Delivery
from binaryserver.downlink.statuses import Statuses
from binaryserver.ids import IdSource
from binaryserver.interfaces import IBus, IEventCodec, IInbox, IPeers, ISessionStore
from binaryserver.md21.settings import Md21Settings
from binaryserver.metrics.observed import Observed
from binaryserver.model import BoxKey, StreamMark
from binaryserver.ops.counters import Counters
from binaryserver.session.announcer import Announcer
from binaryserver.session.fingerprints import DEFAULT_WINDOW
from binaryserver.session.memorybudget import MemoryBudget
from binaryserver.session.refusals import Refusals
from binaryserver.session.registry import Registry
from binaryserver.session.retention import Retention
from binaryserver.session.sweeper import MAX_PERIOD, Sweeper
from binaryserver.session.uplink import GLOBAL_WINDOW, Uplink
from binaryserver.transcode.labels import FieldLabels
from binaryserver.transcode.names import Names
from binaryserver.transcode.pseudonyms import Pseudonyms

_MAX_CACHED_PARTITIONS = 100_000
_MAX_CACHED_ACCOUNTS = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What a link may cost, and for how long. Times in s, sizes in bytes; each is an option of the same name.

    @ivar window: PUBLISHes of one link that may wait for the bus
    @ivar windowBytes: bytes of them
    @ivar globalWindow: bytes that may wait for the bus in one process
    @ivar partialPackets: bytes of packets not yet whole that one process keeps, beyond a little for each link
    @ivar recheckPeriod: every link is checked against the directory again, also if nobody told of a change
    @ivar sessionRetention: what is kept of a box that was not seen for so long is removed; 0: it is kept for ever
    @ivar reconnectGrace: a box that comes back within it is told as C{reconnect}
    @ivar downlinkWindow: messages that a link was sent and has not acked
    @ivar controlRate: PINGREQ, SUBSCRIBE, UNSUBSCRIBE, MD21 pings of one link a second, in the long run; 0: any number
    @ivar md21Window: committed tracks of one box that are known by their fingerprints
    """

    maxPacket: int = 262_144
    window: int = 256
    windowBytes: int = 1_048_576
    globalWindow: int = GLOBAL_WINDOW
    partialPackets: int = 4_194_304
    connectTimeout: float = 10.0
    packetTimeout: float = 30.0
    outputTimeout: float = 30.0
    batchDeadline: float = 60.0
    recheckPeriod: float = 3600.0
    sessionRetention: float = 7_776_000.0
    reconnectGrace: float = 10.0
    downlinkWindow: int = 16
    controlRate: float = 20.0
    md21Window: int = DEFAULT_WINDOW

    @property
    def sweepPeriod(self) -> float:
        """
        How often links are looked at: often enough for the shortest of the times.
        """
        shortest = min(self.connectTimeout, self.packetTimeout, self.outputTimeout, self.batchDeadline)
        return max(0.1, min(MAX_PERIOD, shortest / 5))


@implementer(IInbox)
class Gateway:
    """
    @ivar clock: the reactor
    @ivar instance: this instance's id
    @ivar incarnation: this process of it: C{INSTANCE@START}
    @ivar isDraining: no new link is taken
    @ivar ids: of events and links; set once the store has leased a worker number
    @ivar codecs: the forms of tracks that MD30 takes
    @ivar md21: what MD21's links share besides
    @ivar passwords: checks the secrets of boxes
    @ivar observed: what is measured beside what is counted
    """

    ids: IdSource

    def __init__(
        self,
        clock: Any,
        nowMs: Callable[[], int],
        instance: str,
        incarnation: str,
        bus: IBus,
        store: ISessionStore,
        directory: Directory,
        passwords: PasswordChecker,
        pseudonyms: Pseudonyms,
        peers: IPeers,
        topics: Topics,
        limits: Limits,
        codecs: Iterable[IEventCodec],
        md21: Md21Settings | None = None,
        observed: Observed | None = None,
    ) -> None:
        self.clock = clock
        self.nowMs = nowMs
        self.instance = instance
        self.incarnation = incarnation
        self.bus = bus
        self.store = store
        self.directory = directory
        self.topics = topics
        self.limits = limits
        self.codecs = tuple(codecs)
        self.md21 = md21 or Md21Settings()
        self.counters = Counters()
        self.observed = observed or Observed()
        self.sweeper = Sweeper(clock, limits.sweepPeriod)
        self.memory = MemoryBudget(limits.partialPackets)
        self.uplink = Uplink(bus, store, clock, limits.globalWindow, limits.md21Window)
        self.announcer = Announcer(bus, topics.presences, clock)
        self.passwords = passwords
        self.pseudonyms = pseudonyms
        self.names = Names(directory, pseudonyms, clock)
        self.admission = Admission(directory, store, passwords, pseudonyms.obstacle)
        self.allowances = Allowances(store, clock)
        self.refusals = Refusals(self)
        self.rejects = Announcer(bus, topics.rejects, clock)
        self.statuses = Statuses(
            bus, store, topics.statuses, clock, nowMs, instance, self.counters, self.names, self.observed.mailWait
        )
        self.delivery = Delivery(store, self.statuses, clock, nowMs, limits.downlinkWindow, lambda: self.hasMuchToTell)
        self.uplink.otherBytes = self._queuedBytes
        self.retention = Retention(store, clock, nowMs, limits.sessionRetention)
        self.isDraining = False
        self.registry = Registry(store, self.uplink, peers, clock, incarnation, nowMs, limits.batchDeadline)
        self.recheck = Recheck(directory, self.registry, clock, limits.recheckPeriod)
        self._labels: dict[str, tuple[Account, FieldLabels]] = {}
        self._partitions: dict[tuple[str, bytes], int] = {}

    def _queuedBytes(self) -> int:
        return self.announcer.queuedBytes + self.rejects.queuedBytes + self.statuses.queuedBytes

    @property
    def hasMuchToTell(self) -> bool:
        """
        The bus does not take what there is to tell as fast as it comes.
        """
        return self.uplink.isFull or self._queuedBytes() > self.limits.globalWindow // 4

    @property
    def untold(self) -> int:
        """
        Presences, statuses and rejects that are not durable yet.
        """
        return self.announcer.waiting + self.rejects.waiting + self.statuses.waiting

    def handOver(self, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{IInbox.handOver}.
        """
        return self.registry.handOver(box, linkEpoch)

    def wake(self, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IInbox.wake}.
        """
        self.delivery.wake(boxes)

    def disconnect(self, box: BoxKey, linkEpoch: int) -> bool:
        """
        See L{IInbox.disconnect}.
        """
        return self.registry.disconnect(box, linkEpoch)

    def wakeAll(self) -> None:
        """
        See L{IInbox.wakeAll}.
        """
        self.delivery.wakeAll()

    def labels(self, account: Account) -> FieldLabels:
        """
        The field labels of an account, by its terms of now.
        """
        made = self._labels.get(account.name)
        if made is None or made[0] is not account:
            if len(self._labels) >= _MAX_CACHED_ACCOUNTS:
                self._labels.clear()
            made = self._labels[account.name] = account, FieldLabels(self.directory, account.name)
        return made[1]

    def partition(self, topic: str, key: bytes) -> int:
        """
        The partition of a box's records: constant while the bus is up, and asked for with every batch.
        """
        partition = self._partitions.get((topic, key))
        if partition is None:
            if len(self._partitions) >= _MAX_CACHED_PARTITIONS:
                self._partitions.clear()
            partition = self._partitions[topic, key] = self.bus.partitionFor(topic, key)
        return partition

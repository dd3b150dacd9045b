"""
What a simulated box that speaks MD21 sends of its store, what it makes of acks that name nothing, and what it sends
again. PDUs go out of here; there is no link.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from math import inf
from random import Random
from typing import Final

from binaryserver.md21 import codec
from binaryserver.md21.datagrams import MAX_SENT
from binaryserver.md21.values import MAX_TRACKS, Track, TrackingData, WantAck
from binaryserver.tools.box_plan import BoxPlan, Md21Plan, Resend
from binaryserver.tools.box_recorder import AckLoss, Recorder
from binaryserver.tools.box_route import ODOMETER, ROUTES, route
from binaryserver.tools.box_store import Batch, TrackStore
from binaryserver.tools.box_sums import Sums

PATIENCE: Final = {
    WantAck.NONE: inf,
    WantAck.ALL_0: inf,
    WantAck.ALL_10: 10.0,
    WantAck.ALL_30: 30.0,
    WantAck.ALL_60: 60.0,
    WantAck.ALL_100: 100.0,
    WantAck.ALL_200: 200.0,
    WantAck.ALL_300: 300.0,
}
"""s after which a block is sent again."""
STEP_MS: Final = 1000
"""ms, the least between two tracks: MD21's times are whole seconds, and two that are all alike would count as one."""
_SPAN_MS: Final = 65_000_000
"""ms that the tracks of one block may be apart, at most."""


class BlockTape:
    """
    Makes the blocks of one box.
    """

    def __init__(self, asset: str) -> None:
        """
        @param asset: decides which route the box drives
        """
        self._route = route(zlib.crc32(asset.encode()) % ROUTES)

    def tracks(self, batch: Batch) -> tuple[Track, ...]:
        """
        The tracks, which are the same for an index every time.
        """
        first, end, recording = batch
        points = self._route.blockPoints
        length, size, stride = self._route.length, len(points), recording.stride
        place = recording.place + (first - recording.first) * stride
        timeMs = recording.startMs + (first - recording.first) * recording.stepMs
        tracks: list[Track] = []
        for _ in range(first, end):
            rounds, second = divmod(place, size)
            latitude, longitude, before, after = points[second]
            odometer = rounds * length + self._route.points[second].odometer
            fields = (*before, (ODOMETER, odometer), *after)
            tracks.append(Track(timeMs // 1000 * 1000, latitude, longitude, fields))
            place += stride
            timeMs += recording.stepMs
        return tuple(tracks)

    def block(self, batch: Batch, wantAck: WantAck) -> bytes:
        """
        The PDU.
        """
        return codec.encode(TrackingData(wantAck, self.tracks(batch)))


class Block:
    """
    One that was sent and has no ack.

    @ivar pdu: as it goes again, whole
    @ivar firstSent: s of the clock
    @ivar lastSent: s of the clock
    @ivar isDone: it is acked; what copies are still under way do not matter
    """

    __slots__ = ("batch", "firstSent", "isDone", "lastSent", "patience", "pdu")

    def __init__(self, batch: Batch, pdu: bytes, patience: float, now: float) -> None:
        """
        @param patience: s until it is sent again
        """
        self.batch = batch
        self.pdu = pdu
        self.patience = patience
        self.firstSent = self.lastSent = now
        self.isDone = False


class Blocks:
    """
    The way from the store of one box to acks: see L{binaryserver.tools.box_plan.Outgoing}. On one link all blocks go
    one way, by TCP or by UDP, and an ack, as it names none, answers the oldest of that way.

    @ivar wantAck: what new blocks ask for
    @ivar byDatagrams: they have to fit into datagrams
    """

    def __init__(
        self,
        asset: str,
        plan: BoxPlan,
        md21: Md21Plan,
        store: TrackStore,
        tracks: int,
        random: Random,
        sums: Sums,
        complain: Callable[[str], None],
    ) -> None:
        """
        @param tracks: how many the box records in this run
        @param complain: told what a person should hear of
        """
        self.wantAck = md21.wantAck
        self.byDatagrams = False
        self._plan = plan
        self._store = store
        self._recorder = Recorder(store, tracks, plan.rate, random, STEP_MS)
        self._loss = AckLoss(plan.loseAcks, plan.loseEvery, random)
        self._random = random
        self._sums = sums
        self._complain = complain
        self._tape = BlockTape(asset)
        # Without an ack, in the order of their first sending.
        self._blocks: list[Block] = []
        # The acks that are to come on this link, one for each copy of a block.
        self._expected: deque[Block] = deque()
        self._firstSize = 0

    @property
    def empty(self) -> bool:
        """
        Nothing is to be sent, and nothing waits for an ack.
        """
        return self.recorded and not (self._store.waiting or self._blocks)

    @property
    def recorded(self) -> bool:
        """
        The tracks of this run are in the store.
        """
        return self._recorder.recorded

    def record(self, now: float, wallOffset: float) -> None:
        """
        See L{binaryserver.tools.box_plan.Outgoing.record}.
        """
        self._recorder.record(now, wallOffset)

    def recordedAt(self) -> float:
        """
        See L{binaryserver.tools.box_plan.Outgoing.recordedAt}.
        """
        return self._recorder.readyAt(self._plan.batch)

    def oldestSent(self, now: float) -> float:
        """
        See L{binaryserver.tools.box_plan.Outgoing.oldestSent}.
        """
        return min((block.lastSent for block in self._blocks), default=now)

    # Sending.

    def take(self, now: float) -> bytes | None:
        """
        @return: the next block, a PDU; L{None}: none may go now
        """
        if len(self._blocks) >= self._plan.inflight:
            return None
        size = self._recorder.ready(now, self._firstSize or min(self._plan.batch, MAX_TRACKS))
        if not size:
            return None
        size, pdu = self._fitting(size)
        self._firstSize = 0
        store, sums = self._store, self._sums
        batch, again = store.take(size)
        sums.sent += batch.end - batch.first - again
        sums.resent += again
        if self.wantAck is WantAck.NONE:
            sums.unasked += store.ack(batch)
            sums.ended = now
        else:
            block = Block(batch, pdu, self._plan.resendAfter or PATIENCE[self.wantAck], now)
            self._blocks.append(block)
            self._expected.append(block)
        return pdu

    def _fitting(self, size: int) -> tuple[int, bytes]:
        """
        Cut the next block so that its times and, by UDP, its bytes fit.

        @return: its tracks, and the PDU
        """
        batch = self._store.peek(size)
        size = min(batch.end - batch.first, 1 + _SPAN_MS // batch.recording.stepMs)
        while True:
            pdu = self._tape.block(self._store.peek(size), self.wantAck)
            if not self.byDatagrams or len(pdu) <= MAX_SENT or size == 1:
                return size, pdu
            size = max(1, min(size - 1, size * MAX_SENT // len(pdu)))

    def resume(self, now: float, send: Callable[[bytes], bool]) -> None:
        """
        There is a link again: what has no ack goes again, as it was.

        @param send: sends a PDU, if there is room for it
        """
        if self.byDatagrams and any(len(block.pdu) > MAX_SENT for block in self._blocks):
            self._putBack()
        for block in self._blocks:
            self._again(block, now, send)

    def resendOverdue(self, now: float, send: Callable[[bytes], bool]) -> float:
        """
        Blocks go again whose acks do not come.

        @param send: sends a PDU, if there is room for it
        @return: the time of the clock when to look again
        """
        for block in self._blocks:
            if now >= block.lastSent + block.patience:
                self._again(block, now, send)
        latest = now + (self._plan.resendAfter or PATIENCE[self.wantAck])
        return min((block.lastSent + block.patience for block in self._blocks), default=latest)

    def _again(self, block: Block, now: float, send: Callable[[bytes], bool]) -> None:
        # Of one that was not sent no ack may be expected: those of the others would be taken for it.
        if send(block.pdu):
            self._sums.resent += block.batch.end - block.batch.first
            block.lastSent = now
            self._expected.append(block)

    def linkLost(self) -> None:
        """
        No ack of the link comes any more.
        """
        self._expected.clear()
        if self._plan.resend is Resend.NEW:
            self._putBack()

    def _putBack(self) -> None:
        if self._blocks and self._plan.batch > 1:
            self._firstSize = self._random.randrange(1, self._plan.batch)
        self._blocks.clear()
        self._store.putBack()

    # What the gateway says.

    def acked(self, byDatagram: bool, now: float) -> None:
        """
        An ack has come: of the oldest block that went the same way, wanted one and has none.
        """
        sums = self._sums
        if not self._expected or byDatagram is not self.byDatagrams:
            sums.unexpectedAcks += 1
            self._complain("an ack that no block asked for")
            return
        block = self._expected.popleft()
        if self._loss.strikes():
            sums.acksIgnored += 1
        elif not block.isDone:
            block.isDone = True
            self._blocks.remove(block)
            sums.pubacked += self._store.ack(block.batch)
            sums.ackTimes.note(now - block.firstSent)
            sums.ended = now

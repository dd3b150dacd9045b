"""
What a run of simulated boxes adds up to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

_STEPS_A_DECADE: Final = 200
"""Times are told apart to 1.2 %."""


class AckTimes:
    """
    How long acks took, in a bounded amount of memory: counted by ranges that widen with the time.

    @ivar maximum: s, exact
    """

    def __init__(self) -> None:
        self.maximum = 0.0
        self._counts: dict[int, int] = {}

    def note(self, seconds: float) -> None:
        """
        @param seconds: s between sending and ack
        """
        if seconds > self.maximum:
            self.maximum = seconds
        # Below a microsecond there is nothing to tell apart.
        step = math.ceil(_STEPS_A_DECADE * math.log10(max(seconds, 1e-6)))
        self._counts[step] = self._counts.get(step, 0) + 1

    def quantile(self, share: float) -> float:
        """
        @param share: 0 to 1
        @return: s: at least C{share} of the times are no longer; 0.0 if there are none
        """
        rest = math.ceil(share * sum(self._counts.values()))
        for step in sorted(self._counts):
            rest -= self._counts[step]
            if rest <= 0:
                return min(self.maximum, float(10 ** (step / _STEPS_A_DECADE)))
        return 0.0


@dataclass(slots=True)
class MessageSums:
    """
    Counts of messages from the cloud.

    @ivar received: that no repeat was; printed
    @ivar repeats: dropped, as their ids were known
    @ivar redelivered: PUBLISHes with DUP
    @ivar disordered: with a number that is not larger than the one before it on the channel
    @ivar expired: that came after their time
    @ivar acks: application acks sent, one for each message or repeat that wants one; one that is sent again in want of
        a PUBACK counts once
    @ivar acksResent: of those, PUBLISHes with DUP
    @ivar acksConfirmed: of those, that the gateway has acked
    @ivar areAnswersAcked: the protocol has acks of application acks: MD21 has none
    """

    received: int = 0
    repeats: int = 0
    redelivered: int = 0
    disordered: int = 0
    expired: int = 0
    acks: int = 0
    acksResent: int = 0
    acksConfirmed: int = 0
    areAnswersAcked: bool = True

    def toJson(self) -> dict[str, int]:
        """
        The object in that of L{Sums}.
        """
        return {
            "received": self.received,
            "repeats": self.repeats,
            "redelivered": self.redelivered,
            "disordered": self.disordered,
            "expired": self.expired,
            "acks_sent": self.acks,
            "acks_resent": self.acksResent,
            "acks_confirmed": self.acksConfirmed,
        }

    def toText(self) -> str:
        """
        One line for a person; empty if there was no message.
        """
        if not (self.received or self.repeats):
            return ""
        words = [f"{self.received} messages received"]
        for count, what in (
            (self.repeats, "repeats dropped"),
            (self.redelivered, "redelivered with DUP"),
            (self.disordered, "out of order"),
            (self.expired, "after their time"),
        ):
            if count:
                words.append(f"{count} {what}")
        if self.acks:
            confirmed = f", {self.acksConfirmed} of them acked" if self.areAnswersAcked else ""
            words.append(f"{self.acks} application acks sent{confirmed}")
        return ", ".join(words)


@dataclass(slots=True)
class Sums:
    """
    Counts of tracks unless they are said to be of something else.

    @ivar boxes: boxes of the run
    @ivar tracks: all that the boxes have to bring
    @ivar sent: sent at least once in this run
    @ivar resent: sent again in this run; one that is sent three times counts twice
    @ivar unasked: sent on MD21 without a wish for an ack, and forgotten
    @ivar pubacked: the gateway acked what brought them: a PUBLISH by PUBACK, or PUBREC at QoS 2; a block of MD21
    @ivar ackedByIndex: not that, but the gateway's index notice named them as committed
    @ivar droppedByIndex: of these, those that were about to be sent again and now need not be
    @ivar acksIgnored: acks (of PUBLISHes or blocks) that a box took for lost
    @ivar unexpectedAcks: acks (of PUBLISHes or blocks) that nothing on the link asked for
    @ivar acksOutOfOrder: acks (of PUBLISHes) before that of an earlier PUBLISH
    @ivar indexBeyondStore: index notices of an index that the box has never used
    @ivar connects: links accepted by a CONNACK or headerack
    @ivar udpLinks: of those, links on which tracks went by UDP
    @ivar datagramsLost: datagrams that got lost either way, as asked
    @ivar datagramsResent: datagrams that were sent again in want of an ack
    @ivar badDatagrams: datagrams that came and are none of the link
    @ivar cuts: links that a box cut, as asked
    @ivar ackTimeouts: links that a box ended, as an ack did not come in time
    @ivar lostLinks: links that ended otherwise before the box was done
    @ivar failedConnects: attempts without a link
    @ivar refused: boxes that gave up, as the gateway would not have them
    @ivar peerErrors: links on which the gateway broke the protocol
    @ivar started: s of the clock
    @ivar ended: s of the clock
    """

    boxes: int = 0
    tracks: int = 0
    sent: int = 0
    resent: int = 0
    unasked: int = 0
    pubacked: int = 0
    ackedByIndex: int = 0
    droppedByIndex: int = 0
    acksIgnored: int = 0
    unexpectedAcks: int = 0
    acksOutOfOrder: int = 0
    indexBeyondStore: int = 0
    connects: int = 0
    udpLinks: int = 0
    datagramsLost: int = 0
    datagramsResent: int = 0
    badDatagrams: int = 0
    cuts: int = 0
    ackTimeouts: int = 0
    lostLinks: int = 0
    failedConnects: int = 0
    refused: int = 0
    peerErrors: int = 0
    started: float = 0.0
    ended: float = 0.0
    ackTimes: AckTimes = field(default_factory=AckTimes)
    messages: MessageSums = field(default_factory=MessageSums)

    @property
    def acked(self) -> int:
        """
        Known to be durable, one way or the other.
        """
        return self.pubacked + self.ackedByIndex

    @property
    def complete(self) -> bool:
        """
        Every track is acked, unless no ack was asked for.
        """
        return self.acked + self.unasked == self.tracks

    def toJson(self) -> dict[str, object]:
        """
        The object that C{--json} prints.
        """
        seconds = self.ended - self.started
        times = self.ackTimes
        return {
            "boxes": self.boxes,
            "tracks": self.tracks,
            "sent": self.sent,
            "acked": self.acked,
            "unasked": self.unasked,
            "pubacked": self.pubacked,
            "acked_by_index": self.ackedByIndex,
            "resent": self.resent,
            "dropped_by_index": self.droppedByIndex,
            "acks_ignored": self.acksIgnored,
            "unexpected_acks": self.unexpectedAcks,
            "acks_out_of_order": self.acksOutOfOrder,
            "index_beyond_store": self.indexBeyondStore,
            "connects": self.connects,
            "udp_links": self.udpLinks,
            "datagrams_lost": self.datagramsLost,
            "datagrams_resent": self.datagramsResent,
            "bad_datagrams": self.badDatagrams,
            "cuts": self.cuts,
            "ack_timeouts": self.ackTimeouts,
            "lost_links": self.lostLinks,
            "failed_connects": self.failedConnects,
            "refused": self.refused,
            "peer_errors": self.peerErrors,
            "seconds": round(seconds, 3),
            "tracks_per_second": round(self.acked / seconds, 1) if seconds > 0 else 0.0,
            "ack_ms": {
                "p50": round(times.quantile(0.5) * 1000, 3),
                "p99": round(times.quantile(0.99) * 1000, 3),
                "max": round(times.maximum * 1000, 3),
            },
            "messages": self.messages.toJson(),
        }

    def toText(self) -> str:
        """
        The same for a person: lines without a newline at the end; what went wrong only where something did.
        """
        sums = self.toJson()
        boxes = "1 box" if self.boxes == 1 else f"{self.boxes} boxes"
        lines = [
            f"{boxes}: {self.acked} of {self.tracks} tracks acked in {sums['seconds']} s "
            f"({sums['tracks_per_second']} a second)",
            f"sent {self.sent}, resent {self.resent}, links {self.connects}",
        ]
        if self.pubacked:
            p50, p99, most = (
                f"{s * 1000:.1f}"
                for s in (self.ackTimes.quantile(0.5), self.ackTimes.quantile(0.99), self.ackTimes.maximum)
            )
            lines.append(f"acks after {p50} ms (median), {p99} ms (99 of 100), {most} ms (longest)")
        if self.ackedByIndex:
            lines.append(f"{self.ackedByIndex} acked by the index notice, {self.droppedByIndex} of them not sent again")
        if self.unasked:
            lines.append(f"{self.unasked} sent without a wish for an ack")
        messages = self.messages.toText()
        if messages:
            lines.append(messages)
        for count, what in (
            (self.udpLinks, "links with tracks by UDP"),
            (self.datagramsLost, "datagrams lost as asked"),
            (self.datagramsResent, "datagrams sent again"),
            (self.badDatagrams, "datagrams dropped that were none of the link"),
            (self.cuts, "links cut by the boxes"),
            (self.ackTimeouts, "links ended by the boxes, as an ack did not come in time"),
            (self.lostLinks, "links lost"),
            (self.failedConnects, "connects failed"),
            (self.acksIgnored, "acks taken for lost"),
            (self.unexpectedAcks, "acks that nothing asked for"),
            (self.acksOutOfOrder, "acks out of order"),
            (self.indexBeyondStore, "index notices of an index never used"),
            (self.peerErrors, "links on which the gateway broke the protocol"),
            (self.refused, "boxes that the gateway would not have"),
        ):
            if count:
                lines.append(f"{count} {what}")
        return "\n".join(lines)

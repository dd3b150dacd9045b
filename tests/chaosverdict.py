"""
What must hold after chaos, found from the bus and from what the boxes printed (G1 to G6).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from binaryserver.bus.topics import Topics
from binaryserver.model import StoredRecord
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.downlink import RejectedMessage, readDownlink
from tests.chaosrig import CHANNELS, Follower, Seen, Squad

_ACKED: Final = cloudnext_pb2.DELIVERY_STATUS_ACKED
_REFUSED: Final = cloudnext_pb2.DELIVERY_STATUS_REFUSED
_EXPIRED: Final = cloudnext_pb2.DELIVERY_STATUS_EXPIRED
_REJECTED: Final = cloudnext_pb2.DELIVERY_STATUS_REJECTED
_FINAL: Final = {_ACKED, _REFUSED, _EXPIRED, _REJECTED}
_ANSWERS: Final = {
    "ok": (_ACKED, ""),
    "no-listener": (_REFUSED, "NO_LISTENER"),
    "not-understood": (_REFUSED, "NOT_UNDERSTOOD"),
}

Name = tuple[str, str]
"""Asset and id of a message."""


class Sent(NamedTuple):
    """
    A message as it stands in C{downlink}, the first of its id.
    """

    message: cloudnext_pb2.DownlinkMessage
    offset: int


def present(records: Sequence[Seen]) -> set[str]:
    """
    The boxes that are connected, as a consumer sees it that keeps the highest link epoch of each.
    """
    latest: dict[str, cloudnext_pb2.Event] = {}
    for record in records:
        event = cloudnext_pb2.Event.FromString(record.value)
        known = latest.get(event.asset)
        if known is None or event.link_epoch >= known.link_epoch:
            latest[event.asset] = event
    gone = cloudnext_pb2.PRESENCE_TYPE_DISCONNECT
    return {asset for asset, event in latest.items() if event.presence.type != gone}


class Verdict:
    """
    Of one run.

    @ivar counts: what was found
    """

    def __init__(self, topics: Topics, follower: Follower, squads: Sequence[Squad]) -> None:
        self._topics = topics
        self._records = follower.records
        self._squads = {asset: squad for squad in squads for asset in squad.assets}
        self._allSquads = squads
        self.counts: Counter[str] = Counter()
        self._statusesRead = self._tracksRead = 0
        self._statuses: dict[Name, list[cloudnext_pb2.Event]] = defaultdict(list)
        self._tracks: dict[tuple[str, int], dict[int, list[bytes]]] = defaultdict(dict)
        self._disorder: list[str] = []

    def sent(self) -> tuple[dict[Name, Sent], set[str]]:
        """
        The messages of C{downlink}, and the sources of records that are none.
        """
        messages: dict[Name, Sent] = {}
        garbage: set[str] = set()
        topic = self._topics.downlink
        for seen in self._records[topic]:
            source = f"{topic}/{seen.partition}/{seen.offset}"
            stored = StoredRecord(
                topic, seen.partition, seen.offset, 0, seen.key, seen.value, tuple(seen.headers.items())
            )
            try:
                message = readDownlink(stored)
            except RejectedMessage:
                garbage.add(source)
                continue
            if message.channel not in CHANNELS:
                garbage.add(source)
            messages.setdefault((message.asset, message.id or source), Sent(message, seen.offset))
        return messages, garbage

    def statuses(self) -> Mapping[Name, Sequence[cloudnext_pb2.Event]]:
        """
        What was told of each message.
        """
        records = self._records[self._topics.statuses]
        for record in records[self._statusesRead :]:
            event = cloudnext_pb2.Event.FromString(record.value)
            self._statuses[event.asset, event.message_status.message_id].append(event)
        self._statusesRead = len(records)
        return self._statuses

    def unfinished(self) -> list[Name]:
        """
        The messages without a final status.
        """
        statuses, (messages, _) = self.statuses(), self.sent()
        return [
            name
            for name in messages
            if not any(event.message_status.status in _FINAL for event in statuses.get(name, ()))
        ]

    def tracks(self) -> Mapping[tuple[str, int], Mapping[int, Sequence[bytes]]]:
        """
        By box and stream: the C{ce_id} of each copy of each index.
        """
        records = self._records[self._topics.tracks]
        for record in records[self._tracksRead :]:
            event = cloudnext_pb2.Event.FromString(record.value)
            found = self._tracks[event.asset, event.stream]
            if event.index in found:
                self.counts["tracks repeated"] += 1
            elif found and event.index < next(reversed(found)):
                self._disorder.append(f"track {event.asset}/{event.index} comes after {next(reversed(found))}")
            found.setdefault(event.index, []).append(record.headers.get("ce_id", b""))
        self._tracksRead = len(records)
        return self._tracks

    def untold(self, perBox: int) -> list[str]:
        """
        The boxes of which tracks are missing.
        """
        found: Counter[str] = Counter()
        for (asset, _), indices in self.tracks().items():
            found[asset] += len(indices)
        return [asset for asset in self._squads if found[asset] < perBox]

    # What is wrong.

    def ofTracks(self, perBox: int, mayRepeat: bool) -> Iterator[str]:
        """
        @param perBox: how many each box brought, all of them acked
        @param mayRepeat: an instance was killed or frozen
        """
        tracks = self.tracks()
        self.counts["tracks"] = sum(map(len, tracks.values()))
        yield from self._disorder
        for asset in self._squads:
            streams = [indices for (box, _), indices in tracks.items() if box == asset]
            if len(streams) != 1:
                yield f"{asset} has tracks of {len(streams)} streams"
                continue
            (indices,) = streams
            first = min(indices)
            missing = [index for index in range(first, first + perBox) if index not in indices]
            if missing or len(indices) != perBox:
                yield f"{asset}: {len(indices)} tracks of {perBox}, without {missing[:10]}"
            for index, ids in indices.items():
                if len(set(ids)) > 1 or not ids[0]:
                    yield f"track {asset}/{index} has several ids: {ids}"
                if len(ids) > 1 and not mayRepeat:
                    yield f"track {asset}/{index} is there {len(ids)} times, and no instance died"

    def ofMessages(self, lines: Sequence[dict[str, Any]]) -> Iterator[str]:
        """
        @param lines: what the boxes printed of messages, those of a box in their order
        """
        messages, garbage = self.sent()
        statuses = self.statuses()
        received = Counter((line["asset"], line["id"]) for line in lines)
        self.counts["messages"], self.counts["received"] = len(messages), len(received)
        for name in set(received) - set(messages):
            yield f"{name} was received and never sent"
        for name, count in received.items():
            if count > 1:
                yield f"{name} reached the application {count} times"
        for name in set(statuses) - set(messages):
            yield f"{name} has statuses and was never sent"
        for name, sent in messages.items():
            finals = [event for event in statuses.get(name, ()) if event.message_status.status in _FINAL]
            told = {(event.message_status.status, event.message_status.reason, event.id) for event in finals}
            if len(told) != 1:
                yield f"{name} has ended in {len(told)} ways: {self.story(name, sent)}"
                continue
            self.counts["finals repeated"] += len(finals) - 1
            ((status, reason, _),) = told
            self.counts[f"{cloudnext_pb2.DeliveryStatus.Name(status)[16:]} {reason}".strip()] += 1
            if (status, reason) not in self._allowed(sent.message):
                yield f"{name} should not have ended so: {self.story(name, sent)}"
            was = received[name]
            if not was and (status == _ACKED or reason in ("NO_LISTENER", "NOT_UNDERSTOOD")):
                yield f"{name} did not reach its application: {self.story(name, sent)}"
            if was and (reason == "BOX_AWAY" or status == _REJECTED):
                yield f"{name} reached its application: {self.story(name, sent)}"
            if reason == "BOX_AWAY" and any(
                event.message_status.status == cloudnext_pb2.DELIVERY_STATUS_SENT for event in statuses[name]
            ):
                yield f"{name} was told sent, and then that its box was away: {self.story(name, sent)}"
        yield from self._ofAnswers(received, messages)
        yield from self._ofOrder(lines, messages)
        yield from self._ofRejects(garbage)

    def _allowed(self, message: cloudnext_pb2.DownlinkMessage) -> set[tuple[int, str]]:
        if message.channel not in CHANNELS:
            return {(_REJECTED, "BAD_CHANNEL")}
        ends: set[tuple[int, str]] = set()
        squad = self._squads.get(message.asset)
        if squad is not None:
            ends.add(_ANSWERS[squad.ack if message.want_ack else "ok"])
        if message.expires_at:
            ends.add((_EXPIRED, ""))
        if message.no_queue:
            ends.add((_REFUSED, "BOX_AWAY"))
        return ends

    def _ofAnswers(self, received: Mapping[Name, int], messages: Mapping[Name, Sent]) -> Iterator[str]:
        """
        Each answer of an application was acked, so that it stands in C{messages}.
        """
        answered = set()
        for seen in self._records[self._topics.messages]:
            event = cloudnext_pb2.Event.FromString(seen.value)
            answered.add((event.asset, event.message.ack_of))
        self.counts["answers"] = len(answered)
        for name in received:
            if name in messages and messages[name].message.want_ack and name not in answered:
                yield f"{name} was answered, and the answer is not in messages"

    def ofPresences(self) -> Iterator[str]:
        """
        Each epoch begins once and ends once, in this order; what is told twice is the same.
        """
        told: dict[tuple[str, int], dict[int, set[int]]] = defaultdict(dict)
        gone = cloudnext_pb2.PRESENCE_TYPE_DISCONNECT
        for seen in self._records[self._topics.presences]:
            event = cloudnext_pb2.Event.FromString(seen.value)
            kinds = told[event.asset, event.link_epoch]
            if gone in kinds and event.presence.type != gone:
                yield f"{event.asset}: epoch {event.link_epoch} begins after its end"
            kinds.setdefault(event.presence.type, set()).add(event.id)
        self.counts["links told"] = len(told)
        for (asset, epoch), kinds in told.items():
            for kind, ids in kinds.items():
                if len(ids) > 1:
                    yield f"{asset}: {cloudnext_pb2.PresenceType.Name(kind)} of epoch {epoch} told {len(ids)} times"
            if len([kind for kind in kinds if kind != gone]) > 1:
                yield f"{asset}: epoch {epoch} begins in several ways: {sorted(kinds)}"

    @staticmethod
    def _ofOrder(lines: Sequence[dict[str, Any]], messages: Mapping[Name, Sent]) -> Iterator[str]:
        last: dict[tuple[str, str], tuple[int, str]] = {}
        for line in lines:
            sent = messages.get((line["asset"], line["id"]))
            if sent is None:
                continue
            place = (line["asset"], line["channel"])
            before, id_ = last.get(place, (-1, ""))
            if sent.offset < before:
                yield f"{line['asset']}: {line['id']} came after {id_}"
            last[place] = (sent.offset, line["id"])

    def _ofRejects(self, garbage: set[str]) -> Iterator[str]:
        rejects = [cloudnext_pb2.Reject.FromString(seen.value) for seen in self._records[self._topics.rejects]]
        found = Counter(reject.source for reject in rejects)
        self.counts["rejects"], self.counts["rejects repeated"] = len(found), len(rejects) - len(found)
        for source in garbage - set(found):
            yield f"{source} is not in rejects"
        for source in set(found) - garbage:
            yield f"{source} is in rejects, and nothing is wrong with it"

    def ofSums(self, sums: Sequence[dict[str, Any]]) -> Iterator[str]:
        """
        @param sums: what each squad summed up
        """
        for squad, its in zip(self._allSquads, sums, strict=True):
            for name in ("disordered",):
                if its["messages"][name]:
                    yield f"{squad.name}: {its['messages'][name]} messages {name}"
            for name in ("refused", "peer_errors", "index_beyond_store", "acks_out_of_order", "unexpected_acks"):
                if its[name]:
                    yield f"{squad.name}: {its[name]} {name}"
            if its["acked"] != its["tracks"]:
                yield f"{squad.name}: {its['acked']} tracks acked of {its['tracks']}"
            for name in ("connects", "cuts", "lost_links", "failed_connects", "ack_timeouts", "resent"):
                self.counts[name] += its[name]
            self.counts["message repeats dropped"] += its["messages"]["repeats"]

    def story(self, name: Name, sent: Sent) -> str:
        """
        All that was told of a message, for a person.
        """
        told = [
            {
                "status": cloudnext_pb2.DeliveryStatus.Name(event.message_status.status)[16:],
                "reason": event.message_status.reason,
                "attempts": event.message_status.attempts,
                "at": event.event_time,
                "by": event.instance,
            }
            for event in self.statuses().get(name, ())
        ]
        flags = [flag for flag in ("want_ack", "no_queue", "expires_at") if getattr(sent.message, flag)]
        return json.dumps({"flags": flags, "offset": sent.offset, "told": told})

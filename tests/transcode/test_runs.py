"""
Tests for L{binaryserver.transcode.runs}: what is taken in runs ends as what is taken one by one does.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import binaryserver.session.intake
from binaryserver.mqtt.events import Disconnect, Event, Publish
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Track, TrackBatch, Value
from binaryserver.transcode.runs import Run, readRun, streamHead
from binaryserver.transcode.wire import lengthDelimited, tag, varint
from tests.harness import NOW_MS, World, publish

STREAM = 0x1234_5678_9ABC
HEAD = streamHead(STREAM)


def track(number: int = 0, text: str = "A") -> Track:
    """
    A track with a number and a text.
    """
    return Track(
        recorded_at=NOW_MS - 100_000 + number,
        latitude=488_566_000,
        longitude=-number,
        field_numbers=[8, 300],
        field_values=[Value(int_value=number), Value(string_value=text)],
    )


def payload(index: int, *tracks: Track, stream: int = STREAM) -> bytes:
    """
    A C{TrackBatch} as boxes send it.
    """
    return TrackBatch(stream=stream, first_index=index, tracks=tracks or [track(index % 1000)]).SerializeToString()


def events(*payloads: bytes, topic: str = "t", qos: int = 1) -> list[Event]:
    """
    A read of PUBLISHes, numbered from 1.
    """
    return [Publish(topic, one, qos, number, False, False) for number, one in enumerate(payloads, 1)]


def read(publishes: list[Event], index: int, position: int = 0, most: int = 256, mostBytes: int = 1 << 20) -> Run:
    """
    L{readRun} of L{STREAM}, with at most 10 tracks.
    """
    return readRun(publishes, position, HEAD, index, most, mostBytes, 10)


class ReadRunTests(SynchronousTestCase):
    """
    L{readRun} and L{Run.parse}.
    """

    def test_follows(self) -> None:
        """
        What goes on is gathered, over the places where an index's varint grows; bodies are the tracks' bytes.
        """
        for start in (0, 1, 125, 126, 127, 128, 16_382, (1 << 28) - 2, (1 << 63) - 2):
            batches = [[track(1), track(2)], [track(3)], [track(4, "x" * 200)]]
            firsts = [start, start + 2, start + 3]
            payloads = [payload(first, *tracks) for first, tracks in zip(firsts, batches, strict=True)]
            if not start:
                # The shortest form leaves 0 out, and such a one is not of the usual shape.
                self.assertEqual(read(events(*payloads), 0).ends, [])
                payloads[0] = HEAD + b"\x00" + payloads[0][len(HEAD) - 1 :]
            run = read(events(*payloads), start)
            self.assertEqual((run.ends, run.packetIds, run.payloads), ([2, 3, 4], [1, 2, 3], payloads))
            tracks = [one for batch in batches for one in batch]
            self.assertEqual(run.parse(), tracks)
            self.assertEqual(run.bodies, [one.SerializeToString() for one in tracks])

    def test_ends(self) -> None:
        """
        A run ends before what is not of it: another topic, QoS, stream, index, kind of packet or shape.
        """
        good = payload(500)
        for other in (
            events(payload(501), topic="boxes/1/tracks"),
            events(payload(501), qos=0),
            [Disconnect()],
            events(payload(501, stream=STREAM + 1)),
            events(payload(502)),
            events(payload(500)),
            events(TrackBatch(stream=STREAM, first_index=501).SerializeToString()),
            events(b""),
            events(HEAD),
            events(payload(501)[:-1]),
            events(payload(501) + b"\x1a"),
            events(payload(501) + b"\x1a\x80"),
            events(payload(501) + b"\x20\x01"),
            events(b"\x20\x01" + payload(501)),
            events(payload(501, track(1, "x" * 16_384))),
            events(payload(501, *[track()] * 10)),
        ):
            run = read(events(good) + other, 500)  # type: ignore[operator]
            self.assertEqual((run.ends, run.bodies), ([1], [track(500).SerializeToString()]), other)

    def test_bounds(self) -> None:
        """
        It has no more PUBLISHes than asked for, and none after that which brought it to the bytes; and begins where it
        is told to.
        """
        payloads = [payload(500 + n) for n in range(8)]
        self.assertEqual(len(read(events(*payloads), 500, most=3).ends), 3)
        self.assertEqual(len(read(events(*payloads), 500, mostBytes=len(payloads[0]) + 1).ends), 2)
        self.assertEqual(read(events(*payloads), 503, 3).payloads, payloads[3:])

    def test_malformed(self) -> None:
        """
        A payload of the usual shape whose track cannot be parsed.
        """
        bad = HEAD + varint(501) + lengthDelimited(3, b"\x08")
        run = read(events(payload(500), bad), 500)
        self.assertEqual(len(run.ends), 2)
        self.assertIsNone(run.parse())


@st.composite
def payloadLists(draw: st.DrawFn) -> list[bytes]:
    """
    A read of a box that starts well, and then sends anything.
    """
    index = draw(st.sampled_from([1, 5, 120, 126, 16_380, (1 << 32) - 3]))
    payloads = [payload(index)]
    index += 1
    tracks = st.lists(
        st.builds(track, st.integers(0, 99_000), st.sampled_from(["", "A", "x" * 130])), min_size=1, max_size=3
    )
    for _ in range(draw(st.integers(1, 9))):
        several = draw(tracks)
        good = payload(index, *several)
        kind = draw(st.sampled_from(["next", "next", "next", "shift", "stream", "odd", "cut", "changed", "garbage"]))
        if kind == "shift":
            index = max(1, index + draw(st.integers(-4, 4)))
            good = payload(index, *several)
        elif kind == "stream":
            good = payload(index, *several, stream=draw(st.sampled_from([0, 1, STREAM + 1])))
        elif kind == "odd":
            fields = [
                tag(1, 0) + varint(STREAM),
                tag(2, 0) + varint(index)[:-1] + bytes((varint(index)[-1] | 0x80, 0)),
                *(lengthDelimited(3, one.SerializeToString()) for one in several),
                draw(st.sampled_from([b"", b"\x20\x05", b"\x2a\x02ab"])),
            ]
            good = b"".join(draw(st.permutations(fields)))
        elif kind == "cut":
            good = good[: draw(st.integers(0, len(good) - 1))]
        elif kind == "changed":
            place = draw(st.integers(0, len(good) - 1))
            good = good[:place] + draw(st.binary(min_size=1, max_size=1)) + good[place + 1 :]
        elif kind == "garbage":
            good = draw(st.binary(max_size=60))
        payloads.append(good)
        if kind in ("next", "shift", "odd"):
            index += len(several)
    return payloads


class SameTests(SynchronousTestCase):
    """
    The short way against the general one.
    """

    def outcome(self, payloads: list[bytes]) -> tuple[list[int], list[tuple[str, object]]]:
        """
        Acks, and what is on the bus, of one read after a first track that shows the stream.
        """
        world = World()
        box = world.box()
        first = TrackBatch.FromString(payloads[0])
        box.publish("t", payload(first.first_index - 1), 100)
        box.send(b"".join(publish("t", one, number) for number, one in enumerate(payloads, 1)))
        found: list[tuple[str, object]] = []
        for topic, record in sorted(world.bus.committed, key=lambda pair: pair[0]):
            value = record.value
            if topic.endswith(".tracks"):
                # Bytes that only a strange box sends are carried as they came, or as they were parsed.
                event = cloudnext_pb2.Event.FromString(value)
                value = event.SerializeToString()
            found.append((topic, (record.key, value, list(record.headers))))
        return box.acks(), found

    @given(payloadLists())
    @settings(max_examples=150, deadline=None)
    def test_anything(self, payloads: list[bytes]) -> None:
        """
        Whatever a box sends in one read: the same acks, the same events, the same rejects.
        """
        fast = self.outcome(payloads)
        with self.withoutRuns():
            slow = self.outcome(payloads)
        self.assertEqual(fast, slow)

    def test_bytes(self) -> None:
        """
        Of what boxes send, the records are the same to the byte.
        """
        payloads = [payload(10 + 3 * n, track(n), track(n, "x" * 130), Track(recorded_at=5)) for n in range(16)]
        values = []
        for short in (True, False):
            world = World()
            box = world.box()
            box.publish("t", payload(9), 100)
            data = b"".join(publish("t", one, number) for number, one in enumerate(payloads, 1))
            if short:
                box.send(data)
            else:
                with self.withoutRuns():
                    box.send(data)
            self.assertEqual(box.acks(), [100, *range(1, 17)])
            values.append(sorted((topic, record) for topic, record in world.bus.committed))
        self.assertEqual(values[0], values[1])
        self.assertEqual(len([topic for topic, _ in values[0] if topic.endswith(".tracks")]), 33)

    def withoutRuns(self) -> PatchedContext:
        """
        Every PUBLISH is taken alone meanwhile.
        """
        return PatchedContext(self)


class PatchedContext:
    """
    Has no run found while it is entered.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self._case = case

    def __enter__(self) -> None:
        self._patch = self._case.patch(binaryserver.session.intake, "readRun", lambda *_: Run([], [], [], []))

    def __exit__(self, *_: object) -> None:
        self._patch.restore()

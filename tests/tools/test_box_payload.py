"""
Tests for L{binaryserver.tools.box_payload} and L{binaryserver.tools.box_route}.
"""

from __future__ import annotations

import math
import tomllib
from importlib.resources import files
from itertools import pairwise

from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.proto.md30_pb2 import TrackBatch
from binaryserver.tools.box_payload import PayloadForm, Tape, recordedAt
from binaryserver.tools.box_route import EARTH_RADIUS, FIELD_NUMBERS, FUEL_TANK, KNOT, ROUTES, route, varint, zigzag
from binaryserver.tools.box_store import Batch, Recording

NOW_MS = 1_790_000_000_000
RECORDINGS = st.builds(
    Recording,
    first=st.integers(1, 1 << 40),
    startMs=st.integers(NOW_MS, NOW_MS * 2),
    stepMs=st.integers(1, 10_000_000),
    place=st.integers(0, 1 << 35),
)


def read(tape: Tape, form: PayloadForm, batch: Batch) -> TrackBatch:
    """
    A batch as protobuf reads it.
    """
    payload = tape.serialize(batch)
    if form is PayloadForm.PROTO:
        return TrackBatch.FromString(payload)
    return json_format.Parse(payload, TrackBatch())


class TapeTests(SynchronousTestCase):
    """
    What boxes put on the wire.
    """

    @given(RECORDINGS, st.integers(1, (1 << 64) - 1), st.integers(0, 5000), st.integers(1, 30), st.text(max_size=9))
    def test_forms(self, recording: Recording, stream: int, skip: int, count: int, asset: str) -> None:
        """
        Protobuf reads the same message from both forms, and finds in it what was asked for.
        """
        first = recording.first + skip
        batch = Batch(first, first + count, recording)
        proto, fromJson = (read(Tape(asset, stream, form), form, batch) for form in PayloadForm)
        self.assertEqual(proto, fromJson)
        self.assertEqual((proto.stream, proto.first_index, len(proto.tracks)), (stream, first, count))
        self.assertEqual(
            TrackBatch.FromString(proto.SerializeToString()).SerializeToString(), proto.SerializeToString()
        )
        for index, track in enumerate(proto.tracks, first):
            self.assertEqual(track.recorded_at, recordedAt(recording, index))
            self.assertEqual(tuple(track.field_numbers), FIELD_NUMBERS)
            self.assertEqual(len(track.field_values), len(FIELD_NUMBERS))
            self.assertEqual(track.HasField("latitude"), track.HasField("longitude"))

    @given(RECORDINGS, st.integers(0, 100_000))
    def test_times(self, recording: Recording, skip: int) -> None:
        """
        Each track is recorded after the one before, and none later than its step.
        """
        index = recording.first + skip
        time, after = recordedAt(recording, index), recordedAt(recording, index + 1)
        self.assertLess(time, after)
        self.assertLessEqual(time, recording.startMs + skip * recording.stepMs)

    def test_same(self) -> None:
        """
        A track is the same however it is cut into batches.
        """
        tape = Tape("box", 7, PayloadForm.PROTO)
        recording = Recording(1, NOW_MS, 1000, 12345)
        whole = read(tape, PayloadForm.PROTO, Batch(1, 41, recording)).tracks
        parts = [read(tape, PayloadForm.PROTO, Batch(at, at + 4, recording)).tracks for at in range(1, 41, 4)]
        self.assertEqual(list(whole), [track for part in parts for track in part])

    @given(st.integers(0, (1 << 64) - 1))
    def test_varint(self, number: int) -> None:
        """
        Varints are protobuf's.
        """
        self.assertEqual(TrackBatch.FromString(b"\x08" + varint(number)).stream, number)

    @given(st.integers(-(1 << 31), (1 << 31) - 1))
    def test_zigzag(self, number: int) -> None:
        """
        So are signed numbers.
        """
        track = b"\x10" + varint(zigzag(number))
        batch = TrackBatch.FromString(b"\x1a" + varint(len(track)) + track)
        self.assertEqual(batch.tracks[0].latitude, number)


class RouteTests(SynchronousTestCase):
    """
    The drives are such as a vehicle could do.
    """

    def test_fields(self) -> None:
        """
        Numbers and types of the fields are the dictionary's.
        """
        dictionary = tomllib.loads(files("binaryserver.directory").joinpath("fields.toml").read_text())
        kinds = {field["id"]: field["type"] for field in dictionary["field"]}
        recording = Recording(1, NOW_MS, 1000, 0)
        track = read(Tape("box", 1, PayloadForm.PROTO), PayloadForm.PROTO, Batch(1, 2, recording)).tracks[0]
        sent = [value.WhichOneof("value").removesuffix("_value") for value in track.field_values]
        self.assertEqual(sent, [kinds[number] for number in FIELD_NUMBERS])

    def test_same(self) -> None:
        """
        A route is the same whenever it is asked for, and there are several.
        """
        self.assertIs(route(3), route(3 + ROUTES))
        self.assertEqual(len({route(number).points for number in range(ROUTES)}), ROUTES)

    def test_motion(self) -> None:
        """
        From second to second the vehicle moves by its speed, in its direction; it brakes and speeds up as one can.
        """
        for number in range(ROUTES):
            points = route(number).points
            for before, after in pairwise(points):
                self.assertTrue(0 <= after.speed < 40)
                self.assertLessEqual(after.speed - before.speed, 2.5)
                self.assertLess(abs(after.odometer - before.odometer - after.speed), 1.01)
                if not (before.latitude and before.longitude and after.latitude and after.longitude):
                    continue
                north = math.radians((after.latitude - before.latitude) / 1e7) * EARTH_RADIUS
                parallel = EARTH_RADIUS * math.cos(math.radians(after.latitude / 1e7))
                east = math.radians((after.longitude - before.longitude) / 1e7) * parallel
                self.assertLess(abs(math.hypot(north, east) - after.speed), 2.5)
                if after.speed > 5 and after.heading == before.heading:
                    difference = (math.degrees(math.atan2(east, north)) - after.heading + 180) % 360 - 180
                    self.assertLess(abs(difference), 2)

    def test_round(self) -> None:
        """
        A round ends where it began, at the pump: the next one follows without a jump.
        """
        for number in range(ROUTES):
            drive = route(number)
            first, last = drive.points[0], drive.points[-1]
            assert first.latitude is not None and last.latitude is not None
            self.assertLess(abs(first.latitude - last.latitude), 1000)
            self.assertAlmostEqual(last.fuel, FUEL_TANK)
            self.assertFalse(last.ignition)
            size = len(drive.points)
            self.assertLess(drive.odometer(size) - drive.odometer(size - 1), 10)

    def test_variety(self) -> None:
        """
        There are stops with the engine on and off, and a stretch without a fix.
        """
        for number in range(ROUTES):
            points = route(number).points
            self.assertTrue(any(point.ignition and not point.speed for point in points))
            self.assertTrue(any(not point.ignition for point in points))
            self.assertTrue(any(point.latitude is None and point.speed > 0 for point in points))
            self.assertTrue(all(point.fuel > 0.9 * FUEL_TANK for point in points))
            self.assertTrue(all(point.ignition or (not point.speed and not point.rpm) for point in points))

    def test_units(self) -> None:
        """
        Speeds agree in knots and in km/h.
        """
        recording = Recording(1, NOW_MS, 1000, 0)
        batch = read(Tape("box", 1, PayloadForm.PROTO), PayloadForm.PROTO, Batch(1, 500, recording))
        for track in batch.tracks:
            values = dict(zip(track.field_numbers, track.field_values, strict=True))
            knots, kmh = values[8].int_value / 1000, values[235].int_value
            self.assertLess(abs(knots * KNOT * 3.6 - kmh), 0.6)
            self.assertTrue(0 <= values[9].int_value < 36000)
            self.assertEqual(values[3].string_value, "A" if track.HasField("latitude") else "V")

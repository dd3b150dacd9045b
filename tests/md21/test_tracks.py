"""
Tests for L{binaryserver.md21.tracks}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.md21.tracks import boxTracks
from binaryserver.md21.values import EPOCH, FieldValue, Track
from binaryserver.proto import md30_pb2

_MAX = 1 << 63

VALUES: st.SearchStrategy[FieldValue] = st.one_of(
    st.integers(-_MAX, _MAX - 1), st.booleans(), st.text(max_size=255), st.floats(), st.binary(max_size=255)
)
POSITIONS = st.one_of(
    st.just((None, None)), st.tuples(st.integers(-9_000_000, 9_000_000), st.integers(-18_000_000, 18_000_000))
)
TRACKS = st.builds(
    lambda seconds, position, fields: Track(
        (EPOCH + seconds) * 1000, position[0], position[1], tuple(sorted(fields.items()))
    ),
    st.integers(0, 1 << 32),
    POSITIONS,
    st.dictionaries(st.integers(0, 65535), VALUES, max_size=12),
)


def plainly(track: Track) -> md30_pb2.Track:
    """
    The same, field by field.
    """
    made = md30_pb2.Track(recorded_at=track.recordedAt)
    if track.latitude is not None and track.longitude is not None:
        made.latitude, made.longitude = track.latitude * 100, track.longitude * 100
    for number, value in track.fields:
        made.field_numbers.append(number)
        entry = made.field_values.add()
        if isinstance(value, bool):
            entry.bool_value = value
        elif isinstance(value, int):
            entry.int_value = value
        elif isinstance(value, str):
            entry.string_value = value
        elif isinstance(value, float):
            entry.double_value = value
        else:
            entry.bytes_value = value
    return made


class TracksTests(SynchronousTestCase):
    """
    L{boxTracks}.
    """

    @given(st.lists(TRACKS, max_size=5))
    def test_asSetFieldByField(self, tracks: list[Track]) -> None:
        """
        Bytes, and so all that they mean, are as if each field had been set; those of the events are the same.
        """
        made = [track.SerializeToString() for track in boxTracks(tracks)]
        self.assertEqual(made, [plainly(track).SerializeToString() for track in tracks])

    def test_alike(self) -> None:
        """
        Values that are equal and yet not the same stay apart.
        """
        values: tuple[FieldValue, ...] = (0, False, 0.0, -0.0, "", b"", 1, True, 1.0, 0)
        track = Track(EPOCH * 1000, 0, 0, tuple(enumerate(values)))
        for _ in range(2):
            (made,) = boxTracks([track])
            self.assertEqual(made.SerializeToString(), plainly(track).SerializeToString())
        kinds = [value.WhichOneof("value") for value in made.field_values]
        self.assertEqual(len(set(kinds[:6])), 5)
        self.assertEqual(str(made.field_values[3].double_value), "-0.0")

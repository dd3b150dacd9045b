"""
Tests for the example's form of tracks.
"""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from binaryserver.errors import RejectedData
from binaryserver.interfaces import IEventCodec
from binaryserver.proto.md30_pb2 import Track, TrackBatch, Value
from tests.thirdparty.fleetplugins.fleetplugins.csvtracks import CsvTracks

NOW = 1_790_000_000_000

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1).filter(
    lambda text: text not in ("true", "false") and not text.lstrip("-")[:1].isdigit()
)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda number: Value(int_value=number)),
    st.booleans().map(lambda flag: Value(bool_value=flag)),
    st.integers(-(10**9), 10**9).map(lambda number: Value(double_value=number / 8)),
    TEXTS.map(lambda text: Value(string_value=text)),
)


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    """
    A track as the form can say it.
    """
    track = Track(recorded_at=draw(st.integers(0, 2**63 - 1)))
    if draw(st.booleans()):
        track.latitude = draw(st.integers(-900_000_000, 900_000_000))
        track.longitude = draw(st.integers(-1_800_000_000, 1_800_000_000))
    for number, value in draw(st.lists(st.tuples(st.integers(0, 2**32 - 1), VALUES), max_size=5)):
        track.field_numbers.append(number)
        track.field_values.append(value)
    return track


BATCHES = st.builds(
    TrackBatch,
    stream=st.integers(0, 2**64 - 1),
    first_index=st.integers(0, 2**64 - 1),
    tracks=st.lists(tracks(), max_size=5),
)


def degrees(number: int) -> str:
    """
    From 1e-7 degrees.
    """
    return f"{'-' if number < 0 else ''}{abs(number) // 10**7}.{abs(number) % 10**7:07}"


def csvOf(batch: TrackBatch) -> bytes:
    """
    A batch in the form, written by hand.
    """
    lines = [f"{batch.stream},{batch.first_index}"]
    for track in batch.tracks:
        cells = [str(track.recorded_at)]
        cells += [degrees(track.latitude), degrees(track.longitude)] if track.HasField("latitude") else ["", ""]
        for number, value in zip(track.field_numbers, track.field_values, strict=True):
            kind = value.WhichOneof("value")
            text = str(value.bool_value).lower() if kind == "bool_value" else str(getattr(value, kind))
            cells.append(f'"{number}={text}"'.replace('"', '""')[1:-1] if '"' in text else f'"{number}={text}"')
        lines.append(",".join(cells))
    return "\n".join(lines).encode()


class CsvTracksTests(SynchronousTestCase):
    """
    The form of tracks.
    """

    def test_provides(self) -> None:
        """
        It is a plugin of the gateway's.
        """
        verifyObject(IEventCodec, CsvTracks())
        self.assertTrue(IPlugin.providedBy(CsvTracks()))

    def test_decode(self) -> None:
        """
        Positions, none, and a value of each type.
        """
        payload = (
            f"7,12\n{NOW},48.8566,-2.3522001,235=52,14=true,3=A,9=0.5\r\n"
            f'{NOW + 1},,,235=-1,"100=a, ""b""=c"\n\n{NOW + 2},0,0\n'
        )
        expected = TrackBatch(
            stream=7,
            first_index=12,
            tracks=[
                Track(
                    recorded_at=NOW,
                    latitude=488_566_000,
                    longitude=-23_522_001,
                    field_numbers=[235, 14, 3, 9],
                    field_values=[
                        Value(int_value=52),
                        Value(bool_value=True),
                        Value(string_value="A"),
                        Value(double_value=0.5),
                    ],
                ),
                Track(
                    recorded_at=NOW + 1,
                    field_numbers=[235, 100],
                    field_values=[Value(int_value=-1), Value(string_value='a, "b"=c')],
                ),
                Track(recorded_at=NOW + 2, latitude=0, longitude=0),
            ],
        )
        self.assertEqual(CsvTracks().decode(payload.encode()), (expected, 0))

    def test_empty(self) -> None:
        """
        No track, and no stream even.
        """
        self.assertEqual(CsvTracks().decode(b""), (TrackBatch(), 0))
        self.assertEqual(CsvTracks().decode(b"7,1"), (TrackBatch(stream=7, first_index=1), 0))

    def test_rejected(self) -> None:
        """
        What is none of it is rejected, with its line and without what stands there: it may be a position.
        """
        for payload, line in (
            ("7", 1),
            ("7,1,2", 1),
            ("7,-1", 1),
            (f"7,{2**64}", 1),
            ("7,\uff11", 1),
            ("7,1_0", 1),
            ("7, 1", 1),
            ("\n7,1", 1),
            (f"7,1\n{NOW}", 2),
            (f"7,1\n{NOW},48.1", 2),
            (f"7,1\n{NOW},48.1,", 2),
            (f"7,1\n{NOW},,2.1", 2),
            (f"7,1\n{NOW},48.1,2.1\nnow,48.1,2.1", 3),
            (f"7,1\n{2**63},48.1,2.1", 2),
            (f"7,1\n{NOW},nan,2.1", 2),
            (f"7,1\n{NOW},48.1e1,2.1", 2),
            (f"7,1\n{NOW},999,2.1", 2),
            (f"7,1\n{NOW},48.1,2.1,=3", 2),
            (f"7,1\n{NOW},48.1,2.1,speed=3", 2),
            (f"7,1\n{NOW},48.1,2.1,-1=3", 2),
            (f"7,1\n{NOW},48.1,2.1,{2**32}=3", 2),
            (f"7,1\n{NOW},48.1,2.1,8={2**63}", 2),
            (f'7,1\n{NOW},48.1,2.1,"8=3', 2),
        ):
            error = self.assertRaises(RejectedData, CsvTracks().decode, payload.encode())
            self.assertEqual((error.code, str(error)), ("DECODE", f"line {line} is none of a CSV of tracks"), payload)
        error = self.assertRaises(RejectedData, CsvTracks().decode, b"7,1\n\xff")
        self.assertEqual(error.code, "DECODE")

    @given(BATCHES)
    def test_roundTrip(self, batch: TrackBatch) -> None:
        """
        What the form can say arrives as it was.
        """
        self.assertEqual(CsvTracks().decode(csvOf(batch)), (batch, 0))

    @given(st.one_of(st.binary(), st.text().map(str.encode), st.text('7,1\n\r="-.').map(str.encode)))
    @example(b'"' + b"x" * 200_000)
    @example(b"7" * 5000 + b",1")
    def test_anyBytes(self, payload: bytes) -> None:
        """
        Any bytes are a batch, or rejected; nothing else.
        """
        for one in (payload, b"7,1\n" + payload):
            try:
                batch, _ = CsvTracks().decode(one)
            except RejectedData:
                continue
            self.assertIsInstance(batch, TrackBatch)

"""
Tests for L{binaryserver.transcode.privacy}, and for the events that are made by a policy.
"""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.records import PrivacyPolicy
from binaryserver.model import BoxKey, Record, StoredRecord
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.session.fingerprints import fingerprint
from binaryserver.transcode.cloudconnect import encodeEvent
from binaryserver.transcode.cloudconnect_layout import Kind
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import downlinkRejectRecord, rejectRecord
from binaryserver.transcode.labels import FieldLabels
from binaryserver.transcode.privacy import MAX_LATITUDE, MAX_LONGITUDE, PLACE_FIELDS, shownPeer, trackFilter
from binaryserver.transcode.tracks import RefusedTrack, TrackEncoder
from tests.transcode.test_tracks import BOX, NOW, Dictionary, makeTrack

ENVELOPE = Envelope(BOX, 77, 5123456789, "host-0", cloudnext_pb2.PROTOCOL_MD30)

values = st.one_of(
    st.builds(lambda value: Value(int_value=value), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda value: Value(bool_value=value), st.booleans()),
    st.builds(lambda value: Value(string_value=value), st.text(max_size=8)),
    st.builds(lambda value: Value(double_value=value), st.floats(allow_nan=False)),
    st.builds(lambda value: Value(bytes_value=value), st.binary(max_size=8)),
    st.just(Value()),
)
sint32 = st.integers(-(2**31), 2**31 - 1)


@st.composite
def anyTracks(draw: st.DrawFn) -> Track:
    """
    Whatever a box may send as a track, parsed.
    """
    track = Track(recorded_at=NOW - draw(st.integers(0, 10**9)))
    latitude = draw(st.none() | st.integers(-MAX_LATITUDE, MAX_LATITUDE) | sint32)
    longitude = draw(st.none() | st.integers(-MAX_LONGITUDE, MAX_LONGITUDE) | sint32)
    if latitude is not None:
        track.latitude = latitude
    if longitude is not None:
        track.longitude = longitude
    fields = draw(st.lists(st.tuples(st.integers(1, 60), values), max_size=8))
    track.field_numbers.extend(number for number, _ in fields)
    track.field_values.extend(value for _, value in fields)
    if draw(st.integers(0, 9)) == 0:
        track.field_numbers.append(3)
    unknown = draw(st.sampled_from([b"", b"\xa2\x01\x03abc", b"\xb8\x01\x07"]))
    return Track.FromString(track.SerializeToString() + unknown)


policies = st.builds(
    PrivacyPolicy,
    st.frozensets(st.integers(1, 60), max_size=10),
    st.none() | st.integers(-1, 7),
    st.booleans(),
)


def encode(
    tracks: list[Track], policy: PrivacyPolicy, fingerprints: list[int] | None = None, maxRecord: int = 1_000_000
) -> tuple[list[Record], list[RefusedTrack]]:
    """
    Encode a batch of stream 9 that begins at index 100; with fingerprints, a block.
    """
    encoder = TrackEncoder(ENVELOPE, FieldLabels(Dictionary(), BOX.account), maxRecord, policy)
    bodies, times = [track.SerializeToString() for track in tracks], [track.recorded_at for track in tracks]
    stream, first = (9, 100) if fingerprints is None else (0, 0)
    records, refused, _ = encoder.encode(tracks, bodies, times, stream, first, 0, NOW, fingerprints=fingerprints)
    return records, refused


def published(track: Track, policy: PrivacyPolicy) -> cloudnext_pb2.Event:
    """
    The event of one track.
    """
    ((record,), refused) = encode([track], policy)
    assert not refused, refused
    return cloudnext_pb2.Event.FromString(record.value)


class FilterTests(SynchronousTestCase):
    """
    L{binaryserver.transcode.privacy.TrackFilter}.
    """

    def test_noPolicyNoFilter(self) -> None:
        """
        Who has no policy has his tracks published as they came.
        """
        self.assertIsNone(trackFilter(PrivacyPolicy()))
        track = makeTrack()
        self.assertEqual(published(track, PrivacyPolicy()).track, track)

    def test_droppedFields(self) -> None:
        """
        Numbers, values and labels of dropped fields go; the others keep their order.
        """
        event = published(makeTrack(), PrivacyPolicy(frozenset({14, 200})))
        self.assertEqual(list(event.track.field_numbers), [8, 4999])
        self.assertEqual(list(event.track.field_values), [Value(int_value=12_000), Value(string_value="x")])
        self.assertEqual([label.name for label in event.field_labels], ["GPS_SPEED", ""])
        self.assertEqual((event.track.latitude, event.track.longitude), (488_566_000, -23_522_000))

    def test_coarsened(self) -> None:
        """
        To the nearest point of the grid, on either side of the equator and the meridian.
        """
        cases = {
            6: (488_566_430, -23_522_520),
            5: (488_566_400, -23_522_500),
            2: (488_600_000, -23_500_000),
            0: (490_000_000, -20_000_000),
        }
        for digits, position in cases.items():
            track = Track(recorded_at=NOW, latitude=488_566_426, longitude=-23_522_524)
            made = published(track, PrivacyPolicy(positionDigits=digits)).track
            self.assertEqual((made.latitude, made.longitude), position, digits)

    def test_atTheEdgeOfTheWorld(self) -> None:
        """
        Rounding does not leave the range of positions.
        """
        for digits in range(8):
            for sign in (-1, 1):
                track = Track(recorded_at=NOW, latitude=sign * MAX_LATITUDE, longitude=sign * MAX_LONGITUDE)
                made = published(track, PrivacyPolicy(positionDigits=digits)).track
                self.assertEqual((made.latitude, made.longitude), (sign * MAX_LATITUDE, sign * MAX_LONGITUDE))
                track = Track(recorded_at=NOW, latitude=sign * 899_999_999, longitude=sign * 1_799_999_999)
                published(track, PrivacyPolicy(positionDigits=digits))

    def test_withoutPosition(self) -> None:
        """
        Also what tells of the place beside it goes; the speed does not.
        """
        track = makeTrack()
        for number in sorted(PLACE_FIELDS):
            track.field_numbers.append(number)
            track.field_values.append(Value(int_value=number))
        for digits in (-1, 0, 6):
            made = published(track, PrivacyPolicy(positionDigits=digits)).track
            self.assertEqual(made.HasField("latitude"), digits >= 0)
            self.assertEqual(made.HasField("longitude"), digits >= 0)
            self.assertEqual(list(made.field_numbers), [8, 14, 4999])
        whole = published(track, PrivacyPolicy(positionDigits=7)).track
        self.assertEqual(whole, track)

    def test_unknownFieldsGo(self) -> None:
        """
        What no policy can judge is not published, of the track nor of a value.
        """
        value = Value.FromString(Value(int_value=1).SerializeToString() + b"\xa2\x01\x03abc")
        track = Track(recorded_at=NOW, field_numbers=[8], field_values=[value])
        raw = track.SerializeToString() + b"\xa2\x01\x03abc"
        for policy in (PrivacyPolicy(isPseudonymous=True), PrivacyPolicy(positionDigits=3)):
            ((record,), _) = encode([Track.FromString(raw)], policy)
            self.assertNotIn(b"abc", record.value)

    def test_refusedForWhatTheyWere(self) -> None:
        """
        A policy neither mends nor hides what is wrong with a track, and positions in the batch stay.
        """
        north, half, lonely = makeTrack(), makeTrack(), makeTrack()
        north.latitude = MAX_LATITUDE + 1
        half.ClearField("longitude")
        lonely.field_numbers.append(14)
        tracks = [makeTrack(), Track(recorded_at=5), north, half, lonely, makeTrack()]
        records, refused = encode(tracks, PrivacyPolicy(frozenset({14}), 0))
        self.assertEqual(
            [(one.position, one.code) for one in refused],
            [(1, "BAD_TIME"), (2, "BAD_POSITION"), (3, "BAD_POSITION"), (4, "BAD_FIELDS")],
        )
        indices = [cloudnext_pb2.Event.FromString(record.value).index for record in records]
        self.assertEqual(indices, [100, 105])

    def test_theBoxesOwnIsLeftAlone(self) -> None:
        """
        The tracks that are judged and remembered are not changed.
        """
        track = makeTrack()
        before = track.SerializeToString()
        published(track, PrivacyPolicy(frozenset({8}), 0, True))
        self.assertEqual(track.SerializeToString(), before)

    @settings(max_examples=300, deadline=None)
    @given(anyTracks(), policies)
    def test_anyTrackByAnyPolicy(self, track: Track, policy: PrivacyPolicy) -> None:
        """
        Whatever is published keeps to the policy, is what came otherwise, and is refused exactly if it would be without
        one.
        """
        plain, refusedPlainly = encode([track], PrivacyPolicy())
        records, refused = encode([track], policy)
        self.assertEqual([one.code for one in refused], [one.code for one in refusedPlainly])
        assume(records)
        came = cloudnext_pb2.Event.FromString(plain[0].value)
        event = cloudnext_pb2.Event.FromString(records[0].value)
        self.assertEqual((records[0].key, records[0].headers), (plain[0].key, plain[0].headers))
        self.assertEqual((event.id, event.index, event.event_time), (came.id, came.index, came.event_time))
        self.assertEqual(len(event.field_labels), len(event.track.field_numbers))
        digits = 7 if policy.positionDigits is None else policy.positionDigits
        dropped = policy.droppedFields | (PLACE_FIELDS if digits < 7 else frozenset())
        kept = [
            (number, value)
            for number, value in zip(track.field_numbers, track.field_values, strict=True)
            if number not in dropped
        ]
        self.assertEqual(list(zip(event.track.field_numbers, event.track.field_values, strict=True)), kept)
        self.assertEqual(event.track.HasField("latitude"), track.HasField("latitude") and digits >= 0)
        if event.track.HasField("latitude"):
            step = 10 ** (7 - digits)
            self.assertEqual((event.track.latitude % step, event.track.longitude % step), (0, 0))
            self.assertLessEqual(abs(event.track.latitude - track.latitude), step // 2)
            self.assertLessEqual(abs(event.track.longitude - track.longitude), step // 2)


class NameTests(SynchronousTestCase):
    """
    What names tracks without an index.
    """

    def test_nothingOfWhatWasTakenOut(self) -> None:
        """
        Tracks that are published alike have one name and one id, wherever they were: from neither can it be found out
        by trying. The fingerprints that they are known by in the gateway differ.
        """
        tracks = [
            Track(recorded_at=NOW - 1000, latitude=488_566_000 + north, longitude=23_522_000)
            for north in (0, 100, 4_000)
        ]
        numbers = [fingerprint(track.SerializeToString()) for track in tracks]
        self.assertEqual(len(set(numbers)), 3)
        records, _ = encode(tracks, PrivacyPolicy(positionDigits=2), numbers)
        names = {dict(record.headers)["ce_id"] for record in records}
        self.assertEqual(len(names), 1)
        self.assertEqual(len({record.value for record in records}), 1)
        (name,) = names
        for number in numbers:
            self.assertNotIn(b"%016x" % number, name)

    def test_aRepeatHasTheSame(self) -> None:
        """
        A track that is published again, in whatever block, has the name that it had.
        """
        tracks = [makeTrack(NOW - 1000 * age) for age in range(3)]
        numbers = [fingerprint(track.SerializeToString()) for track in tracks]
        policy = PrivacyPolicy(frozenset({8}), 3)
        first, _ = encode(tracks, policy, numbers)
        again, _ = encode(tracks[1:], policy, numbers[1:])
        self.assertEqual(
            [dict(one.headers)["ce_id"] for one in first[1:]], [dict(one.headers)["ce_id"] for one in again]
        )
        self.assertEqual(len({dict(one.headers)["ce_id"] for one in first}), 3)


class CloudConnectTests(SynchronousTestCase):
    """
    The other cloud's form of what is published.
    """

    def test_nothingGoesAround(self) -> None:
        """
        The record that it is made of is all that it can tell.
        """
        track = Track(recorded_at=NOW, latitude=488_566_426, longitude=-23_522_524)
        track.field_numbers.extend((238, 8))
        track.field_values.extend((Value(string_value="VF1SECRETVIN"), Value(int_value=1)))
        ((record,), _) = encode([track], PrivacyPolicy(frozenset({238}), 1))
        packed = encodeEvent(Kind.track, record, True)
        self.assertNotIn(b"VF1SECRETVIN", packed)
        self.assertNotIn(track.SerializeToString()[:16], packed)
        self.assertIn(Track(latitude=489_000_000, longitude=-24_000_000).SerializeToString(), packed)


class RejectTests(SynchronousTestCase):
    """
    What could not be taken.
    """

    def reject(self, policy: PrivacyPolicy, reason: str = "why") -> cloudnext_pb2.Reject:
        """
        A payload of a box.
        """
        record = rejectRecord(ENVELOPE, 9, "md30:t", "DECODE", reason, b"48.8566,2.3522", NOW, 4096, policy)
        return cloudnext_pb2.Reject.FromString(record.value)

    def test_payloadIsLeftOut(self) -> None:
        """
        Its size and what was wrong with it are told, and that it is not there; however long the reason is.
        """
        for policy in (
            PrivacyPolicy(frozenset({9})),
            PrivacyPolicy(positionDigits=3),
            PrivacyPolicy(isPseudonymous=True),
        ):
            for reason in ("why", "why" * 1000):
                reject = self.reject(policy, reason)
                self.assertEqual((reject.payload, reject.payload_size, reject.code), (b"", 14, "DECODE"))
                self.assertTrue(reject.reason.startswith("why"))
                self.assertTrue(reject.reason.endswith("(its payload is left out by the account's privacy policy)"))

    def test_withoutPolicyItIsThere(self) -> None:
        """
        As it came.
        """
        reject = self.reject(PrivacyPolicy())
        self.assertEqual((reject.payload, reject.payload_size, reject.reason), (b"48.8566,2.3522", 14, "why"))

    def test_ofTheDownlink(self) -> None:
        """
        Neither bytes nor key, which both may name a box by its asset, come back.
        """
        came = StoredRecord("downlink", 0, 7, NOW, b"acme/350000000000001", b"for 350000000000001")
        record = downlinkRejectRecord(came, BoxKey("acme", ""), "s/0/7", "BAD_ASSET", "why", "host-0", NOW, 4096, True)
        reject = cloudnext_pb2.Reject.FromString(record.value)
        self.assertEqual((record.key, reject.account, reject.asset), (b"acme/", "acme", ""))
        self.assertEqual((reject.payload, reject.payload_size), (b"", 19))
        self.assertNotIn(b"350000000000001", record.value)


class PeerTests(SynchronousTestCase):
    """
    L{shownPeer}.
    """

    def test_onlyOfWhoIsNamed(self) -> None:
        """
        Who has a pseudonym has no address downstream.
        """
        self.assertEqual(shownPeer(PrivacyPolicy(positionDigits=3), "192.0.2.7"), "192.0.2.7")
        self.assertEqual(shownPeer(PrivacyPolicy(isPseudonymous=True), "192.0.2.7"), "")

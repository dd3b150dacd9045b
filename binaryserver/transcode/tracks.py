"""
A box's tracks to the cloud's events: C{md30.v1.TrackBatch} to one C{cloudnext.v1.Event} a track.

The event carries the track in the box's own wire form, validated by a parse, and beside it the names and types of its
fields (L{binaryserver.transcode.labels}). What cannot be taken is told apart by track: a box with one absurd record
must not lose the others of the batch. Tracks of accounts with a privacy policy are rebuilt first, as it says
(L{binaryserver.transcode.privacy}).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from binaryserver.directory.records import PrivacyPolicy
from binaryserver.ids import streamSalt
from binaryserver.model import EPOCH_2010_MS, Record
from binaryserver.proto.md30_pb2 import Track
from binaryserver.transcode.envelope import CONTENT_TYPE, MILLISECONDS, Envelope, cloudTime, seconds
from binaryserver.transcode.labels import FieldLabels
from binaryserver.transcode.privacy import MAX_LATITUDE, MAX_LONGITUDE, publishedFingerprint, trackFilter
from binaryserver.transcode.wire import (
    FIXED,
    KEY_EVENT_TIME,
    KEY_ID,
    KEY_INDEX,
    KEY_INGEST_TIME,
    KEY_STREAM,
    MISSING_BEFORE,
    NAME_AND_TIME,
    TRACK,
    UNINDEXED,
    varint,
)

MAX_TRACKS = 4096
"""The most tracks a batch may have: what is taken at once delays every other link of the process."""

MAX_FUTURE_MS = 86_400_000
"""How far ahead of the gateway's clock a recorded time may be."""

_MIN_LATITUDE, _MAX_LATITUDE = -MAX_LATITUDE, MAX_LATITUDE
_MIN_LONGITUDE, _MAX_LONGITUDE = -MAX_LONGITUDE, MAX_LONGITUDE

# What a record carries beside its value: key and headers.
_RECORD_OVERHEAD = 512

# With the other headers all that CloudEvents ask for but C{ce_specversion}, which costs half a µs a record.
_TYPE = ("ce_type", b"cloudnext.v1.Track")
_KNOWN_HEADS = 2048
_TRACK_HEADS = [TRACK + varint(length) for length in range(_KNOWN_HEADS)]
"""Key and length of the track, by its length."""


_NO_POLICY = PrivacyPolicy()


class RefusedTrack(NamedTuple):
    """
    A track that is not published.

    @ivar position: its position in the batch, from 0
    @ivar code: why, a code of docs/md30.md
    """

    position: int
    code: str
    reason: str


class TrackEncoder:
    """
    Makes the records of one link's tracks.
    """

    __slots__ = ("_envelope", "_filter", "_labels", "_maxValue", "_salt", "_stream", "_streamPrefix")

    def __init__(
        self, envelope: Envelope, labels: FieldLabels, maxRecord: int, policy: PrivacyPolicy = _NO_POLICY
    ) -> None:
        """
        @param maxRecord: bytes, the most that one record may have
        @param policy: what of the tracks is published
        """
        self._filter = trackFilter(policy)
        self._envelope = envelope
        self._labels = labels
        self._maxValue = maxRecord - _RECORD_OVERHEAD
        self._stream = -1
        self._salt = 0
        self._streamPrefix = b""

    def encode(
        self,
        tracks: Sequence[Track],
        bodies: Sequence[bytes],
        times: Sequence[int],
        stream: int,
        firstIndex: int,
        missingBefore: int,
        nowMs: int,
        skip: int = 0,
        fingerprints: Sequence[int] | None = None,
    ) -> tuple[list[Record], list[RefusedTrack], int]:
        """
        Make the records of a batch.

        @param bodies: each track's bytes
        @param times: each track's C{recorded_at}, Unix ms
        @param stream: 0 for a batch without an index
        @param firstIndex: the index of C{tracks[0]}; without an index, how many tracks the link has brought before
        @param missingBefore: how many indices the box skipped before the first track taken
        @param nowMs: the ingest time, Unix ms
        @param skip: how many tracks at the beginning are duplicates
        @param fingerprints: of each track of a batch without an index: what names it instead; with a policy it is
            L{publishedFingerprint}
        @return: records, what was refused, and the records' bytes in all
        """
        if stream != self._stream:
            self._stream = stream
            if stream:
                self._salt = streamSalt(stream)
                self._streamPrefix = b"%b%d/" % (self._envelope.idPrefix, stream)
            else:
                # Without an index an event is named by its link and its position on it, so that no two share an id.
                self._salt = streamSalt(self._envelope.connectionId)
                self._streamPrefix = b"%blink/%d/" % (self._envelope.idPrefix, self._envelope.connectionId)
        numbers: Sequence[int] = range(firstIndex, firstIndex + len(tracks))
        name, prefix, salt = b"%b%d", self._streamPrefix, self._salt
        if fingerprints is not None:
            numbers = fingerprints
            name, prefix, salt = b"%b%016x", self._envelope.idPrefix + b"md21/", 0
        records: list[Record] = []
        refused: list[RefusedTrack] = []
        size = 0
        latest = nowMs + MAX_FUTURE_MS
        key, source = self._envelope.key, self._envelope.source
        # What is the same for all of them; the id's value comes next.
        head = b"".join(
            (self._envelope.head, FIXED.pack(KEY_INGEST_TIME, nowMs), FIXED.pack(KEY_STREAM, stream), bytes((KEY_ID,)))
        )
        maxValue, trackHeads = self._maxValue, _TRACK_HEADS
        knownLabels, makeLabels, knownSeconds = self._labels.get, self._labels.make, seconds.get
        pack, join, newRecord, append = NAME_AND_TIME.pack, b"".join, tuple.__new__, records.append
        extra = b"" if stream else UNINDEXED
        if missingBefore:
            extra += MISSING_BEFORE + varint(missingBefore)
        if skip:
            tracks, bodies, times, numbers = tracks[skip:], bodies[skip:], times[skip:], numbers[skip:]
        if self._filter is not None:
            tracks, bodies = self._filter.publishedAll(tracks)
            if fingerprints is not None:
                numbers = [publishedFingerprint(body) for body in bodies]
        columnsBefore: list[int] | None = None
        labels = b""
        for track, body, recordedAt, number in zip(tracks, bodies, times, numbers, strict=True):
            latitude = track.latitude
            longitude = track.longitude
            if not EPOCH_2010_MS <= recordedAt <= latest:
                reason = f"recorded_at {recordedAt} is not a plausible time"
                refused.append(RefusedTrack(skip + len(records) + len(refused), "BAD_TIME", reason))
                continue
            if not (_MIN_LATITUDE <= latitude <= _MAX_LATITUDE and _MIN_LONGITUDE <= longitude <= _MAX_LONGITUDE) or (
                not (latitude and longitude) and track.HasField("latitude") != track.HasField("longitude")
            ):
                reason = "latitude and longitude are no position"
                refused.append(RefusedTrack(skip + len(records) + len(refused), "BAD_POSITION", reason))
                continue
            columns = track.field_numbers[:]
            if len(track.field_values) != len(columns):
                reason = "field_numbers and field_values differ in their lengths"
                refused.append(RefusedTrack(skip + len(records) + len(refused), "BAD_FIELDS", reason))
                continue
            if columns != columnsBefore:
                # Those of one box seldom differ.
                columnsBefore = columns
                labels = knownLabels(tuple(columns)) or makeLabels(tuple(columns))
            length = len(body)
            value = join(
                (
                    head,
                    pack(
                        # trackId, inlined
                        (recordedAt - EPOCH_2010_MS) << 22 | (number * 2654435761 + salt) >> 10 & 0x3FFFFF,
                        KEY_EVENT_TIME,
                        recordedAt,
                        KEY_INDEX,
                        number if stream else 0,
                    ),
                    extra,
                    trackHeads[length] if length < _KNOWN_HEADS else TRACK + varint(length),
                    body,
                    labels,
                )
            )
            length = len(value)
            if length > maxValue:
                reason = f"its event has {length} bytes"
                refused.append(RefusedTrack(skip + len(records) + len(refused), "RECORD_TOO_LARGE", reason))
                continue
            size += length
            second = knownSeconds(recordedAt // 1000)
            time = cloudTime(recordedAt) if second is None else second + MILLISECONDS[recordedAt % 1000]
            append(
                newRecord(
                    Record,
                    (
                        key,
                        value,
                        [
                            _TYPE,
                            source,
                            CONTENT_TYPE,
                            ("ce_id", name % (prefix, number)),
                            ("ce_time", time),
                        ],
                    ),
                )
            )
            if missingBefore:
                missingBefore, extra = 0, b""
        return records, refused, size

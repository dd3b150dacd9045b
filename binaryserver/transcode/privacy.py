"""
What of a box's data goes downstream, by its account's L{PrivacyPolicy<binaryserver.directory.records.PrivacyPolicy>}.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from binaryserver.directory.records import PrivacyPolicy
from binaryserver.proto.md30_pb2 import Track

ALL_DIGITS: Final = 7
"""Decimals of a degree that positions have: they are counted in 1e-7 degrees."""

MAX_LATITUDE: Final = 900_000_000
MAX_LONGITUDE: Final = 1_800_000_000
"""1e-7 degrees. Both lie on every grid, so that no position is rounded beyond them."""

PLACE_FIELDS: Final = frozenset({9, 10, 53})
"""
GPS_DIR, GPS_ALTITUDE and AREA_LIST: fields that tell more of the place than a coarse position does. Headings give a
trip its shape, by which it can be found on a map; an altitude tells places apart that are near each other; an area may
be smaller than the grid.
"""

LEFT_OUT: Final = " (its payload is left out by the account's privacy policy)"
"""What the reason of a reject ends with."""


class TrackFilter:
    """
    Makes tracks as they are published: rebuilt from what is known of them and allowed. What a newer box may say beside
    the fields of C{md30.v1.Track} goes: no policy can judge it.
    """

    __slots__ = ("_dropped", "_half", "_hasPosition", "_step")

    def __init__(self, policy: PrivacyPolicy) -> None:
        """
        @param policy: one that says something
        """
        digits = ALL_DIGITS if policy.positionDigits is None else policy.positionDigits
        self._hasPosition = digits >= 0
        self._step = 10 ** (ALL_DIGITS - max(0, digits))
        self._half = self._step // 2
        self._dropped = policy.droppedFields | PLACE_FIELDS if digits < ALL_DIGITS else policy.droppedFields

    def published(self, track: Track) -> Track:
        """
        A track as it may be published. What the encoder is to refuse it gets as it came, so that it is refused for what
        it was.
        """
        numbers, values = track.field_numbers, track.field_values
        isPlaced = track.HasField("latitude")
        latitude, longitude = track.latitude, track.longitude
        if (
            len(numbers) != len(values)
            or isPlaced is not track.HasField("longitude")
            or abs(latitude) > MAX_LATITUDE
            or abs(longitude) > MAX_LONGITUDE
        ):
            return track
        made = Track()
        made.CopyFrom(track)
        if isPlaced and self._hasPosition:
            step, half = self._step, self._half
            made.latitude = (latitude + half) // step * step
            made.longitude = (longitude + half) // step * step
        elif isPlaced:
            made.ClearField("latitude")
            made.ClearField("longitude")
        dropped = self._dropped
        if not dropped.isdisjoint(numbers):
            # Rebuilt, not deleted one by one, which would take a hostile track the square of its length.
            kept = [at for at, number in enumerate(numbers) if number not in dropped]
            made.ClearField("field_numbers")
            made.ClearField("field_values")
            made.field_numbers.extend([numbers[at] for at in kept])
            made.field_values.extend([values[at] for at in kept])
        made.DiscardUnknownFields()
        return made

    def publishedAll(self, tracks: Sequence[Track]) -> tuple[list[Track], list[bytes]]:
        """
        Tracks as they may be published, and their bytes.
        """
        made = [self.published(track) for track in tracks]
        return made, [track.SerializeToString() for track in made]


def trackFilter(policy: PrivacyPolicy) -> TrackFilter | None:
    """
    What tracks go through; L{None}: they are published as they came.
    """
    return None if policy.isNone else TrackFilter(policy)


def publishedFingerprint(body: bytes) -> int:
    """
    What names a track without an index, of 64 bits. That of the track as it came would give away what was taken out of
    it: whoever knows the rest needs only try the positions. Tracks that are published alike have the same.

    @param body: bytes, the track as it is published
    """
    return int.from_bytes(blake2b(body, digest_size=8).digest(), "big")


def shownPeer(policy: PrivacyPolicy, peer: str) -> str:
    """
    The address of a box's end of the link, as presences tell it: an address names a person as an asset does.
    """
    return "" if policy.isPseudonymous else peer

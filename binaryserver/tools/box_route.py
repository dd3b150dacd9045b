"""
The drives of simulated vehicles.

A L{Route} is one closed round trip of a vehicle, a point a second, worked out once and shared by many boxes: each
starts at another second of it and drives round after round. What a point holds but for the odometer is serialized
when the route is made, so that a track costs little more than the time it was recorded at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache, cached_property
from random import Random
from typing import Final, NamedTuple

from binaryserver.md21.values import FieldValue

FIELD_NUMBERS: Final = (3, 8, 9, 14, 55, 56, 73, 235, 236, 24)
"""
The fields of every track, by their numbers in the field dictionary: GPRMC_VALID, GPS_SPEED (1/1000 knot), GPS_DIR
(1/100 degree), DIO_IGNITION, GPS_FIXED_SAT_NUM, MVT_STATE, MDI_OBD_FUEL_LEVEL (0.1 L), MDI_OBD_SPEED (km/h),
MDI_OBD_RPM (1/min); and last, as it alone differs from round to round, ODO_FULL (m).
"""
ODOMETER: Final = FIELD_NUMBERS[-1]
ROUTES: Final = 8
"""How many different routes there are."""
FUEL_TANK: Final = 45.0
"""L"""
EARTH_RADIUS: Final = 6_371_000.0
"""m"""
KNOT: Final = 0.514444
"""m/s"""
_TOWNS: Final = (
    (48.8566, 2.3522),
    (45.7640, 4.8357),
    (43.2965, 5.3698),
    (50.8503, 4.3517),
    (52.5200, 13.4050),
    (41.9028, 12.4964),
    (40.4168, -3.7038),
    (51.5074, -0.1278),
)


class Point(NamedTuple):
    """
    Where a vehicle is and how it fares at one second of its round.

    @ivar latitude: 1e-7 degrees; L{None} along with C{longitude} where it has no fix
    @ivar longitude: 1e-7 degrees
    @ivar speed: m/s
    @ivar heading: degrees clockwise from north, 0 to 360
    @ivar fuel: L
    @ivar odometer: m since the start of the round
    """

    latitude: int | None
    longitude: int | None
    speed: float
    heading: float
    ignition: bool
    satellites: int
    fuel: float
    rpm: int
    odometer: int


class BlockPoint(NamedTuple):
    """
    What a track of MD21 has at a point, but for its time and odometer.

    @ivar latitude: 1e-5 degrees, or L{None}, as C{longitude}
    @ivar before: the fields that stand before the odometer, in the order of their numbers
    @ivar after: those behind it
    """

    latitude: int | None
    longitude: int | None
    before: tuple[tuple[int, FieldValue], ...]
    after: tuple[tuple[int, FieldValue], ...]


def varint(number: int) -> bytes:
    """
    @param number: not negative
    @return: C{number} as protobuf's varint
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def zigzag(number: int) -> int:
    """
    @return: C{number} as protobuf's sint32 and sint64 map it, before it becomes a varint
    """
    return number << 1 if number >= 0 else -number * 2 - 1


class Route:
    """
    One round trip.

    @ivar points: what the vehicle does, a point a second
    @ivar length: m, of a round
    @ivar protoPoints: bytes each, an C{md30.v1.Track} without C{recorded_at} and without the value of its last field
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)
        self.length = self.points[-1].odometer
        self.protoPoints = tuple(map(_protoPoint, self.points))

    @cached_property
    def jsonPoints(self) -> tuple[str, ...]:
        """
        str each, as C{protoPoints} in protobuf's JSON: what stands between the time and the value of the last field.
        """
        return tuple(map(_jsonPoint, self.points))

    @cached_property
    def blockPoints(self) -> tuple[BlockPoint, ...]:
        """
        As C{points}, in MD21's values.
        """
        return tuple(map(_blockPoint, self.points))

    def odometer(self, place: int) -> int:
        """
        @param place: s of driving since the vehicle was new
        @return: m
        """
        rounds, second = divmod(place, len(self.points))
        return rounds * self.length + self.points[second].odometer


def _fieldValues(point: Point) -> tuple[str | int | bool, ...]:
    """
    The values of L{FIELD_NUMBERS} but for the last.
    """
    return (
        "V" if point.latitude is None else "A",
        round(point.speed / KNOT * 1000),
        round(point.heading * 100) % 36000,
        point.ignition,
        point.satellites,
        point.speed > 0,
        round(point.fuel * 10),
        round(point.speed * 3.6),
        point.rpm,
    )


def _protoPoint(point: Point) -> bytes:
    parts = []
    if point.latitude is not None and point.longitude is not None:
        parts += [b"\x10", varint(zigzag(point.latitude)), b"\x18", varint(zigzag(point.longitude))]
    numbers = b"".join(map(varint, FIELD_NUMBERS))
    parts += [b"\x22", varint(len(numbers)), numbers]
    for value in _fieldValues(point):
        if isinstance(value, bool):
            body = b"\x10\x01" if value else b"\x10\x00"
        elif isinstance(value, int):
            body = b"\x08" + varint(zigzag(value))
        else:
            body = b"\x1a" + varint(len(value)) + value.encode()
        parts += [b"\x2a", varint(len(body)), body]
    return b"".join(parts)


def _blockPoint(point: Point) -> BlockPoint:
    fields = sorted(zip(FIELD_NUMBERS, _fieldValues(point), strict=False))
    return BlockPoint(
        None if point.latitude is None else round(point.latitude / 100),
        None if point.longitude is None else round(point.longitude / 100),
        tuple(field for field in fields if field[0] < ODOMETER),
        tuple(field for field in fields if field[0] > ODOMETER),
    )


def _jsonPoint(point: Point) -> str:
    values: list[dict[str, object]] = []
    for value in _fieldValues(point):
        if isinstance(value, bool):
            values.append({"boolValue": value})
        elif isinstance(value, int):
            values.append({"intValue": str(value)})
        else:
            values.append({"stringValue": value})
    known = {"latitude": point.latitude, "longitude": point.longitude} if point.latitude is not None else {}
    text = json.dumps({**known, "fieldNumbers": FIELD_NUMBERS, "fieldValues": values}, separators=(",", ":"))
    return text[1:-2]  # without the braces and the end of the list, where the last value goes


@cache
def route(number: int) -> Route:
    """
    @param number: any; there are L{ROUTES} of them
    @return: the same route for the same number, always
    """
    if number >= ROUTES:
        return route(number % ROUTES)
    return Route(_drive(Random(number), *_TOWNS[number]))


def _drive(random: Random, latitude: float, longitude: float) -> list[Point]:
    """
    Drive round a town: between eight corners, with a light to stop at here and there, a tunnel, an errand with the
    engine off half way, and the pump at the end.
    """
    corners = [(random.uniform(1500, 4000), 2 * math.pi * (turn + random.uniform(-0.3, 0.3)) / 8) for turn in range(8)]
    places = [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in corners]
    tunnel = random.randrange(1, 8)
    points: list[Point] = []
    fuel = FUEL_TANK
    travelled = 0.0

    def note(x: float, y: float, speed: float, heading: float, ignition: bool, covered: bool) -> None:
        nonlocal fuel
        if ignition:
            fuel -= 0.0003 + speed * 0.00008
        points.append(
            Point(
                None if covered else round((latitude + math.degrees(y / EARTH_RADIUS)) * 1e7),
                None
                if covered
                else round((longitude + math.degrees(x / EARTH_RADIUS / math.cos(math.radians(latitude)))) * 1e7),
                speed,
                heading,
                ignition,
                0 if covered else random.randrange(7, 13),
                fuel,
                round(800 + speed * 110 + random.uniform(0, 60)) if ignition else 0,
                round(travelled),
            )
        )

    for leg, (here, there) in enumerate(zip(places, places[1:] + places[:1], strict=True)):
        length = math.dist(here, there)
        heading = math.degrees(math.atan2(there[0] - here[0], there[1] - here[1])) % 360
        limit = random.choice((8.3, 13.9, 13.9, 19.4, 25.0))
        done = speed = 0.0
        while done < length:
            # Speeds up by 2 m/s a second, and brakes in time to turn the corner at a crawl.
            speed = max(2.0, min(speed + 2.0, limit + random.uniform(-0.7, 0.3), math.sqrt(3.0 * (length - done))))
            speed = min(speed, length - done)
            done += speed
            travelled += speed
            part = done / length
            x, y = (a + (b - a) * part for a, b in zip(here, there, strict=True))
            note(x, y, speed, heading, True, leg == tunnel and 0.4 < part < 0.6)
        for _ in range(random.choice((0, 10, 25)) if leg != 3 else 15):
            note(*there, 0.0, heading, True, False)
        if leg == 3:
            for _ in range(120):
                note(*there, 0.0, heading, False, False)
    for second in range(60):
        # The pump fills up again what the round took: engine off.
        fuel += (FUEL_TANK - fuel) / (60 - second)
        note(*places[0], 0.0, points[-1].heading, False, False)
    return points

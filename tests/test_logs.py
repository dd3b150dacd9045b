"""
What the gateway logs, at any level: no position, no secret, no payload (G8).
"""

from __future__ import annotations

import json
from typing import cast

from argon2 import PasswordHasher
from google.protobuf.json_format import MessageToDict
from twisted.internet.defer import Deferred, succeed
from twisted.logger import ILogObserver, LogEvent, Logger, eventAsJSON, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.directory.records import Account, Box, PrivacyPolicy
from binaryserver.md21 import values
from binaryserver.model import BoxKey, StoredRecord
from binaryserver.proto import md30_pb2
from binaryserver.proto.md30_pb2 import Track, TrackBatch, Value
from tests import harness
from tests.admission.handdirectory import HandDirectory
from tests.downlink.world import message, subscribe
from tests.harness import ASSET, NOW_MS, publish, text, varint
from tests.md21.world import Md21Box, Md21World, makeHeader

RIGHT, WRONG = b"right-horse-battery", b"wrong-horse-battery"
PAYLOAD = b"opaque-payload-bytes"
FIELD = "field-of-a-driver"
WILL = b"will-payload-bytes"
LATITUDE, LONGITUDE = 487_654_321, 23_456_789

SECRETS = (
    *(one.decode() for one in (RIGHT, WRONG, PAYLOAD, WILL)),
    FIELD,
    # As MD30, MD21 and people write them.
    str(LATITUDE),
    str(LONGITUDE),
    "4876543",
    "2345678",
    "48.76",
    "2.3456",
)


class Guarded(HandDirectory):
    """
    One account, C{dev}, whose boxes have one secret.
    """

    defaultAccount = "dev"

    def __init__(self, policy: PrivacyPolicy) -> None:
        hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(RIGHT)
        HandDirectory.__init__(self, Account("dev", secretHash=hashed, privacy=policy))

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        return succeed(Box(account, asset))


def makeTrack(number: int) -> Track:
    """
    A track that must not be in any log.
    """
    return Track(
        recorded_at=NOW_MS - 60_000 + number,
        latitude=LATITUDE,
        longitude=LONGITUDE,
        field_numbers=[27],
        field_values=[Value(string_value=FIELD)],
    )


def batch(first: int, *tracks: Track) -> TrackBatch:
    """
    Some, or one.
    """
    return TrackBatch(stream=9, first_index=first, tracks=tracks or (makeTrack(first),))


def shown(event: LogEvent) -> str:
    """
    All that any observer could make of an event: its text with tracebacks, its JSON, and its values.
    """
    parts = [eventAsText(event, includeTraceback=True), eventAsJSON(event)]
    for value in event.values():
        parts.append(f"{value!r} {value}")
        if isinstance(value, Failure):
            parts += [value.getTraceback(detail="verbose"), value.getTraceback(detail="brief")]
    return "\n".join(parts)


class LoggedCase(SynchronousTestCase):
    """
    Keeps what is logged.
    """

    def setUp(self) -> None:
        """
        From here on.
        """
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def found(self, secrets: tuple[str, ...] = SECRETS) -> list[tuple[str, str]]:
        """
        Those of them that are in what was logged, and where.
        """
        return [
            (secret, str(event.get("log_format")))
            for event in self.events
            for secret in secrets
            if secret in shown(event)
        ]

    def formats(self) -> set[str]:
        """
        The formats that were logged.
        """
        return {str(event.get("log_format")) for event in self.events}


class CheckTests(LoggedCase):
    """
    What these tests look with.
    """

    def test_finds(self) -> None:
        """
        In a text, in a value that the text does not show, and in a failure's words, whatever the level.
        """
        log = Logger()
        log.debug("at {place}", place=LATITUDE)
        log.info("nothing to see", connect=("350000000000001", RIGHT))
        log.failure("unforeseen", Failure(KeyError(PAYLOAD)))
        self.flushLoggedErrors(KeyError)
        self.assertEqual(
            {(secret, format_) for secret, format_ in self.found()},
            {
                (str(LATITUDE), "at {place}"),
                ("4876543", "at {place}"),
                (RIGHT.decode(), "nothing to see"),
                (PAYLOAD.decode(), "unforeseen"),
            },
        )

    def test_tracebacksShowNoVariables(self) -> None:
        """
        What a frame holds is in no failure that is logged.
        """

        def deep(track: Track, secret: bytes) -> None:
            raise ZeroDivisionError("by the test")

        try:
            deep(makeTrack(0), bytes(RIGHT))
        except ZeroDivisionError:
            Logger().failure("unforeseen")
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(self.found(), [])
        self.assertIn("unforeseen", self.formats())


class GatewayTests(LoggedCase):
    """
    A whole gateway, with boxes of both protocols that do right and wrong.
    """

    def connect(self, secret: bytes | None, asset: str = ASSET, will: bytes | None = None) -> harness.Box:
        """
        An MD30 box that says who it is.
        """
        flags = 0x02 | (0x80 | 0x40 if secret is not None else 0) | (0x04 if will is not None else 0)
        body = b"\x00\x04MQTT\x04" + bytes((flags, 0, 0)) + text(asset)
        if will is not None:
            body += text("w") + text(will.decode())
        if secret is not None:
            body += text("dev") + text(secret.decode())
        box = harness.Box(self.world, asset)
        box.send(b"\x10" + varint(len(body)) + body)
        return box

    def md30(self) -> None:
        """
        An MD30 box.
        """
        for secret in (WRONG, None):
            self.assertNotEqual(self.connect(secret).received()[0][3], 0)
        box = self.connect(RIGHT, will=WILL)
        self.assertEqual(box.received()[0][3], 0)
        subscribe(box)
        whole = batch(0).SerializeToString()
        box.publish("t", whole, 1)
        box.send(publish("t", batch(1).SerializeToString(), 2) + publish("t", batch(2).SerializeToString(), 3))
        box.publish("tj", json.dumps(MessageToDict(batch(3))).encode(), 4)
        box.publish("t", whole[:-3] + b"\xff", 5)
        box.publish("tj", f'{{"tracks": [{{"latitude": "{LATITUDE}.5"}}]}}'.encode(), 6)
        box.publish("tj", b'{"tracks": [' + b" " * 20_000 + f'{{"latitude": {LATITUDE}'.encode(), 7)
        lost, half, lonely, early = (makeTrack(4) for _ in range(4))
        lost.latitude, lost.longitude = 1_234_567_890, LONGITUDE
        half.ClearField("longitude")
        lonely.field_numbers.append(8)
        early.recorded_at = 5
        box.publish("t", batch(4, lost, half, lonely, early).SerializeToString(), 8)
        box.publish("t", batch(1 << 40).SerializeToString(), 9)
        box.publish("m", md30_pb2.Message(channel="c", payload=PAYLOAD).SerializeToString(), 10)
        box.publish("m", md30_pb2.Message(channel="no channel", payload=PAYLOAD).SerializeToString(), 11)
        box.publish("w", WILL, 12)
        self.world.bring(
            message("m1", account="dev", asset=self.named, payload=PAYLOAD),
            message("m2", account="dev", asset=self.named, payload=PAYLOAD, channel="no channel"),
            StoredRecord(Topics.named().downlink, 0, 0, NOW_MS, b"dev/x", b"\xff" + PAYLOAD),
        )
        self.world.wait(1)
        box.lose()
        foreign = self.connect(RIGHT)
        foreign.publish("boxes/other/tracks", whole, 1)
        broken = self.connect(RIGHT)
        broken.send(b"\xf7\x14" + PAYLOAD)

    def md21(self) -> None:
        """
        An MD21 box.
        """
        for secret in (WRONG.decode(), None):
            stranger = Md21Box(self.world)
            stranger.send(makeHeader(ASSET, secret=secret))
            self.assertTrue(stranger.isClosed)
        box = self.world.md21Box(ASSET, secret=RIGHT.decode())
        track = values.Track(NOW_MS - 5000, LATITUDE // 100, LONGITUDE // 100, ((27, FIELD),))
        box.send(values.TrackingData(values.WantAck.ALL_30, (track,)))
        box.send(values.TrackingData(values.WantAck.ALL_30, (track._replace(recordedAt=1_262_304_000_000 + 10**12),)))
        box.send(values.Message(1, 0, "c", PAYLOAD), values.Message(2, 0, "no channel", PAYLOAD))
        box.write(b"\x00\x18\xff\xff\xff\xff" + PAYLOAD)
        self.assertTrue(box.isClosed)

    def failures(self) -> None:
        """
        The bus does not take what there is, and links fail in unforeseen ways.
        """
        world = self.world
        box = self.connect(RIGHT)
        world.bus.isOpen = False
        box.publish("t", batch(5).SerializeToString(), 1)
        while world.bus.waiting:
            world.bus.fail()
        world.turn()
        self.assertTrue(box.transport.disconnecting)
        world.bus.isOpen = True
        world.wait(2)
        box = self.connect(RIGHT)

        def settled() -> None:
            raise ZeroDivisionError("by the test")

        box.link.settled = settled  # type: ignore[method-assign]
        box.publish("t", batch(5).SerializeToString(), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def course(self, policy: PrivacyPolicy) -> None:
        """
        All of it.
        """
        self.world = Md21World(directory=Guarded(policy))
        self.named = self.world.gateway.pseudonyms.published(BoxKey("dev", ASSET), policy).asset
        self.md30()
        self.md21()
        self.failures()
        # It really came to all of these.
        for format_ in (
            "data rejected: {code} ({account}/{asset})",
            "{count} tracks rejected: {code} ({account}/{asset})",
            "a downlink record was rejected: {code} ({source})",
            "{peer}: CONNECT refused with {code}: {why}",
            "{peer}: header refused with {status}: {why}",
            "{peer}: link closed: {kind}: {error}",
            "bus did not take a flush: {reason}",
            "a link failed at its acks in an unforeseen way",
        ):
            self.assertIn(format_, self.formats())
        self.assertEqual(self.found(), [])

    def test_nothingPersonal(self) -> None:
        """
        Whatever boxes and senders do.
        """
        self.course(PrivacyPolicy())
        self.assertNotEqual(self.found((ASSET,)), [], "operators are told which box it was")

    def test_ofPseudonyms(self) -> None:
        """
        A box that has a pseudonym downstream has it in the log, too.
        """
        self.course(PrivacyPolicy(isPseudonymous=True))
        self.assertEqual(self.found((ASSET,)), [])
        self.assertNotEqual(self.found((self.named,)), [])

"""
Tests for L{binaryserver.transcode.codecs} and L{binaryserver.transcode.events}.
"""

from __future__ import annotations

import json

from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import RejectedData
from binaryserver.interfaces import IBoxProtocol, IEventCodec
from binaryserver.model import BoxKey
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.transcode.codecs import JsonCodec, ProtobufCodec
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import decodeMessage, isName, messageRecord, presenceRecord, rejectRecord

NOW = 1_790_000_000_000
ENVELOPE = Envelope(BoxKey("acme", "350000000000001"), 77, 5, "host-0", cloudnext_pb2.PROTOCOL_MD30)


class CodecTests(SynchronousTestCase):
    """
    Both forms.
    """

    def test_pluginsAreFound(self) -> None:
        """
        A plugin that fails to import vanishes silently: here it is missed.
        """
        self.assertEqual({codec.shortTopic for codec in getPlugins(IEventCodec)} & {"t", "tj"}, {"t", "tj"})
        self.assertIn("md30", {protocol.name for protocol in getPlugins(IBoxProtocol)})

    def test_jsonEqualsProtobuf(self) -> None:
        """
        The same batch by either form, by proto names and by camelCase.
        """
        batch = md30_pb2.TrackBatch(
            stream=2**64 - 1,
            first_index=3,
            tracks=[
                md30_pb2.Track(
                    recorded_at=NOW,
                    latitude=1,
                    longitude=-2,
                    field_numbers=[8],
                    field_values=[md30_pb2.Value(int_value=-(2**63))],
                )
            ],
        )
        self.assertEqual(ProtobufCodec().decode(batch.SerializeToString()), (batch, 0))
        for keep in (True, False):
            text = json.dumps(MessageToDict(batch, preserving_proto_field_name=keep)).encode()
            self.assertEqual(JsonCodec().decode(text), (batch, 0))

    def test_unknownNamesAreIgnoredAndCounted(self) -> None:
        """
        At every depth.
        """
        text = b'{"a": 1, "tracks": [{"recorded_at": 1, "b": {"recorded_at": 2}, "fieldValues": [{"c": 1}]}]}'
        batch, unknown = JsonCodec().decode(text)
        self.assertEqual((batch.tracks[0].recorded_at, unknown), (1, 3))

    def test_whatCannotBeDecoded(self) -> None:
        """
        A typed refusal, whose words do not repeat the data.
        """
        for codec, payloads in (
            (ProtobufCodec(), [b"\x08", b"\x1a\xff", b"secret"]),
            (
                JsonCodec(),
                [
                    b"",
                    b"secret",
                    b"[]",
                    b"7",
                    b'{"tracks": 7}',
                    b'{"stream": "secret"}',
                    b'{"stream": -1}',
                    b"\xff\xfe",
                ],
            ),
        ):
            for payload in payloads:
                error = self.assertRaises(RejectedData, codec.decode, payload)
                self.assertEqual(error.code, "DECODE")
                self.assertNotIn("secret", str(error))

    def test_deepJson(self) -> None:
        """
        Nesting beyond what the interpreter allows is refused like any other.
        """
        self.assertRaises(RejectedData, JsonCodec().decode, b'{"a":' * 100_000)
        self.assertRaises(RejectedData, JsonCodec().decode, b"[" * 200_000)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=300))
    def test_anyBytes(self, payload: bytes) -> None:
        """
        They are a batch or refused; nothing else is raised.
        """
        for codec in (ProtobufCodec(), JsonCodec()):
            try:
                codec.decode(payload)
            except RejectedData as error:
                self.assertEqual(error.code, "DECODE")

    @settings(max_examples=100, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["stream", "first_index", "tracks", "recorded_at", "latitude", "field_values", "x"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        )
    )
    def test_anyJson(self, value: object) -> None:
        """
        Likewise for well-formed JSON of any shape.
        """
        try:
            JsonCodec().decode(json.dumps(value).encode())
        except RejectedData as error:
            self.assertEqual(error.code, "DECODE")


class EventTests(SynchronousTestCase):
    """
    The events that are not tracks.
    """

    def test_message(self) -> None:
        """
        An uplink message and an application's ack, by the gateway's time where the box has no clock.
        """
        message = decodeMessage(
            md30_pb2.Message(
                id="u1", channel="app.ack", payload=b"\0", stream=4, index=9, ack_of="d7", ack_status="ACK_STATUS_OK"
            ).SerializeToString(),
            1_000_000,
        )
        record = messageRecord(ENVELOPE, 123, message, 2, NOW)
        event = cloudnext_pb2.Event.FromString(record.value)
        self.assertEqual((event.account, event.asset, event.link_epoch), ("acme", "350000000000001", 5))
        self.assertEqual((event.id, event.event_time, event.ingest_time), (123, NOW, NOW))
        self.assertEqual((event.stream, event.index, event.missing_before, event.unindexed), (4, 9, 2, False))
        self.assertEqual(event.message.ack_of, "d7")
        self.assertEqual(dict(record.headers)["ce_id"], b"acme/350000000000001/4/9")

    def test_badMessages(self) -> None:
        """
        No channel, a channel that is no name, an id too long, too large, no protobuf.
        """
        for message, code in (
            (md30_pb2.Message(), "BAD_CHANNEL"),
            (md30_pb2.Message(channel="a b"), "BAD_CHANNEL"),
            (md30_pb2.Message(channel="a", id="x" * 129), "BAD_ID"),
            (md30_pb2.Message(channel="a", payload=b"x" * 5000), "RECORD_TOO_LARGE"),
        ):
            error = self.assertRaises(RejectedData, decodeMessage, message.SerializeToString(), 6000)
            self.assertEqual(error.code, code)
        self.assertEqual(self.assertRaises(RejectedData, decodeMessage, b"\x0a\x05", 6000).code, "DECODE")

    def test_presence(self) -> None:
        """
        Type, reason, who gave it, and from where.
        """
        record = presenceRecord(
            ENVELOPE, 9, cloudnext_pb2.PRESENCE_TYPE_DISCONNECT, NOW, "10.0.0.1", "PPP_LOST", True, "why"
        )
        event = cloudnext_pb2.Event.FromString(record.value)
        self.assertEqual(
            event.presence,
            cloudnext_pb2.Presence(
                type=cloudnext_pb2.PRESENCE_TYPE_DISCONNECT,
                reason="PPP_LOST",
                reason_from_box=True,
                peer_address="10.0.0.1",
                detail="why",
            ),
        )
        self.assertEqual(dict(record.headers)["ce_type"], b"cloudnext.v1.Presence")

    def test_rejectIsCutToARecord(self) -> None:
        """
        The bytes are kept as far as a record may hold them, with their whole length.
        """
        record = rejectRecord(ENVELOPE, 9, "md30:t", "DECODE", "why", b"x" * 10_000, NOW, 4096)
        reject = cloudnext_pb2.Reject.FromString(record.value)
        self.assertEqual((len(reject.payload), reject.payload_size), (2048, 10_000))
        self.assertEqual((reject.source, reject.code, reject.account), ("md30:t", "DECODE", "acme"))

    def test_isName(self) -> None:
        """
        What may name an account, an asset or a channel.
        """
        for name in ("a", "350000000000001", "A-z_0.9", "x" * 64):
            self.assertTrue(isName(name), name)
        for name in ("", "x" * 65, "a/b", "a b", "é", "a\n"):
            self.assertFalse(isName(name), name)

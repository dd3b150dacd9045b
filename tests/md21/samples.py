"""
PDUs of MD21 by their bytes.
"""

from __future__ import annotations

from typing import Final

from binaryserver.md21.values import (
    EPOCH_MS,
    BaseValueAck,
    BaseValues,
    Capabilities,
    Channel,
    Disconnect,
    FileAck,
    FilePart,
    FileStart,
    FileStatus,
    Header,
    HeaderAck,
    HeaderStatus,
    Message,
    MessageAck,
    MessageStatus,
    Pdu,
    Ping,
    Reason,
    ReconfigureMsg,
    ReconfigureTrk,
    Track,
    TrackingAck,
    TrackingData,
    Transport,
    UdpOffer,
    WantAck,
)

TOKEN: Final = bytes(range(32))

TABLE: Final[tuple[tuple[str, Pdu], ...]] = (
    (
        "02000204 06080a0c 0e101214 16181a1c 1e202224 26282a2c 2e303234 36383a3c 3e000000 0e200000 00100000 "
        "00200005 00",
        Transport(TOKEN, 7, (1, 2), bytes.fromhex("50")),
    ),
    (
        "00000204 06080a0c 0e101214 16181a1c 1e202224 26282a2c 2e303234 36383a3c 3e000000 001fffff fff0",
        Transport(TOKEN, 0, (0xFFFFFFFF,)),
    ),
    (
        "0801399b 56ce59b8 60cdab66 8cdc3072 1e1c7b72 80",
        Header(1, "356938035643809", "acme"),
    ),
    (
        "0bff1316 ff0b5887 871edca1 2e18748e 6e6eedee 4c9014",
        Header(255, "box-1", "acme", "pässword", True, Reason.COLD_BOOT, Capabilities(True, False, True)),
    ),
    (
        "1000",
        HeaderAck(HeaderStatus.OK),
    ),
    (
        "12004317 2c97305c c9731083 30001020 30405060 708090a0 b0c0d0e0 f1011121 31415161 718191a1 b1c1d1e1 f0",
        HeaderAck(HeaderStatus.OK, UdpOffer("192.0.2.1", 2100, TOKEN)),
    ),
    (
        "1010",
        HeaderAck(HeaderStatus.TLS_ACCEPTED),
    ),
    (
        "10b0",
        HeaderAck(HeaderStatus.TRANSPORT_REFUSED),
    ),
    (
        "1800",
        Disconnect(Reason.COLD_BOOT),
    ),
    (
        "19a0",
        Disconnect(Reason.PROTOCOL_ERROR),
    ),
    (
        "200408",
        Ping(258),
    ),
    (
        "23fffe",
        Ping(0xFFFF, True),
    ),
    (
        "28000000 01000000 00",
        BaseValues(1),
    ),
    (
        "28000000 02020017 1efdd9b4 e7fe0b66 fcfc00f0",
        BaseValues(2, (Channel(1, "config"), Channel(255, "log")), WantAck.ALL_300, 60),
    ),
    (
        "2a000000 02",
        BaseValueAck(2),
    ),
    (
        "32000040 05c7bf76 6d39c001 6d2dce8c ae4ecc2d 87a66600",
        Message(1, 0, "config", b"interval=30"),
    ),
    (
        "31ffffc1 c65e8b6f 07b197a2 df6983fb 72ea61d9 50c84200 00",
        Message(0xFFFF, 7, None, b"", 1_700_000_000_123, 1_700_000_060_000, 0xFEDCBA9876543210, True),
    ),
    (
        "38000080",
        MessageAck(MessageStatus.ACK, 1),
    ),
    (
        "3b00007f 6e5d4c3b 2a190840",
        MessageAck(MessageStatus.BAD_CHANNEL, 0, 0xFEDCBA9876543210, True),
    ),
    (
        "4000185c 7bf766d3 9c",
        ReconfigureMsg((Channel(7, "config"),)),
    ),
    (
        "48000000 00002000 0000",
        TrackingData(WantAck.NONE, (Track(EPOCH_MS, None, None),)),
    ),
    (
        "4ac685ad 80002000 1a7c31a8 b1464004 00000400 00200040 807a9800 039002",
        TrackingData(WantAck.ALL_30, (Track(1_700_000_000_000, 4_885_837, 229_448, ((8, 30_000), (14, True))),)),
    ),
    (
        "4a4685ad 8040dfff e0002000 60004ab5 5d8fcb15 381c0034 00180003 ffd01bff d4000000 04003058 00701832 "
        "00c000f3 037fffff ffffffff 80800000 00000000 7f800000 00000000 64000000 00000000 00800801 a2b001ff "
        "00000000 00000400 6c0ca940 01169bf0 eae00c60 6a2e0004 01fe",
        TrackingData(
            WantAck.ALL_0,
            (
                Track(1_700_000_000_000, -3_385_678, 15_120_929, ((14, True), (15, -128), (27, "Zoë"))),
                Track(1_700_000_001_000, -3_385_681, 15_120_935, ((14, False), (15, 127), (16, 0.5), (27, "Zoë"))),
                Track(1_700_000_002_000, None, None, ((15, 100), (27, "Zoë"), (99, b"\x00\xff"))),
                Track(1_700_000_002_000, -3_385_690, 15_120_941, ((14, False), (15, -(1 << 63)), (27, "Zoë"))),
            ),
        ),
    ),
    (
        "50",
        TrackingAck(),
    ),
    (
        "5940",
        ReconfigureTrk(WantAck.ALL_100),
    ),
    (
        "5a2a3000",
        ReconfigureTrk(WantAck.NONE, 86_400),
    ),
    (
        "60000c31 99a5c9b5 dd85c994 b989a5b8 003d0900 0004080c 1014181c 2024282c 3034383c 4044484c 5054585c "
        "6064686c 7074787c",
        FileStart(3, "firmware.bin", 1_000_000, TOKEN),
    ),
    (
        "68000c00 02000000 1b830b93 a0",
        FilePart(3, 32_768, b"part"),
    ),
    (
        "70000c00 02001000",
        FileAck(3, 32_772, FileStatus.OK),
    ),
    (
        "70000c00 000001c0",
        FileAck(3, 0, FileStatus.ABORTED),
    ),
)
"""Each as it is on the wire, without a length prefix. All are read, and written, as they stand here."""

SAMPLES: Final = tuple(bytes.fromhex(text) for text, _ in TABLE)
"""Their bytes."""

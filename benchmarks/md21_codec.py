"""
What MD21's codec costs a track, beside asn1tools.

    python -m benchmarks.md21_codec

Each line is how many tracks of ten fields a block has, and its bytes; then CPU µs a track for our reading of it (to
tracks), asn1tools' reading of it (to columns), and our writing. Below, CPU µs a PDU for others that are frequent. The
best of several rounds, in which those that are compared take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asn1tools

from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode

ROUNDS = 15
SECONDS = 0.03
MODULE = Path(__file__).resolve().parent.parent / "proto" / "md21.asn1"


def block(count: int) -> values.TrackingData:
    """
    Tracks a second apart of a driving vehicle: eight integers, a boolean and a text each.
    """
    return values.TrackingData(
        values.WantAck.ALL_30,
        tuple(
            values.Track(
                1_700_000_000_000 + n * 1000,
                4_885_837 + n * 17,
                229_448 - n * 9,
                (
                    (8, 26_998 + n * 13 % 700),
                    (9, 17_000 + n * 31),
                    (10, 35 + n % 3),
                    (14, True),
                    (24, 123_456_789 + n * 14),
                    (27, f"a1b2c3d4e5f6{n // 8:04}"),
                    (39, 1 + n % 2),
                    (41, 2),
                    (55, 9 + n % 4),
                    (59, 12_600 - n % 50),
                ),
            )
            for n in range(count)
        ),
    )


def measure(*calls: Callable[[], object]) -> list[float]:
    """
    CPU µs a call of each.
    """
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for place, call in enumerate(calls):
            times = 0
            start = now = time.process_time()
            while now - start < SECONDS:
                for _ in range(20):
                    call()
                times += 20
                now = time.process_time()
            best[place] = min(best[place], (now - start) / times * 1e6)
    return best


def main() -> None:
    """
    Print the table.
    """
    reference = asn1tools.compile_files(str(MODULE), "uper")
    print(f"{'tracks':>6} {'bytes':>6} {'read':>7} {'asn1tools':>10} {'written':>8}   CPU µs a track")
    for count in (1, 20, 256):
        tracks = block(count)
        octets = encode(tracks)
        if decode(octets) != tracks:
            raise SystemExit("what was written is not what is read")
        ours, theirs, writing = measure(
            partial(decode, octets), partial(reference.decode, "MD-Data", octets), partial(encode, tracks)
        )
        print(
            f"{count:6} {len(octets):6} {ours / count:7.2f} {theirs / count:10.2f} {writing / count:8.2f}",
        )
    message = values.Message(1, 0, "config", bytes(50), serverId=1, wantAck=True)
    print(f"\n{'':16} {'read':>7} {'written':>8}   CPU µs a PDU")
    for pdu in (
        values.TrackingAck(),
        values.Ping(1),
        values.HeaderAck(values.HeaderStatus.OK),
        message,
        values.MessageAck(values.MessageStatus.ACK, 1),
        values.Transport(bytes(32), 1, (), encode(message)),
    ):
        reading, writing = measure(partial(decode, encode(pdu)), partial(encode, pdu))
        print(f"{type(pdu).__name__:16} {reading:7.2f} {writing:8.2f}")


if __name__ == "__main__":
    main()

"""
L{binaryserver.md21.codec.decode} on bytes of any kind.
"""

from __future__ import annotations

import time
import tracemalloc

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket
from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.values import MAX_PDU
from tests.md21.abstract import block, column, fromBits
from tests.md21.samples import SAMPLES
from tests.md21.strategies import PDUS


def _mutate(octets: bytes, changes: list[tuple[int, int, int]]) -> bytes:
    mutated = bytearray(octets)
    for place, how, byte in changes:
        at = place % len(mutated) if mutated else 0
        if how == 0:
            mutated[at:at] = bytes((byte,))
        elif how == 1:
            del mutated[at : at + 1 + byte % 4]
        else:
            mutated[at : at + 1] = bytes((byte if how == 2 else (mutated[at] if mutated else 0) ^ 1 << byte % 8,))
    return bytes(mutated)


class FuzzTests(SynchronousTestCase):
    """
    Bytes of any kind.
    """

    def survives(self, octets: bytes) -> None:
        """
        They are a value, which can be written and read again, or malformed.
        """
        try:
            pdu = decode(octets)
        except MalformedPacket:
            return
        self.assertEqual(repr(decode(encode(pdu))), repr(pdu))

    @settings(deadline=None, max_examples=200)
    @given(st.integers(0, 31), st.binary(max_size=200))
    @example(9, b"\x00" * 200)
    @example(9, b"\xff" * 200)
    def test_random(self, alternative: int, rest: bytes) -> None:
        """
        Random bytes after the number of each alternative.
        """
        self.survives(bytes((alternative << 3,)) + rest)
        self.survives(bytes((alternative << 3 | 7,)) + rest)

    @settings(deadline=None, max_examples=200)
    @given(
        st.sampled_from(SAMPLES),
        st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=6),
    )
    def test_mutatedSamples(self, octets: bytes, changes: list[tuple[int, int, int]]) -> None:
        """
        Samples with bytes and bits that are changed, missing or too many.
        """
        self.survives(_mutate(octets, changes))

    @settings(deadline=None, max_examples=50)
    @given(PDUS, st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), st.integers(0, 255)), max_size=3))
    def test_mutatedPdus(self, pdu: values.Pdu, changes: list[tuple[int, int, int]]) -> None:
        """
        PDUs as boxes send them, whole and changed alike.
        """
        self.survives(_mutate(encode(pdu), changes))

    def test_bounded(self) -> None:
        """
        The PDUs that are read into the most, or with the most work, take less than a second and 64 MiB.
        """
        times = [0] * 256
        same = ["given", *["same"] * 255]
        worst = [
            block(times=times, fields=[column(n, "bools", [True], marks=same) for n in range(127)]),
            block(
                times=times, fields=[column(1, "bools", [True], marks=["none"] * 255 + ["given"]) for _ in range(127)]
            ),
            block(times=times, fields=[column(n, "strings", [""] * 256) for n in range(127)]),
            block(times=times, fields=[column(n, "int8", [1] * 256) for n in range(127)]),
            encode(values.Message(1, 1, None, bytes(64_000))),
            fromBits("0 1010 1 1 1011111111111111" + "1" * 16_383 + "0" * 8 * 16_383),
        ]
        for octets in worst:
            self.assertLessEqual(len(octets), MAX_PDU)
            tracemalloc.start()
            start = time.process_time()
            try:
                decode(octets)
            except MalformedPacket as error:
                self.assertIn("twice", str(error))
            spent = time.process_time() - start
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLess(spent, 1)
            self.assertLess(peak, 64 * 1024 * 1024)

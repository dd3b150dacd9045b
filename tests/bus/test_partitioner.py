"""
Tests for L{binaryserver.bus.partitioner}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.partitioner import murmur2, partition

# Of org.apache.kafka.common.utils.UtilsTest, where they are signed.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


class PartitionerTests(SynchronousTestCase):
    """
    The hash and what is made of it.
    """

    def test_vectors(self) -> None:
        """
        Java's own test values, for every length of a rest.
        """
        self.assertEqual({key: murmur2(key) for key in VECTORS}, {key: hash_ % 2**32 for key, hash_ in VECTORS.items()})

    def test_partition(self) -> None:
        """
        The sign is masked away, as Java does, not negated.
        """
        self.assertEqual(partition(b"21", 1000), (-973932308 & 0x7FFFFFFF) % 1000)
        self.assertEqual(partition(b"foobar", 1), 0)

    @given(st.binary(max_size=80), st.integers(1, 1000))
    def test_range(self, key: bytes, partitions: int) -> None:
        """
        Any key, the empty one included, has a hash of 32 bits and a partition that is there.
        """
        self.assertTrue(0 <= murmur2(key) < 2**32)
        self.assertTrue(0 <= partition(key, partitions) < partitions)

"""
Which partition a key belongs to: as Kafka's Java clients choose it, so that all clients agree.
"""

from __future__ import annotations

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """
    The 32-bit MurmurHash2 of C{org.apache.kafka.common.utils.Utils}, as an unsigned number.
    """
    length = len(key)
    hash_ = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k ^= k >> 24
        hash_ = (hash_ * _M & _MASK) ^ (k * _M & _MASK)
    rest = length & 3
    if rest:
        hash_ ^= int.from_bytes(key[whole:], "little")
        hash_ = hash_ * _M & _MASK
    hash_ ^= hash_ >> 13
    hash_ = hash_ * _M & _MASK
    return hash_ ^ hash_ >> 15


def partition(key: bytes, partitions: int) -> int:
    """
    The partition of a key among so many.
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions

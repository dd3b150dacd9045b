"""
What Kafka's error codes mean for a producer (U{https://kafka.apache.org/protocol#protocol_error_codes}).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class Verdict(Enum):
    """
    What an error code means for a batch.
    """

    committed = auto()
    retry = auto()
    moved = auto()
    producerLost = auto()
    tooLarge = auto()
    refused = auto()


VERDICTS: Mapping[int, Verdict] = {
    0: Verdict.committed,
    46: Verdict.committed,  # DUPLICATE_SEQUENCE_NUMBER: it is there already
    -1: Verdict.retry,  # UNKNOWN_SERVER_ERROR
    2: Verdict.retry,  # CORRUPT_MESSAGE: on the way, as our checksums are right
    7: Verdict.retry,  # REQUEST_TIMED_OUT
    13: Verdict.retry,  # NETWORK_EXCEPTION
    19: Verdict.retry,  # NOT_ENOUGH_REPLICAS
    20: Verdict.retry,  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
    3: Verdict.moved,  # UNKNOWN_TOPIC_OR_PARTITION
    5: Verdict.moved,  # LEADER_NOT_AVAILABLE
    6: Verdict.moved,  # NOT_LEADER_OR_FOLLOWER
    8: Verdict.moved,  # BROKER_NOT_AVAILABLE
    9: Verdict.moved,  # REPLICA_NOT_AVAILABLE
    56: Verdict.moved,  # KAFKA_STORAGE_ERROR
    74: Verdict.moved,  # FENCED_LEADER_EPOCH
    75: Verdict.moved,  # UNKNOWN_LEADER_EPOCH
    45: Verdict.producerLost,  # OUT_OF_ORDER_SEQUENCE_NUMBER
    47: Verdict.producerLost,  # INVALID_PRODUCER_EPOCH
    59: Verdict.producerLost,  # UNKNOWN_PRODUCER_ID
    10: Verdict.tooLarge,  # MESSAGE_TOO_LARGE
    18: Verdict.tooLarge,  # RECORD_LIST_TOO_LARGE
}
"""By error code; all others: refused."""

NO_PRODUCER_YET = frozenset({-1, 7, 14, 15, 16})
"""Error codes of a broker that has not come so far, e.g. COORDINATOR_LOAD_IN_PROGRESS when it is asked first."""

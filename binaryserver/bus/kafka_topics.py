"""
Kafka's topics: checked at the start, made on request. All of it blocks: for threads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from binaryserver.bus.kafka_settings import KafkaSettings
from binaryserver.bus.topics import prefixOption
from binaryserver.errors import BusError, BusUnavailable, ConfigError
from binaryserver.plugins import BackEndContext

_CONFIG_TIMEOUT = 5.0


def describeTopics(
    settings: KafkaSettings, context: BackEndContext, producer: Any, logger: logging.Logger
) -> tuple[dict[str, int], int, list[str]]:
    """
    The number of partitions of each topic of the context, the largest message (bytes) that all of them take, and what
    an operator should be warned of.

    @raise BusUnavailable: nobody answers
    @raise ConfigError: a topic is missing
    """
    metadata = _metadata(producer, settings, context)
    missing = [
        topic for topic in context.topics if topic not in metadata.topics or metadata.topics[topic].error is not None
    ]
    if missing:
        raise ConfigError(
            context.option,
            f"no topic {', '.join(missing)} at {settings.servers}; make them with: "
            f"binaryserver-ctl topics create --bus '{settings.shown}'{prefixOption(context.topics)}",
        )
    partitions = {topic: len(metadata.topics[topic].partitions) for topic in context.topics}
    return partitions, *_topicSettings(settings, context, logger)


def _topicSettings(settings: KafkaSettings, context: BackEndContext, logger: logging.Logger) -> tuple[int, list[str]]:
    admin = _admin(settings, logger)
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in context.topics]
    warnings = []
    largest = settings.maxMessage
    for resource, answer in admin.describe_configs(resources, request_timeout=_CONFIG_TIMEOUT).items():
        try:
            values = answer.result()
            replicas = int(values["min.insync.replicas"].value)
            largest = min(largest, int(values["max.message.bytes"].value))
        except KafkaException as error:
            warnings.append(f"min.insync.replicas of {resource.name} could not be read: {error.args[0].str()}")
        else:
            if replicas < 2:
                warnings.append(
                    f"topic {resource.name} has min.insync.replicas={replicas}: "
                    "one broker's loss can lose what was acked"
                )
    return largest, warnings


def makeTopics(
    settings: KafkaSettings,
    context: BackEndContext,
    topics: Sequence[str],
    partitions: int,
    replication: int,
    logger: logging.Logger,
) -> list[str]:
    """
    Make the topics that are missing, and give their names.

    @raise BusUnavailable: nobody answers
    @raise BusError: the broker refuses
    """
    admin = _admin(settings, logger)
    known = _metadata(admin, settings, context).topics
    wanted = [NewTopic(topic, partitions, replication) for topic in topics if topic not in known]
    made = []
    if wanted:
        for topic, answer in admin.create_topics(wanted, request_timeout=context.startTimeout).items():
            try:
                answer.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise BusError(f"topic {topic} could not be made: {error.args[0].str()}") from error
            else:
                made.append(topic)
    return made


def _admin(settings: KafkaSettings, logger: logging.Logger) -> AdminClient:
    configuration: dict[str, Any] = {**settings.client(), "logger": logger}
    return AdminClient(configuration)


def _metadata(client: Any, settings: KafkaSettings, context: BackEndContext) -> Any:
    try:
        return client.list_topics(timeout=context.startTimeout)
    except KafkaException as error:
        raise BusUnavailable(
            f"{context.option}: nobody answers at {settings.servers}: {error.args[0].str()}"
        ) from error

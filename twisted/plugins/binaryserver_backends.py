"""
The back ends that come with the gateway.
"""

from binaryserver.interfaces import IBusPlugin, IDirectoryPlugin, ISessionStorePlugin
from binaryserver.plugins import BackEnd

memoryBus = BackEnd(
    IBusPlugin, "memory", "binaryserver.bus.memorybus.MemoryBus", "memory: nothing is kept; for tests and trials"
)
sqliteBus = BackEnd(
    IBusPlugin, "sqlite", "binaryserver.bus.sqlitebus.SqliteBus", "sqlite:PATH an embedded log in one file"
)
kafkaBus = BackEnd(
    IBusPlugin,
    "kafka",
    "binaryserver.bus.kafkabus.KafkaBus",
    "kafka://HOST:PORT[,HOST:PORT...][?option=value] Apache Kafka, by confluent-kafka",
)
pykafkaBus = BackEnd(
    IBusPlugin,
    "pykafka",
    "binaryserver.bus.pykafkabus.PykafkaBus",
    "pykafka://HOST:PORT[,HOST:PORT...][?option=value] Apache Kafka, by pykafka",
)
memorySessions = BackEnd(
    ISessionStorePlugin,
    "memory",
    "binaryserver.session.memorystore.MemorySessionStore",
    "memory: forgotten when the gateway stops; for tests and trials",
)
sqliteSessions = BackEnd(
    ISessionStorePlugin,
    "sqlite",
    "binaryserver.session.sqlitestore.SqliteSessionStore",
    "sqlite:PATH one file on this host",
)
redisSessions = BackEnd(
    ISessionStorePlugin,
    "redis",
    "binaryserver.session.redisstore.RedisSessionStore",
    "redis://[:PASSWORD@]HOST:PORT/DB[?option=value...] Redis, for several instances",
)
redissSessions = BackEnd(
    ISessionStorePlugin,
    "rediss",
    "binaryserver.session.redisstore.RedisSessionStore",
    "rediss://[:PASSWORD@]HOST:PORT/DB[?option=value...] Redis with TLS",
)
openDirectory = BackEnd(
    IDirectoryPlugin,
    "open",
    "binaryserver.directory.opendirectory.OpenDirectory",
    "open: lets anybody in, for development; loopback listeners only",
)
fileDirectory = BackEnd(
    IDirectoryPlugin,
    "file",
    "binaryserver.directory.filedirectory.FileDirectory",
    "file:PATH accounts and boxes in a TOML file, read again when it changes",
)
httpDirectory = BackEnd(
    IDirectoryPlugin,
    "http",
    "binaryserver.directory.httpdirectory.HttpDirectory",
    "http://HOST[:PORT]/BASE[?option=value...] a service of the operator's, on this host or a trusted network",
)
httpsDirectory = BackEnd(
    IDirectoryPlugin,
    "https",
    "binaryserver.directory.httpdirectory.HttpDirectory",
    "https://HOST[:PORT]/BASE[?option=value...] a service of the operator's, with TLS",
)

"""
C{twistd binaryserver-shovel}.
"""

from twisted.application.service import ServiceMaker

shovel = ServiceMaker(
    "binaryserver-shovel",
    "binaryserver.shovel.tap",
    "The Shovel: copies CloudConnect's queue in Redis to CloudNext's bus, MessagePack to protobuf.",
    "binaryserver-shovel",
)

"""
C{twistd binaryserver}.
"""

from twisted.application.service import ServiceMaker

binaryserver = ServiceMaker(
    "binaryserver",
    "binaryserver.tap",
    "The gateway between vehicles and the cloud: takes tracks from boxes, publishes them, acks what is durable.",
    "binaryserver",
)

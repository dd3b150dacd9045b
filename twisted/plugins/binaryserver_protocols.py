"""
The box protocols and the forms of tracks that come with the gateway.
"""

from binaryserver.md21.protocol import Md21
from binaryserver.md30.protocol import Md30
from binaryserver.transcode.codecs import JsonCodec, ProtobufCodec

md21 = Md21()
md30 = Md30()
protobufTracks = ProtobufCodec()
jsonTracks = JsonCodec()

"""
The endpoint parser that comes with the gateway.
"""

from binaryserver.endpoints.listening import TlsServerParser

tlsServerParser = TlsServerParser()

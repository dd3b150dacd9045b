"""
How links reach the gateway: endpoint strings, the door, TLS, and the PROXY protocol.

Callers start in L{binaryserver.endpoints.listening}; L{binaryserver.endpoints.identity} tells who a link's peer is, and
whether it still may be.
"""

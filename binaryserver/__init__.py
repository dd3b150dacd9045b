"""
The gateway between vehicles and the cloud: keeps the boxes' links, publishes their tracks, acks what is durable.
"""

__version__ = "0.1.0"

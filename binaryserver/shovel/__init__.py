"""
The Shovel: copies CloudConnect's queue to CloudNext's bus.
"""

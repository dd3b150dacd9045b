"""
What operators see of the gateway as numbers: docs/metrics.md.
"""

"""
Several instances on one host: the parent that supervises, and its workers.
"""

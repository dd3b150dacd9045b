"""
What a third party would write, and its tests.
"""

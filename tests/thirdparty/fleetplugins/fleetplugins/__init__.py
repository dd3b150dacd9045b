"""
Plugins for binaryserver: a directory in a CSV file, and tracks as lines of CSV.
"""

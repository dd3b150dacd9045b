"""
What the gateway finds.
"""

from fleetplugins.csvtracks import CsvTracks

from binaryserver.interfaces import IDirectoryPlugin
from binaryserver.plugins import BackEnd

csvDirectory = BackEnd(
    IDirectoryPlugin,
    "csv",
    "fleetplugins.csvdirectory.CsvDirectory",
    "csv:PATH accounts and boxes in a CSV file, read again when it changes",
)
csvTracks = CsvTracks()

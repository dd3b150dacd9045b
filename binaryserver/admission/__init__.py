"""
Who may in, and on what terms (G8).

L{binaryserver.admission.admission} decides; L{binaryserver.admission.recheck} decides again for links that are there
when the directory changes.
"""

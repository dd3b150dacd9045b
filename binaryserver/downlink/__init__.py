"""
The way back: from the bus's C{downlink} to mailboxes, from mailboxes to boxes, and what became of it to C{statuses}.
"""

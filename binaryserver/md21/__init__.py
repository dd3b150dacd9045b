"""
MD21, the boxes' older protocol: its PDUs as values, and their encoding after C{proto/md21.asn1}.
"""

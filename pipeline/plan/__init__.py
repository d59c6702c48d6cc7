"""What there is to label, written once and only added to; and what makes a run itself: its fingerprint.

It knows sources, and nothing of what came of them.
"""

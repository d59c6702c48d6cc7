"""What is in hand, for how long, and what to do with images that kill or hang a process.

It knows images and processes, and nothing of parts.
"""

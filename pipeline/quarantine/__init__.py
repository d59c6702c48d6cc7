"""Which images a worker has in hand, for how long, and what to do with images that kill or hang a process.

This room knows images and processes, but nothing about parts.
"""

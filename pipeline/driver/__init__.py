"""The story of a run: list, plan, label in rounds, sum up. The only room that imports Ray.

Code that handles single images, or that knows a file format, does not belong here.
"""

import os

# Ray reads this when it is imported. If a run is stopped, it ends its own workers, and Ray would log each of their open calls.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"The actor is dead because it was killed by `ray\.kill`")

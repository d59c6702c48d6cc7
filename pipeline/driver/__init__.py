"""The story of a run: list, plan, label in rounds, sum up. The only room that imports Ray.

Code that handles single images, or that knows a file format, does not belong here.
"""

import os

# Ray reads it when it is imported. A run that is stopped ends its own workers, and Ray would tell of each call that they had.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"The actor is dead because it was killed by `ray\.kill`")

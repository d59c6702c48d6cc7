"""`jit`: numba's, with its cache in the user's cache folder, so that workers load machine code instead of compiling."""

import os

from pipeline.cache import cache_folder

os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))

from numba import njit

jit = njit(cache=True, nogil=True)

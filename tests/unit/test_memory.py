import subprocess
import sys

_MEBIBYTES, _TIMES, _PAGES_A_MEBIBYTE = 4, 100, 256
_PROGRAM = f"""
import resource
from pipeline.memory import bound_malloc
bound_malloc()
keep = bytes({_MEBIBYTES} << 20)
del keep
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({_TIMES}):
    b"x" * ({_MEBIBYTES} << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_an_image_frees_is_kept_for_the_next() -> None:
    faults = int(subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout)
    assert faults < _TIMES * _MEBIBYTES * _PAGES_A_MEBIBYTE / 10

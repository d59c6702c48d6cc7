import subprocess
import sys

_WARM = """
from numba.core.dispatcher import Dispatcher
import numpy as np
from PIL import Image
from pipeline.labels import fast
from pipeline.labels.labeller import load_machine_code
from pipeline.labels.upsample import upsample_labels
from pipeline.model import resample
from pipeline.model.preprocess import resize
def loaded():
    found = (vars(module).items() for module in (fast, resample))
    return {name: len(each.signatures) for items in found for name, each in items if isinstance(each, Dispatcher)}
load_machine_code()
before = loaded()
resize(Image.new("RGB", (50, 37)), 16, max_pixels=1000)
upsample_labels(np.random.default_rng(0).normal(size=(21, 4, 5)).astype(np.float32), 37, 50, 0.5)
assert before["_across"] == before["_down"] == 1 and loaded() == before, (before, loaded())
"""


def test_what_is_loaded_first_is_all_that_an_image_needs() -> None:
    subprocess.run([sys.executable, "-c", _WARM], check=True)

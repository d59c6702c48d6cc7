"""numba's `jit`, with its cache in the user's cache folder, so that workers load machine code instead of compiling it."""

import os
from typing import Any

from pipeline.cache import cache_folder

os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

jit = njit(cache=True, nogil=True, error_model="numpy")  # a division that may raise prevents vector instructions


def _float_of_bits(_context: Any, _bits: Any) -> Any:
    """The float32 whose bits are this int32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _bits_of_float(_context: Any, _value: Any) -> Any:
    """The bits of this float32 as int32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


float_of_bits: Any = intrinsic(_float_of_bits)
bits_of_float: Any = intrinsic(_bits_of_float)

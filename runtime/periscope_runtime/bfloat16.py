"""bfloat16 tensors out of numpy, which has no such type: DLPack has, and Triton's Python backend takes it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

_BFLOAT = 4  # DLDataTypeCode.kDLBfloat


class _DLTensor(ctypes.Structure):
    """The begin of a managed tensor: https://dmlc.github.io/dlpack/latest/c_api.html, DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
    )


def bfloat16_capsule(bits: npt.NDArray[Any]) -> Any:
    """Return a DLPack capsule over an int16 array whose values are the bits of bfloat16 numbers.

    numpy makes the capsule, and owns the memory until whoever takes the capsule deletes the tensor; only the name of
    its type changes. Every capsule has to be taken, or its memory is never given back.
    """
    assert bits.dtype == np.int16, bits.dtype
    capsule = bits.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    tensor.type_code = _BFLOAT
    # Triton calls a capsule that it has taken "used_dlpack" where the protocol says "used_dltensor". numpy's destructor
    # does not know that name, and would end the process.
    destroy = ctypes.pythonapi.PyCapsule_SetDestructor
    destroy.restype, destroy.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_void_p]
    destroy(capsule, None)
    return capsule

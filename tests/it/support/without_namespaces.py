"""Becomes the program that its arguments name, on a system that makes no namespaces."""

import ctypes
import os
import struct
import sys

ERRNO, ALLOW, EPERM, ENOSYS = 0x50000, 0x7FFF0000, 1, 38
UNSHARE, SETNS, CLONE, CLONE3 = (
    (272, 308, 56, 435) if os.uname().machine == "x86_64" else (97, 268, 220, 435)
)
NAMESPACES = 0x7E020000
LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06
STEPS = [
    (LOAD, 0, 0, 0),
    (EQUAL, 0, 1, UNSHARE),
    (RETURN, 0, 0, ERRNO | EPERM),
    (EQUAL, 0, 1, SETNS),
    (RETURN, 0, 0, ERRNO | EPERM),
    (EQUAL, 0, 1, CLONE3),
    (RETURN, 0, 0, ERRNO | ENOSYS),
    (EQUAL, 1, 0, CLONE),
    (RETURN, 0, 0, ALLOW),
    (LOAD, 0, 0, 16),
    (ANY, 0, 1, NAMESPACES),
    (RETURN, 0, 0, ERRNO | EPERM),
    (RETURN, 0, 0, ALLOW),
]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


library = ctypes.CDLL(None, use_errno=True)
packed = b"".join(struct.pack("HBBI", *step) for step in STEPS)
program = Program(len(STEPS), packed)
if library.prctl(38, 1, 0, 0, 0) or library.prctl(22, 2, ctypes.byref(program), 0, 0):
    raise OSError(ctypes.get_errno(), "no filter")
os.execv(sys.argv[1], sys.argv[1:])

"""Freed memory kept by the C library's allocator, for programs that mainly compute on a CPU."""

import ctypes
import importlib.util
import os

# From malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ACCELERATOR_PACKAGES = ("jax_plugins", "libtpu")


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory; call it before starting threads.

    glibc maps every large block and unmaps it when freed, and the kernel must fill its pages with zeros each time. XLA
    on a CPU allocates all its temporary arrays in each call: this took a fifth of a training step of VGG16. So this
    uses one heap for all threads, without mapping single blocks and without trimming. The process grows larger, and
    compiling takes longer, as its threads wait for each other: therefore only scripts that measure steps of VGG16 do
    this.

    Does nothing and returns False if the C library is not glibc, if the environment sets `GLIBC_TUNABLES`, or if JAX
    uses an accelerator, which has its own memory.
    """
    if "GLIBC_TUNABLES" in os.environ or any(map(importlib.util.find_spec, _ACCELERATOR_PACKAGES)):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return all(mallopt(*setting) for setting in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)))

"""Freed memory kept by the C library's allocator, for programs that do little but compute on a CPU."""

import ctypes
import importlib.util
import os

# From malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ACCELERATOR_PACKAGES = ("jax_plugins", "libtpu")


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process; call it before there are threads.

    glibc maps every large block anew and hands it back as soon as it is freed; each time, the kernel has to fill its
    pages with zeros. XLA on a CPU allocates all its temporary arrays at each call: a fifth of a training step of VGG16
    went there. So: one heap for all threads, nothing mapped on its own, nothing trimmed. The process grows larger, and
    compiling takes longer, as its threads wait for each other: which is why no other script does this.

    Does nothing, and returns False, where the C library is not glibc, the environment has settings of its own
    (`GLIBC_TUNABLES`), or JAX has an accelerator, which has its own memory.
    """
    if "GLIBC_TUNABLES" in os.environ or any(map(importlib.util.find_spec, _ACCELERATOR_PACKAGES)):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return all(mallopt(*setting) for setting in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)))

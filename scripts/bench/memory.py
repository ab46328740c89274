"""How the allocator treats freed memory, the same for us and for the peer. Imports nothing but the standard library.

glibc maps every large block anew and hands it back as soon as it is freed; each time, the kernel has to fill its pages
with zeros. XLA on a CPU allocates all its temporary arrays at each call, and spends a good part of its time there.
"""

import ctypes
import os

# From malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process; call it before there are threads.

    One heap for all threads, nothing mapped on its own, nothing trimmed. Does nothing, and returns False, where the C
    library is not glibc or the environment has settings of its own.
    """
    if "GLIBC_TUNABLES" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return all(mallopt(*setting) for setting in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)))

"""A simulated slow disk: each fsync of a process takes longer, and is still done."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static int slowly(const char *name, int descriptor) {
    struct timespec delay = {0, DELAY_NS};
    nanosleep(&delay, 0);
    return ((int (*)(int)) dlsym(RTLD_NEXT, name))(descriptor);
}
int fsync(int descriptor) { return slowly("fsync", descriptor); }
int fdatasync(int descriptor) { return slowly("fdatasync", descriptor); }
"""


class NoCompiler(Exception):
    """A slow disk takes a C compiler, and there is none."""


@contextmanager
def slow_disk(seconds: float) -> Iterator[dict[str, str]]:
    """Yield the environment variables by which each fsync of a process takes so many seconds longer."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompiler("a slow disk takes a C compiler (cc)")
    with tempfile.TemporaryDirectory(prefix="leads-bench-") as folder:
        source, library = Path(folder) / "slow.c", Path(folder) / "slow.so"
        source.write_text(SHIM)
        delay = f"-DDELAY_NS={int(seconds * 1e9)}"
        subprocess.run([compiler, "-shared", "-fPIC", delay, "-o", library, source, "-ldl"], check=True)
        yield {"LD_PRELOAD": str(library)}

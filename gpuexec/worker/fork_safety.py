"""Whether this process, which has imported a stage's modules, can be forked into workers.

A fork copies one thread and all memory. So a worker would lack the other threads, with whatever locks they held; it
would share open files and sockets with the other workers; a CUDA context does not survive; and what every process draws
for itself, such as the seed of a generator, would be the same in all. Each check looks at the state of the process, not
at names of libraries, and names what it found.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpuexec.worker.import_watch import THREADS, ImportWatch, descriptors

SURVIVING_THREADS = {
    # jemalloc stops this thread before a fork and goes on without it in the child (jemalloc_prefork). It only gives
    # freed memory back to the system earlier. Arrow's copy of jemalloc starts it when pyarrow is imported.
    "jemalloc_bg_thd",
}
GPU_DEVICES = "/dev/nvidia"
_HARMLESS_DEVICES = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
_CUDA_NOT_INITIALIZED = 3  # CUresult, cuda.h
_NVML_UNINITIALIZED = 1  # nvmlReturn_t, nvml.h
_TRIAL_S = 2.0
_BLOCK = 624  # words of the Mersenne twister's state
_MOST_BLOCKS = 1000  # of random numbers that imports are believed to draw; it takes 10 ms to look at them


class Finding(NamedTuple):
    """What makes a fork unsafe, as the end of a sentence that begins with "it", and which module did it, if known."""

    what: str
    module: str | None = None


class ForkSafety:
    """Compares the process with what it was when this object was made, before anything of a stage was imported."""

    def __init__(self, watch: ImportWatch) -> None:
        self._watch = watch
        self._descriptors = dict(descriptors())
        self._mappings = set(_shared_mappings())
        self._generators = _GlobalGenerators()
        self._folders = _TemporaryFolders(watch)
        self._n_modules = 0

    def check(self) -> Finding | None:
        """Return the first thing found, ``None`` if a fork is safe."""
        for check in (self._threads, self._devices, self._files, self._process_state, self._random_state):
            for finding in check():
                return finding
        return None

    def _threads(self) -> Iterator[Finding]:
        main = str(os.getpid())
        others = {tid: name for tid, name in _threads().items() if tid != main and name not in SURVIVING_THREADS}
        of_python = {str(t.native_id): t.name for t in threading.enumerate() if t is not threading.main_thread()}
        if others and not of_python and not _has_python_threads():
            # OpenBLAS, for one, ends its threads before every fork and starts them again when it needs them.
            _fork_for_a_moment()
            others = {tid: name for tid, name in others.items() if tid in _threads()}
        for tid, name in others.items():
            what = f"started a thread ({of_python.get(tid, name)!r})"
            yield Finding(what, self._watch.starter_of(tid))
        if _has_python_threads():
            yield Finding("started a thread")

    def _devices(self) -> Iterator[Finding]:
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is not None and cuda.is_initialized():
            yield Finding("initialised CUDA, as torch.cuda.is_initialized() says,")
        for number, target in self._new_descriptors():
            if target.startswith(GPU_DEVICES):
                yield Finding(f"uses a GPU ({target} is open)", self._watch.opener_of(number, target))
        libraries = _mapped_libraries("libcuda.so", "libnvidia-ml.so")
        for path in libraries:
            is_cuda = "libcuda.so" in path
            call = "cuDeviceGetCount" if is_cuda else "nvmlDeviceGetCount_v2"
            fresh = _CUDA_NOT_INITIALIZED if is_cuda else _NVML_UNINITIALIZED
            if _answer(path, call) != fresh:
                yield Finding("initialised CUDA" if is_cuda else "initialised NVML")

    def _files(self) -> Iterator[Finding]:
        for number, target in self._new_descriptors():
            if target not in _HARMLESS_DEVICES:
                yield Finding(_opened(target), self._watch.opener_of(number, target))
        yield from self._folders.left()

    def _new_descriptors(self) -> Iterator[tuple[str, str]]:
        return ((number, target) for number, target in descriptors() if self._descriptors.get(number) != target)

    def _process_state(self) -> Iterator[Finding]:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            yield Finding("started a process")
        for mapping in sorted(set(_shared_mappings()) - self._mappings):
            yield Finding(f"made memory that processes share ({mapping})")
        if any(signal.getitimer(which)[0] for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)):
            yield Finding("set a timer, which does not survive a fork")
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
            yield Finding("handles SIGCHLD")

    def _random_state(self) -> Iterator[Finding]:
        yield from self._generators.seeded()
        if len(sys.modules) != self._n_modules:  # looking at every object takes 10 ms once much is imported
            self._n_modules = len(sys.modules)
            for generator in _own_generators():
                name = f"{type(generator).__module__}.{type(generator).__qualname__}"
                yield Finding(f"made a generator of random numbers ({name})", _module_holding(generator))


# ---- threads -------------------------------------------------------------------------------------------------


def _has_python_threads() -> bool:
    import _thread

    return _thread._count() > 0


def _threads() -> dict[str, str]:
    """Return the names of this process's threads by their ids."""
    found = {}
    for tid in os.listdir(THREADS):  # noqa: PTH208 - importing pathlib takes every worker 3 ms
        with contextlib.suppress(OSError), open(f"{THREADS}/{tid}/comm") as name:  # noqa: PTH123 - as above
            found[tid] = name.read().strip()
    return found


def _fork_for_a_moment() -> None:
    """Fork and let the child end at once, without a word of Python's: libraries in C do what they do around a fork."""
    libc = ctypes.PyDLL(None)  # keeps the interpreter lock, so the child can go on here
    child = libc.fork()
    if child == 0:
        libc._exit(0)
    deadline = time.monotonic() + _TRIAL_S
    while child > 0 and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.0005)


# ---- devices, files, memory ----------------------------------------------------------------------------------


def _opened(target: str) -> str:
    if target.startswith("socket:"):
        return "opened a socket"
    if target.startswith("pipe:"):
        return "opened a pipe"
    if target.startswith("anon_inode:"):
        return f"opened a descriptor ({target.partition(':')[2]}), as event loops do"
    return f"opened a file and keeps it open ({target})"


def _maps() -> Iterator[list[str]]:
    with open("/proc/self/maps") as lines:  # noqa: PTH123 - as above
        for line in lines:
            yield line.split(maxsplit=5)


def _shared_mappings() -> Iterator[str]:
    """Yield what is mapped writable and shared: a page of it belongs to all processes of a fork."""
    return (fields[5].strip() if len(fields) > 5 else "no file" for fields in _maps() if fields[1][1::2] == "ws")


def _mapped_libraries(*names: str) -> list[str]:
    paths = {fields[5].strip() for fields in _maps() if len(fields) > 5}
    return sorted(path for path in paths if any(name in path for name in names))


def _answer(path: str, function: str) -> int | None:
    """Return what a function of a loaded library answers; one that counts devices says so if it is not initialised."""
    with contextlib.suppress(OSError, AttributeError):
        return int(getattr(ctypes.CDLL(path), function)(ctypes.byref(ctypes.c_int())))
    return None


class _TemporaryFolders:
    """The temporary folders that imports make. A module removes its own when its process ends: the first worker would
    remove those of all."""

    def __init__(self, watch: ImportWatch) -> None:
        from gpuexec.curator.registration import after_import

        self._watch = watch
        self._made: list[tuple[str, str | None]] = []
        after_import("tempfile", self._note_calls)

    def _note_calls(self, module: Any) -> None:
        make = module.mkdtemp

        def mkdtemp(*args: Any, **kwargs: Any) -> Any:
            path = make(*args, **kwargs)
            self._made.append((path, self._watch.running))
            return path

        module.mkdtemp = mkdtemp

    def left(self) -> Iterator[Finding]:
        for path, module in self._made:
            if os.path.exists(path):  # noqa: PTH110 - importing pathlib takes every worker 3 ms
                yield Finding(f"made a temporary folder ({path}), which the first worker to end may remove", module)


# ---- random numbers --------------------------------------------------------------------------------------------


class _GlobalGenerators:
    """The generators of ``random``, ``numpy.random`` and ``torch``, each as it was when its module was imported.

    Python seeds its own anew in a forked child, and `renew_random_state` does so with the others. That would undo what
    a module of the stage has seeded, where each worker that imports it begins with that seed.
    """

    def __init__(self) -> None:
        from gpuexec.curator.registration import after_import

        self._before: dict[str, Any] = {}
        after_import("random", self._note_python)
        after_import("numpy.random", self._note_numpy)
        after_import("torch", self._note_torch)

    def _note_python(self, module: Any) -> None:
        self._before["random"] = module.getstate()

    def _note_numpy(self, module: Any) -> None:
        self._before["numpy.random"] = module.get_state()

    def _note_torch(self, module: Any) -> None:
        if hasattr(module, "initial_seed"):
            self._before["torch"] = module.initial_seed()

    def seeded(self) -> Iterator[Finding]:
        """Say which of them are in a state that drawing numbers does not lead to."""
        for name, before in self._before.items():
            module = sys.modules[name]
            if name == "random":
                reached = _is_reached_python(module, before, module.getstate())
            elif name == "torch":
                reached = module.initial_seed() == before
            else:
                reached = _is_reached_numpy(module, before, module.get_state())
            if not reached:
                yield Finding(f"seeded {name}")


def _is_reached_python(module: Any, before: Any, after: Any) -> bool:
    if before[1][:_BLOCK] == after[1][:_BLOCK]:
        return True
    generator = module.Random()
    generator.setstate(before)
    for _ in range(_MOST_BLOCKS):
        generator.getrandbits(32 * _BLOCK)
        if generator.getstate()[1][:_BLOCK] == after[1][:_BLOCK]:
            return True
    return False


def _is_reached_numpy(module: Any, before: Any, after: Any) -> bool:
    if before[0] != after[0]:
        return False
    if (before[1] == after[1]).all():
        return True
    generator = module.RandomState()
    generator.set_state(before)
    for _ in range(_MOST_BLOCKS):
        generator.bytes(4 * _BLOCK)
        if (generator.get_state()[1] == after[1]).all():
            return True
    return False


def renew_random_state() -> None:
    """Seed the global generators of numpy and torch anew, in a forked worker: Python does so with its own."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    for_torch = getattr(sys.modules.get("torch"), "default_generator", None)
    if for_torch is not None:
        for_torch.seed()


def _own_generators() -> Iterator[Any]:
    """Yield the generators that modules have made for themselves: all workers would draw the same numbers from them."""
    kinds: set[Any] = set()
    known: list[Any] = []
    for name, classes in (("random", ("Random",)), ("numpy.random", ("Generator", "RandomState"))):
        module = sys.modules.get(name)
        if module is not None:
            kinds.update(getattr(module, cls) for cls in classes)
            known.append(getattr(module, "_inst", None) or module.mtrand._rand)
    if torch := sys.modules.get("torch"):
        kinds.add(getattr(torch, "Generator", None))
        known.append(getattr(torch, "default_generator", None))
    sequence = getattr(sys.modules.get("tempfile"), "_name_sequence", None)
    known.append(getattr(sequence, "_rng", None))  # it is made anew in a child
    if kinds:
        for found in gc.get_objects():
            if type(found) in kinds and not any(found is one for one in known):
                yield found


def _module_holding(value: object) -> str | None:
    for name, module in list(sys.modules.items()):
        if any(found is value for found in list(getattr(module, "__dict__", {}).values())):
            return name
    return None

"""Turn a pickled weights file into safetensors: a program of its own, so that it can be limited in memory and time.

    python -I _convert_weights.py SOURCE TARGET SECONDS

Every table of tensors in the file is kept with the keys that lead to it. Whatever else a training script stores beside
weights (numbers of NumPy, arguments of the command line, paths) is built as an inert stand-in and left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

TENSORS = 20_000
CALLS, STEPS = 5 * TENSORS, 3_000_000
"""What the pickle of a file may ask for: calls that build something, and instructions in all."""
DEPTH = 5
SPARE = 400 * 2**20
"""Bytes beside three times the file."""
BUILDS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD", "BINPERSID", "PERSID"})
INERT = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
         "numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "numpy.float64", "numpy.float32",
         "numpy.int64", "numpy.dtypes.Float64DType", "numpy.dtypes.Float32DType", "numpy.dtypes.Int64DType",
         "_codecs.encode", "argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath",
         "pathlib.PurePosixPath", "pathlib.Path", "pathlib._local.PosixPath", "datetime.datetime", "builtins.slice",
         "__builtin__.slice", "builtins.range", "__builtin__.xrange")


DANGEROUS = frozenset({
    "os", "posix", "nt", "subprocess", "sys", "builtins", "__builtin__", "importlib", "runpy", "socket", "shutil",
    "pty", "commands", "ctypes", "webbrowser", "http", "urllib", "requests", "code", "pickle", "_pickle", "marshal",
    "operator", "asyncio", "multiprocessing", "threading", "signal", "pip"})
"""Modules that weights have no use for, and that a pickle names to have something done when it is loaded."""
UNSAFE = 3
"""Exit code where a file names one of them."""
_OTHERS = "it is damaged or holds other objects than tensors"
_ADVICE = "save the state_dict() of its model"


class Inert:
    """In place of what is no tensor: takes any arguments and state, and keeps none."""

    def __new__(cls, *_: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def main(source: str, target: str, seconds: int) -> None:
    size = os.path.getsize(source)
    _limit_time(seconds)
    _check(source)

    import torch
    from safetensors.torch import save_file

    _limit_memory(3 * size + SPARE)
    # Mapped rather than read: the file itself then takes no memory of the process.
    with torch.serialization.safe_globals([(Inert, name) for name in INERT]):
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=_zipped(source))
    tables = dict(_tables(content, (), torch.Tensor))
    tensors = [tensor for table in tables.values() for tensor in table.values()]
    if len(tensors) > TENSORS:
        raise SystemExit(f"it holds {len(tensors):,} tensors; at most {TENSORS:,} are read")
    if any(tensor.device.type != "cpu" or tensor.layout is not torch.strided for tensor in tensors):
        raise SystemExit("it holds tensors that are sparse, or have no values")
    # A tensor without steps repeats one number as often as it says.
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > 2 * size + 2**20:
        raise SystemExit(f"its tensors have {total:,} bytes in a file of {size:,}: they repeat few numbers many times")
    index = [[*path, name] for path, table in tables.items() for name in table]
    found = {"index": json.dumps(index), "keys": json.dumps(_keys(content)), "kind": type(content).__name__}
    save_file({str(k): tensor.detach().clone(memory_format=torch.contiguous_format)
               for k, tensor in enumerate(tensors)}, target, metadata=found)


def _tables(value: Any, path: tuple[str, ...], tensor: type) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """(keys that lead to it, table) of each dictionary of nothing but tensors."""
    if not isinstance(value, dict) or len(path) > DEPTH:
        return
    if value and all(isinstance(item, tensor) for item in value.values()):
        yield path, {str(name): item for name, item in value.items()}
        return
    for key, item in value.items():
        if isinstance(key, str | int):
            yield from _tables(item, (*path, str(key)), tensor)


def _keys(content: Any) -> list[str]:
    return [str(key)[:80] for key, _ in zip(content, range(40), strict=False)
            if isinstance(key, str | int)] if isinstance(content, dict) else []


def _zipped(source: str) -> bool:
    """As torch tells its two formats apart."""
    with open(source, "rb") as file:
        return file.read(4) == b"PK\3\4"


def _check(source: str) -> None:
    """Count what the pickles of a file ask for before any of it is done."""
    with contextlib.ExitStack() as stack:
        if _zipped(source):
            archive = stack.enter_context(zipfile.ZipFile(source))
            names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
            if len(names) != 1:
                raise SystemExit("it is a zip archive, but none of weights")
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise SystemExit("it is a TorchScript program; save the state_dict() of its model")
            if any(m.compress_type or m.file_size != m.compress_size for m in archive.infolist()):
                raise SystemExit("it is a compressed archive, which torch.save does not write")
            _count(stack.enter_context(archive.open(names[0])), 1)
        else:
            # Number, version and system, then the objects.
            _count(stack.enter_context(open(source, "rb")), 4)


def _count(stream: Any, pickles: int) -> None:
    steps = calls = 0
    texts: list[str] = []
    with contextlib.suppress(ValueError):  # damage, which the reader meets again
        for _ in range(pickles):
            for code, argument, _ in pickletools.genops(stream):
                steps += 1
                calls += code.name in BUILDS
                if isinstance(argument, str):
                    texts = [*texts[-1:], argument]
                if code.name in ("GLOBAL", "INST"):
                    _check_name(str(argument).replace(" ", "."), known=True)
                elif code.name == "STACK_GLOBAL":  # of the last two texts, unless they came from the memo
                    _check_name(".".join(texts), known=False)
                if calls > CALLS or steps > STEPS:
                    raise SystemExit(f"it asks for more than {TENSORS:,} tensors, or is no file of weights")


def _check_name(name: str, known: bool) -> None:
    """Refuse a name that no weights need; where it is but probable, only what could do harm."""
    if _usual(name):
        return
    if name.partition(".")[0] in DANGEROUS:
        print(f"it asks for {name[:80]} to be run when it is loaded", file=sys.stderr)
        raise SystemExit(UNSAFE)
    if known:
        raise SystemExit(f"{_OTHERS} ({name[:80]}); {_ADVICE}")


def _usual(name: str) -> bool:
    """Whether a name may be that of a tensor's parts, or has a stand-in; torch decides on each of them again."""
    module = name.partition(".")[0]
    return module in ("torch", "collections") or name in INERT or name.rpartition(".")[2] in ("set", "complex")


def _limit_time(seconds: int) -> None:
    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _limit_memory(more: int) -> None:
    """Let this process take so many bytes more than it has, where the system knows how many it has."""
    with contextlib.suppress(ImportError, OSError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "memory" in str(error):
        return "it asks for more memory than a file of its size may"
    if isinstance(error, pickle.UnpicklingError):
        said = str(error)
        wanted = said.partition("GLOBAL ")[2].split(" ")[0] if "GLOBAL" in said else ""
        named = f" ({wanted[:80]})" if wanted else ""
        return f"{_OTHERS}{named}; {_ADVICE}"
    return f"it is damaged or no file of weights ({type(error).__name__})"


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except Exception as failure:  # a damaged file can raise anything, and this process ends anyway
        sys.exit(_reason(failure))

"""Kernels compiled for the host, whose C functions run where they are called."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[1] / "plugin"


def compiled(source: Path, folder: Path, *options: str) -> ctypes.CDLL:
    """A C++ source as a library in `folder`; skips the test where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or c++) on the PATH")
    library = folder / f"lib{source.stem}.so"
    command = [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", *options, "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return ctypes.CDLL(str(library))


def kernels_on_host(operator: str, folder: Path) -> ctypes.CDLL:
    """An operator's launcher and kernels, every thread of which the host runs."""
    source = Path(__file__).parent / "plugin" / "cuda_on_host" / f"run_{operator}.cpp"
    return compiled(source, folder, f"-I{source.parent}")

"""The commands that a machine still needs, in the order to type them: what `sadtrt doctor --fix` prints."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import torch

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.plugin import plugin_absence, tensorrt_generation
from sadtrt_core.engine.plugin_build import HEADER_TAGS
from sadtrt_core.environment import package_version
from sadtrt_core.errors import Unavailable
from sadtrt_core.runners.onnxruntime import cuda_provider_absence
from sadtrt_core.session import Session

_HEADERS = "/tmp/TensorRT"


@dataclass(frozen=True)
class Here:
    """What of the things that a command could put right is here. `gpu`: the driver's tools see an NVIDIA GPU."""

    gpu: bool
    cuda_torch: bool
    compiler: bool
    nvcc: bool
    #: Of the TensorRT that is installed, such as "trt10"; None where none is.
    tensorrt: str | None
    pycuda: bool
    plugin: bool
    onnxruntime_cuda: bool
    full_size_weights: bool
    size: int = 256


def look(session: Session) -> Here:
    """This machine."""
    trt = api.tensorrt_module()
    return Here(
        gpu=shutil.which("nvidia-smi") is not None,
        cuda_torch=torch.cuda.is_available(),
        compiler=shutil.which("g++") is not None or shutil.which("clang++") is not None,
        nvcc=shutil.which("nvcc") is not None,
        tensorrt=None if isinstance(trt, Unavailable) else tensorrt_generation(trt),
        pycuda=package_version("pycuda") is not None,
        plugin=plugin_absence() is None,
        onnxruntime_cuda=cuda_provider_absence() is None,
        full_size_weights=session.renderer.weights.kind in ("checkpoint", "fitted"),
        size=session.options.size,
    )


def fixes(here: Here) -> tuple[tuple[str, str], ...]:
    """Why, and the command, for everything that is missing, in order; () where nothing is."""
    # TensorRT for RTX takes the library of 10. Which headers are needed is only known once some TensorRT is here.
    tag = HEADER_TAGS.get(here.tensorrt or "", HEADER_TAGS["trt10"])
    gpu, no_plugin = here.gpu, here.gpu and here.tensorrt is not None and not here.plugin
    rows = (
        (not here.compiler, "a C++ compiler, for torch.compile and pycuda", "apt-get install -y g++"),
        (
            gpu and not here.nvcc and not (here.pycuda and here.plugin),
            "nvcc of the CUDA toolkit, which compiles pycuda and the plugin",
            "apt-get install -y nvidia-cuda-toolkit",
        ),
        (
            gpu and not here.cuda_torch,
            "a CUDA build of PyTorch; if there is one, the driver is older than it",
            "pip install --force-reinstall torch",
        ),
        (
            gpu and not (here.tensorrt and here.pycuda),
            "TensorRT, pycuda and the sensors' bindings, in the checkout",
            "pip install -e '.[gpu]'",
        ),
        (
            gpu and not here.onnxruntime_cuda,
            "ONNX Runtime's CUDA provider, whose wheel takes the place of the CPU's",
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
        ),
        (
            no_plugin,
            "TensorRT's headers, which no wheel has",
            f"git clone --depth 1 --branch {tag} https://github.com/NVIDIA/TensorRT {_HEADERS}",
        ),
        (no_plugin, "the plugin library", f"sadtrt build-plugin --include {_HEADERS}/include"),
        (
            gpu and not here.full_size_weights,
            "full-size stand-in weights, three minutes (`make bench ARGS=--weights=fit` fits them first)",
            f"sadtrt fit --size {here.size}",
        ),
        (gpu and not here.tensorrt, "what TensorRT needs, once it is installed", "sadtrt doctor --fix"),
    )
    return tuple((why, command) for needed, why, command in rows if needed)

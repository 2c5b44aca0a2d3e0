"""Who may import whom: every part of the package imports those before it in `sadtrt_core.LAYERS`, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sadtrt_core
from sadtrt_core import LAYERS

PACKAGE = Path(sadtrt_core.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
#: What a machine may lack, or what takes seconds to import: these alone are imported inside functions.
OPTIONAL = {"av", "pycuda", "pynvml", "tensorrt", "tensorrt_rtx", "tomllib", "tomli"}


def layer_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.module == "sadtrt_core":
            return [f"sadtrt_core.{alias.name}" for alias in node.names]
        return [node.module or ""]
    return []


def name_of(path: Path) -> str:
    return ".".join(("sadtrt_core", *path.relative_to(PACKAGE).with_suffix("").parts))


def test_every_part_of_the_package_has_its_place() -> None:
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert found - {"py"} == set(LAYERS)
    assert len(set(LAYERS)) == len(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = layer_of(name_of(path))
    if own == "__init__":
        return
    place = LAYERS.index(own)
    for node in ast.walk(ast.parse(path.read_text())):
        for module in imported(node):
            if not module.startswith("sadtrt_core") or layer_of(module) in (own, "", "__version__", "LAYERS"):
                continue
            assert LAYERS.index(layer_of(module)) < place, f"{name_of(path)} imports {module}, which lies above it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_import_only_what_may_be_absent(path: Path) -> None:
    if layer_of(name_of(path)) in ("commands", "cli", "compare_worker"):
        return  # A command line that answers --help at once imports PyTorch only when a command runs.
    tree = ast.parse(path.read_text())
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        for node in ast.walk(function):
            for module in imported(node):
                assert module.split(".")[0] in OPTIONAL, f"{name_of(path)}: {function.name} imports {module}"

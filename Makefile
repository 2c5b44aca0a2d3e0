# make bench: virtual environment, installation and the benchmark suite. make test: lint, types and tests.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install -q
STAMP := $(VENV)/installed
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo yes)
# Without a GPU the CPU build of PyTorch is enough, where a CUDA build is gigabytes.
CPU_TORCH := torch==2.13.0+cpu
CPU_TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=

.PHONY: bench test lint types clean
bench: $(STAMP)
	$(VENV)/bin/python -m pytest bench/ --benchmark-only $(ARGS)

# A process a core, each with one thread.
test: lint types
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/ -n auto --dist loadscope $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

types: $(STAMP)
	$(VENV)/bin/python -m mypy

# PyTorch first, so that nothing else chooses one: what the machine or .venv has already stays; without a GPU the CPU
# build, from wherever pip is told to look or else from PyTorch's own index.
$(STAMP): pyproject.toml Makefile
	$(PYTHON) -m venv $$($(PYTHON) -c "import torch" 2>/dev/null && echo --system-site-packages) $(VENV)
ifeq ($(GPU),)
	$(VENV)/bin/python -c "import torch" 2>/dev/null || $(PIP) "$(CPU_TORCH)" 2>/dev/null || $(PIP) torch --index-url $(CPU_TORCH_INDEX)
	$(PIP) -e ".[dev,rtx]"
else
	$(PIP) -e ".[dev]"
	$(PIP) -e ".[gpu]" || echo "TensorRT or pycuda did not install (pycuda needs a C++ compiler and the CUDA toolkit): its rows will be skipped, see sadtrt doctor"
endif
	$(PIP) -e ".[picture]" || echo "FLIP or PyAV did not install: drift goes without what a viewer sees"
	touch $(STAMP)

clean:
	rm -rf $(VENV) plugin/build

# What people do often. `make demo` and `make test` are all that a fresh machine needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.PHONY: demo test test-slow test-gpu test-tpu test-oldest test-newest lint format sanitize bench bench-checkpoint fuzz coverage mutate test-aarch64 test-aot random-configs clean

KERNEL := setup.py $(wildcard jaxlstm/kernels/cpu/src/*)

# Installed once for each set of extras, and again when pyproject.toml or the native kernel changes.
$(VENV)/.%: pyproject.toml $(KERNEL)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.flax,torch,cli  ## inspect, port and check the checkpoint that comes with the repository
	$(BIN)/jaxlstm inspect examples/demo.pt
	$(BIN)/jaxlstm port examples/demo.pt -o $(VENV)/demo.safetensors --batch-first
	$(BIN)/jaxlstm check $(VENV)/demo.safetensors

test: $(VENV)/.test  ## all tests but the slow ones
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

test-slow: $(VENV)/.test  ## the tests that take minutes
	$(BIN)/python -m pytest -q -n $(WORKERS) -m slow

# The GPU's memory is shared with torch, hence not all of it for JAX; one process has the device.
test-gpu test-tpu: test-%: $(VENV)/.test-%  ## the cases, the verdict, wrong ports and real checkpoints on a GPU or a TPU
	XLA_PYTHON_CLIENT_PREALLOCATE=false $(BIN)/python -m pytest -q -m $* tests/backends

FUZZ_MINUTES ?= 10
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.test  ## mutated checkpoints for FUZZ_MINUTES; what is found stays in fuzz-findings/
	$(BIN)/python -m tests.checkpoint.fuzz --seed $(FUZZ_SEED) --minutes $(FUZZ_MINUTES) --processes $$(nproc)

test-oldest: pyproject.toml  ## against the oldest releases that pyproject.toml allows
	$(PYTHON) tools/versions.py oldest $(VENV)-oldest $(PYTHON)

# In an environment of its own: the compilers are large, and libtpu has something to say whenever JAX starts.
AOT := $(VENV)-aot
test-aot: pyproject.toml  ## compile for TPUs and GPUs that are not there; nothing is skipped
	@test -x $(AOT)/bin/python || $(PYTHON) -m venv $(AOT)
	$(AOT)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[aot-tpu,aot-gpu]' beartype pytest pytest-xdist
	JAX_PLATFORMS=cpu JAXLSTM_AOT=required $(AOT)/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup tests/aot

NEWEST_PYTHON ?= $(PYTHON)
test-newest: pyproject.toml  ## the tests that need no torch, against the newest releases
	$(PYTHON) tools/versions.py newest $(VENV)-newest $(NEWEST_PYTHON)

PROBLEMS ?= 500
sanitize:  ## the native kernel under the sanitizers of g++ or CXX
	$(PYTHON) -m tools.kernel_harness.sanitize $(PROBLEMS)

CONFIGS ?= 10000
FIRST_CONFIG ?= 0
CONFIGS_SEED ?= 0
random-configs: $(VENV)/.test  ## the native kernel against the plain scan: an hour of one core
	$(BIN)/python -m tools.random_configs --configs $(CONFIGS) --first $(FIRST_CONFIG) --seed $(CONFIGS_SEED)

test-aarch64:  ## the native kernel for aarch64, by a cross compiler and in QEMU
	$(PYTHON) -m tools.kernel_harness.aarch64 $(PROBLEMS)

lint: $(VENV)/.dev  ## ruff and pyright, and the C++ in lines of 120
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	! grep -nE '.{121}' jaxlstm/kernels/cpu/src/* tools/kernel_harness/*.h tools/kernel_harness/*.cc

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test  ## the layer beside other libraries; let nothing else run meanwhile
	$(BIN)/jaxlstm bench

bench-checkpoint: $(VENV)/.test  ## an LSTM of 20 MB out of a checkpoint of 2 GB, against torch and safetensors
	$(BIN)/python benchmarks/checkpoint.py

coverage: $(VENV)/.dev  ## lines and branches of the checker and the converters that the tests run
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(WORKERS) -m "not slow" tests/check tests/converters tests/checkpoint tests/cli
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95

MODULE ?=
MUTATE_SAMPLE ?= 15
mutate: $(VENV)/.mutate  ## do the tests notice wrong lines? MODULE=find, MUTATE_SAMPLE=0 for all mutants of a file
	$(BIN)/python -m tests.mutation --module "$(MODULE)" --sample $(MUTATE_SAMPLE)

clean:
	rm -rf .mutate $(VENV) $(AOT) $(VENV)-oldest $(VENV)-newest build dist .pytest_cache .ruff_cache .hypothesis *.egg-info jaxlstm/kernels/cpu/_native*

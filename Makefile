# `make demo` and `make test` work on a fresh machine; `make help` lists all targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -q
# Each worker starts with neighbouring tests, which share fixtures.
PARALLEL := -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-slow test-ray test-gpu test-tpu test-oldest test-newest sanitize \
	fuzz coverage docs release-check lint format bench clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+)( test-tpu)?:[^#]*## /\1\2: /p' $(MAKEFILE_LIST) | awk -F': ' '{printf "%-18s %s\n", $$1, $$2}'

# $(call step,TEXT,COMMAND): print what a step does, run it, and print how long it took.
step = @echo "== $(1)"; start=$$(date +%s); $(2); code=$$?; echo "   ($$(($$(date +%s) - start)) s)"; exit $$code

INSTALL := -m pip install --quiet --disable-pip-version-check

# The package is installed, and its kernel compiled, once for all targets; again if one of these files changes.
$(VENV)/.package: pyproject.toml setup.py $(wildcard jaxlstm/kernels/cpu/src/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call step,Installing jaxlstm and compiling its CPU kernel: about a minute the first time,$(BIN)/python $(INSTALL) -e .)
	@touch $@

# One stamp file per set of extras. pip takes the package that is installed, and adds what they require.
$(VENV)/.%: $(VENV)/.package
	$(call step,Installing what jaxlstm[$*] needs,$(BIN)/python $(INSTALL) 'jaxlstm[$*]')
	@touch $@

demo: $(VENV)/.flax,torch,cli,source  ## a whole model, examples/demo.pt2: inspect, check and run it, write its Flax source
	$(call step,Listing the inputs and layers of a model,$(BIN)/jaxlstm inspect examples/demo.pt2)
	$(call step,Comparing it with PyTorch: results and gradients,$(BIN)/jaxlstm check examples/demo.pt2)
	$(call step,Running it in JAX without PyTorch,$(BIN)/python examples/tag.py)
	$(call step,Writing it as Flax source,$(BIN)/jaxlstm convert examples/demo.pt2 -o $(VENV)/restorer.py --overwrite)
	@cat $(VENV)/restorer.py
	@echo
	@echo "Shown: a whole PyTorch model, read without PyTorch, gives PyTorch's results and gradients in JAX."
	@echo "Next: examples/export_demo.py shows how the file was made; or $(BIN)/jaxlstm inspect a .pt or .pt2 file of yours."

test: $(VENV)/.test  ## all tests except the slow ones
	$(PYTEST) $(PARALLEL) -m "not slow"

test-slow: $(VENV)/.test  ## the slow tests
	XLA_FLAGS= $(PYTEST) $(PARALLEL) -m slow

test-ray: $(VENV)/.test,ray  ## the tests of Ray, on a cluster of two nodes on this machine
	$(PYTEST) tests/cli/test_ray.py

# torch needs memory on the same GPU, so JAX must not preallocate it. One process has the device.
test-gpu test-tpu: test-%: $(VENV)/.test-%  ## the tests of a GPU or TPU, on one
	XLA_PYTHON_CLIENT_PREALLOCATE=false $(PYTEST) -m $* tests/backends

# An environment of its own for each end of the supported releases. TESTS selects some of the tests.
TESTS ?=
TEST_EXTRAS := .[flax,optax,export,source] beartype hypothesis pytest pytest-xdist safetensors
test-oldest:  ## the tests with the lower bounds of pyproject.toml
	@test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	tools/lower_bounds.sh dependencies flax optax torch > $(VENV)-oldest/lower_bounds.txt
	$(VENV)-oldest/bin/python $(INSTALL) -c $(VENV)-oldest/lower_bounds.txt -e $(TEST_EXTRAS) torch expecttest
	$(VENV)-oldest/bin/python -m pip list --format=freeze
	XLA_FLAGS= $(VENV)-oldest/bin/python -m pytest -q $(PARALLEL) -m "not slow and not network" $(TESTS)

NEWEST_PYTHON ?= $(PYTHON)
test-newest:  ## the tests that do not need torch, with the newest releases (NEWEST_PYTHON=python3.13)
	@test -x $(VENV)-newest/bin/python || $(NEWEST_PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python $(INSTALL) --upgrade --upgrade-strategy eager -e $(TEST_EXTRAS)
	$(VENV)-newest/bin/python -m pip list --format=freeze
	XLA_FLAGS= $(VENV)-newest/bin/python -m pytest -q $(PARALLEL) -m "not slow and not network" $(TESTS)

# A copy of the package holds the sanitized kernel. GCC aligns fake stack frames to 32 bytes, vectors need 64.
SANITIZED := build/sanitized
sanitize: $(VENV)/.test  ## the tests of the native kernel under AddressSanitizer and UndefinedBehaviorSanitizer
	mkdir -p $(SANITIZED)
	cp -r jaxlstm converters tests testing conftest.py pyproject.toml $(SANITIZED)
	rm -f $(SANITIZED)/jaxlstm/kernels/cpu/_native*.so
	JAXLSTM_SANITIZERS=address,undefined $(BIN)/python setup.py -q build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0,detect_stack_use_after_return=0 PYTHONPATH=.:converters \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		$(abspath $(BIN))/python -m pytest -q -p no:cacheprovider -m "not slow" -k "not ulp" \
		tests/kernels/test_native.py tests/kernels/test_convolution.py tests/kernels/test_norm.py

FUZZ_FILES ?= 100000
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.test  ## read FUZZ_FILES mutated checkpoints; the message of a failure has the path of the file
	FUZZ_FILES=$(FUZZ_FILES) FUZZ_SEED=$(FUZZ_SEED) $(PYTEST) $(PARALLEL) -k mutated tests/checkpoint/test_fuzz.py

# With slow rows of the checker and of packed sequences: each reaches another explanation or rule.
COVERED := tests/check tests/converters tests/checkpoint tests/cli tests/pt2 tests/programs/test_program.py \
	tests/programs/test_acceptance.py tests/inference/test_batch_predictor.py tests/test_snippets.py tests/test_surprises.py
coverage: $(VENV)/.dev  ## coverage of lines and branches of the checker and the converters
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(WORKERS) -m "not slow" $(COVERED)
	$(BIN)/coverage run -m pytest -q -n $(WORKERS) -m slow tests/check/test_model_faults.py tests/check/test_mutants.py tests/pt2 -k "not 2000"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=98

docs: $(VENV)/.docs  ## the documentation site, in docs/_build/html
	$(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build/html

# The Pythons of this machine that get a wheel, each checked with the newest JAX.
PYTHONS ?= $(foreach version,3.11 3.12 3.13 3.14,$(shell python$(version) -c "import sys; print(sys.executable)" 2>/dev/null))
release-check: $(VENV)/.release  ## build the sdist and a wheel for each of PYTHONS in dist/, and check them
	tools/release_check.sh $(BIN)/python $(PYTHONS)

lint: $(VENV)/.dev  ## ruff, pyright, and C++ lines of at most 120 characters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	! git grep -nE '.{121}' -- '*.cc' '*.h'

format: $(VENV)/.dev  ## ruff, rewriting files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PARTS ?= all
bench: $(VENV)/.bench  ## all benchmarks, or PARTS of them, beside other libraries; leave the machine idle meanwhile
	$(BIN)/python -m benchmarks $(PARTS)

clean:  ## remove environments, builds and caches
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist .pytest_cache .ruff_cache .hypothesis *.egg-info jaxlstm/kernels/cpu/_native*

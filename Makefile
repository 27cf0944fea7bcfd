# make demo, make test: each sets up its own environment in .venv, on a machine with Python 3.11 or later and make.
PYTHON ?= python3
JOBS ?= 2
FUZZ_SECONDS ?= 3600

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CACHES := .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

.PHONY: help demo test check bench damage fuzz clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    convert samples/lenet5.pt at several targets and score what comes back"
	@echo "make test    lint, format, types, import rules and all tests; stops at the first failure"
	@echo "make check   the tests alone"
	@echo "make bench   size, quality, speed and memory beside other codecs, as tables; an hour"
	@echo "make damage  10,000 damaged archives, 200 killed conversions, one tensor out of a gigabyte; a quarter of an hour"
	@echo "make fuzz    10,000 mutated files of every format through every reader, then an hour of coverage-guided fuzzing"
	@echo "make clean   remove all that these made, .venv included"

demo: $(VENV)/.demo
	$(BIN)/python samples/demo.py

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(JOBS)

check: $(VENV)/.dev
	$(BIN)/pytest -n $(JOBS)

bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/rate_distortion.py --results
	$(BIN)/python tests/benchmarks/gap.py --results
	$(BIN)/python tests/benchmarks/metrics.py --results
	$(BIN)/python tests/benchmarks/worst.py --results
	$(BIN)/python tests/benchmarks/speed.py --results
	$(BIN)/python tests/benchmarks/targets.py --results
	$(BIN)/python tests/benchmarks/scaling.py --results
	$(BIN)/python tests/benchmarks/real_models.py
	$(BIN)/python tests/benchmarks/lossless.py
	$(BIN)/python tests/benchmarks/unet.py
	$(BIN)/python tests/benchmarks/synthetic.py
	$(BIN)/python tests/benchmarks/delta.py
	$(BIN)/python tests/benchmarks/onnx_backend.py --results
	$(BIN)/python tests/benchmarks/onnx_models.py --results

fuzz: $(VENV)/.dev
	$(BIN)/python tests/hostile/fuzz.py --count 10000
	$(BIN)/python tests/hostile/fuzz_coverage.py -max_total_time=$(FUZZ_SECONDS)

damage: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/damage.py
	$(BIN)/python tests/benchmarks/kill.py
	$(BIN)/python tests/benchmarks/remote.py

clean:
	rm -rf $(VENV) demo build dist $(CACHES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per set of packages: the second run starts at once, a change of these files installs again.
$(VENV)/.demo: pyproject.toml constraints.txt frconvert/coding/_native.c | $(BIN)/python
	@echo "installing what the demo needs into $(VENV) (the first time takes a minute or more)"
	@$(INSTALL) -e ".[torch,plot]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt frconvert/coding/_native.c | $(BIN)/python
	@echo "installing what the tests need into $(VENV) (the first time takes a minute or more)"
	@$(INSTALL) -e ".[dev]"
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.dev
	@$(INSTALL) -e ".[dev,bench]"
	@touch $@

# A half-made environment (Debian without python3-venv) is removed, so that the next run starts afresh.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON): not found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(None if sys.version_info >= (3, 11) else \
		"frconvert needs Python 3.11 or later; $(PYTHON) is " + v + "; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# make demo    train from Kafka, kill -9, resume, compare with offline (KAFKA=no: no broker)
# make test    ruff, mypy, pytest on WORKERS=3 processes; what .ci/run calls
# make soak    kill workers and the broker at random for MINUTES=10, and look what holds then
# make lint    ruff and mypy alone
# make mutants  break the kernels, see that the tests find each mutant (ONLY="rows.h": some)
# make bench   measure beside the peers, write benchmarks/results.md (ONLY="S1 S4": some of it)
# make wheel   build dist/streamfit-*.whl, which runs on any x86-64 (AVX2 is chosen as it starts)
# make format  let ruff rewrite what it can
# make clean   remove what was built, .venv included
#
# The first of them makes .venv; PYTHON=python3.12 says from which Python.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERNELS := $(wildcard streamfit/_kernels/*.pyx streamfit/_kernels/*.pxd streamfit/_kernels/*.h)
BUILT = streamfit/_kernels/*.so streamfit/_kernels/*.c build *.egg-info
IS_NEW = -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
WORKERS ?= 3
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p $(IS_NEW) && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo test browser soak lint mutants bench wheel format clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(READY)
	@$(BIN)/python examples/demo.py $(if $(filter no,$(KAFKA)),--no-kafka)

test: lint browser
	@echo "pytest"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The live page is tested in Debian's Chromium. CI gets it; what a developer installs is theirs to say.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null \
		|| { [ "$$CI" = true ] && echo "installing chromium" && apt-get update -qq \
			&& apt-get install -qq -y --no-install-recommends chromium chromium-driver >/dev/null; } \
		|| echo "chromium and chromedriver were not found: the live page will not be tested"

soak: $(READY)
	@$(BIN)/python tests/soak/soak.py --minutes $(or $(MINUTES),10)

lint: $(READY)
	@echo "ruff"
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@echo "mypy"
	@$(BIN)/mypy --no-error-summary streamfit connectors examples benchmarks

mutants: $(READY)
	@$(BIN)/python -m tests.mutants $(ONLY)

bench: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@$(BIN)/python -m benchmarks.run $(if $(ONLY),--only $(ONLY))

wheel: $(READY)
	@rm -rf build dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

format: $(READY)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:
	@rm -rf $(VENV) $(BUILT) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# An edited kernel is compiled again. The old one goes first, so that a failure leaves none.
$(READY): pyproject.toml setup.py $(KERNELS)
	@[ -n "$(PYTHON)" ] && $(PYTHON) $(IS_NEW) \
		|| { echo "streamfit needs Python 3.11 or newer; name one: make PYTHON=..." >&2; exit 1; }
	@command -v $(CC) >/dev/null \
		|| { echo "streamfit compiles its kernels and $(CC) was not found: install gcc" >&2; exit 1; }
	@[ -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] \
		|| { echo "the headers of $(PYTHON) were not found: install python3-dev" >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "making $(VENV)" && $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@rm -rf $(BUILT)
	@echo "installing streamfit and what its tests and examples need"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev]'
	@touch $@

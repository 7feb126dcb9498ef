# make setup | demo | test | docs | bench | soak | fuzz | screenshots | clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARCH := $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
GUEST_BIN := guest/bin/$(ARCH)
SHIM := vmm/bin/$(ARCH)/private_ram.so
GUEST_SOURCES := $(wildcard guest/*.c guest/*.h guest/Makefile)
# The environment is made again when one of these has other contents, whatever their times say.
STAMP := $(VENV)/.machinen-$(shell cat pyproject.toml guest/build_hook.py | sha256sum | cut -c1-16)
# pip and apt name their servers; nobody needs that in a build log.
HIDE_HOSTS := sed -u -E 's\#[a-z+]+://[^ ,]+\#<server>\#g'

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.DEFAULT_GOAL := setup
.PHONY: setup system-packages demo test lint guest-test docs bench soak fuzz screenshots wheel clean distclean

setup: system-packages $(STAMP) $(GUEST_BIN)/agent $(SHIM)
	@$(BIN)/machinen install

system-packages:
	@PYTHON=$(PYTHON) .ci/system-packages.sh

$(STAMP): | system-packages
	@echo "machinen: installing the Python package into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq -e '.[dev]' 2>&1 | $(HIDE_HOSTS)
	@rm -f $(VENV)/.machinen-*
	@touch $@

# Compiled by the package's build as well; here when a source changed after it.
$(GUEST_BIN)/agent: $(GUEST_SOURCES) | $(STAMP)
	@echo "machinen: compiling the guest binaries"
	@$(BIN)/python guest/build_guest.py

$(SHIM): vmm/private_ram.c vmm/build_shim.py | $(STAMP)
	@echo "machinen: compiling what lets forks give memory back"
	@$(BIN)/python vmm/build_shim.py

demo: setup
	@$(BIN)/machinen-tui --demo

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

guest-test:
	$(MAKE) --no-print-directory -C guest test

# The type checker and the guest's own tests are among the tests: see tests/test_types.py,
# tests/guest/test_parsers.py.
test: setup
	@PYTHON=$(PYTHON) .ci/system-packages.sh --tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# docs/api.md and machinen_runtime/sync.pyi, from the code
docs: setup
	$(BIN)/python -m docs.generate_api

bench: setup
	$(BIN)/python -m bench

soak: setup
	$(BIN)/python -m bench.soak

# bytes of strangers into every reader: docs/security.md
fuzz: setup
	$(BIN)/python -m bench.fuzz

screenshots: setup
	@command -v rsvg-convert >/dev/null || { echo "machinen: PNGs need rsvg-convert: install librsvg2-bin" >&2; exit 1; }
	$(BIN)/python -m bench.screenshots
	$(BIN)/python -m bench.demo_cast

wheel: setup
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist guest/build guest/bin vmm/bin .pytest_cache .ruff_cache .hypothesis *.egg-info
	find machinen_tui machinen_runtime vmm guest tests bench -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

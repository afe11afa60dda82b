# `make` prints what there is. `make demo` and `make test` do all set-up themselves.
#
# demo, test and lint share one profile (dev, which is optimized here), so that RocksDB's C++ is compiled once for all
# three. CARGO_TARGET_DIR moves the build output; cargo's other variables work too.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-python lint bench peers

CARGO ?= cargo
# The data sets of `make bench`, and where it writes its figures.
DATA ?= ../shared/data
RESULTS ?= $(or $(CARGO_TARGET_DIR),target)/bench-results
# The data set of `make peers`, and more arguments for bench/peers/run.py.
DATASET ?= ottqa-100k-minilm-384-ip
PEERS_ARGS ?=

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Check for cargo, a C++ compiler and libclang; install libclang if it is missing
	@scripts/setup.sh

demo: setup ## Build, import real text, start the server, ask it real questions, stop
	@$(CARGO) build --workspace --bins
	@$(CARGO) run --quiet --bin spandrel -- demo $(DEMO_ARGS)

test: setup ## Build and run all tests; those in Python too, where there is Python
	@$(CARGO) test --workspace $(TEST_ARGS)
	@$(MAKE) --no-print-directory test-python

test-python: ## Test the built server and command line from Python alone
	@$(CARGO) build --quiet --workspace --bins
	@scripts/test_python.sh

lint: setup ## Check formatting, and clippy with warnings as errors
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

bench: setup ## Measure beside numpy and faiss: DATA=folder of data sets, RESULTS=folder for figures
	@test -d "$(DATA)" || { echo "bench: no folder '$(DATA)'; name the data sets: make bench DATA=..." >&2; exit 1; }
	@echo "bench: optimized build, with a RocksDB of its own the first time (10 to 15 minutes on 2 cores)"
	@$(CARGO) build --profile bench --workspace --bins
	@mkdir -p "$(RESULTS)"
	@python="$$(scripts/python_env.sh peers bench/peers/requirements.txt)"; \
	$(CARGO) run --quiet --profile bench --bin spandrel-bench -- \
	    flat --data "$(DATA)" --python "$$python" --json "$(RESULTS)/flat.json"
	@$(CARGO) run --quiet --profile bench --bin spandrel-bench -- \
	    import --data "$(DATA)" --json "$(RESULTS)/import.json"

peers: ## Measure other vector libraries: DATA and RESULTS as for bench, DATASET=name, PEERS_ARGS=more
	@test -d "$(DATA)" || { echo "peers: no folder '$(DATA)'; name the data sets: make peers DATA=..." >&2; exit 1; }
	@mkdir -p "$(RESULTS)"
	@python="$$(scripts/python_env.sh peers bench/peers/requirements.txt)"; \
	"$$python" -B bench/peers/run.py --data "$(DATA)" --dataset "$(DATASET)" --out "$(RESULTS)/peers.json" $(PEERS_ARGS)

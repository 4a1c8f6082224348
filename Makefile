# What a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
LOG := target/test.log
# A story that fails says what it wanted and got; where in the kit it noticed is of no use.
export RUST_LIB_BACKTRACE ?= 0

.PHONY: help build test soak demo lint fmt postgresql clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## build every program, for debugging
	$(CARGO) build --workspace --bins --locked

test: postgresql ## every test, on real clusters; HOLDFAST_TEST_SEED and HOLDFAST_TEST_ROUNDS repeat random ones
	@mkdir -p target; started=$$SECONDS; status=0; \
	$(CARGO) test --workspace --locked --no-fail-fast 2>&1 | tee $(LOG) || status=$$?; \
	skipped=$$(grep -c 'skipped: needs root' $(LOG) || true); \
	echo "make test: $$((SECONDS - started)) s, $$skipped skipped because they need root"; \
	exit $$status

soak: export HOLDFAST_TEST_ROUNDS ?= 100
soak: test ## the same with the full number of random rounds, and every fault at every call

demo: postgresql ## watch a cluster lose a table and get it back
	$(CARGO) build --release --workspace --bins --locked
	target/release/holdfast-demo

lint: ## what CI checks before the tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items --locked

fmt: ## format the code
	$(CARGO) fmt --all

postgresql:
	@contrib/install-postgresql.sh

clean: ## remove what was built
	$(CARGO) clean

# What a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
LOG := target/test.log
# A story that fails says what it wanted and got; where in the kit it noticed is of no use.
export RUST_LIB_BACKTRACE ?= 0
# A story waits for its servers now and then: one more runs than there are processors.
export RUST_TEST_THREADS ?= $(shell expr $$(nproc) + 1)
# What make fuzz looks at, and for how long each.
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard tests/fuzz/src/bin/*.rs)))
FUZZ_SECONDS ?= 60

# Which versions of PostgreSQL make versions and make matrix test.
VERSIONS ?= 14 16 17 18
MATRIX ?= 14 15 16 17 18

.PHONY: help build test versions matrix soak fuzz demo bench lint fmt postgresql clean

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

versions: postgresql ## short stories and the WAL reader on PostgreSQL 14, 16, 17 and 18, which it installs; VERSIONS names others
	@$(CARGO) test --workspace --locked --no-run
	@AT_ONCE=2 contrib/each-postgresql.sh '$(VERSIONS)' $(CARGO) test --workspace --locked --no-fail-fast \
	--test stories --test wal_reader -- short_story:: of_postgresql

matrix: postgresql ## every test that needs a server, on each of PostgreSQL 14 to 18; MATRIX names others
	@$(CARGO) test --workspace --locked --no-run
	@contrib/each-postgresql.sh '$(MATRIX)' $(CARGO) test --workspace --locked --no-fail-fast \
	--test stories --test wal_reader --test server

soak: export HOLDFAST_TEST_ROUNDS ?= 100
soak: test ## the same with the full number of random rounds, and every fault at every call

fuzz: ## look for bytes that break a parser, FUZZ_SECONDS (60) for each of FUZZ_TARGETS (all); needs a nightly compiler
	@$(CARGO) +nightly --version >/dev/null 2>&1 || \
	{ echo 'make fuzz: there is no nightly compiler; type: rustup toolchain install nightly' >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
	{ echo 'make fuzz: cargo-fuzz is not installed; type: cargo install --locked cargo-fuzz' >&2; exit 1; }
	$(CARGO) +nightly fuzz build --fuzz-dir tests/fuzz --target-dir target/fuzz
	@for target in $(FUZZ_TARGETS); do \
	mkdir -p target/fuzz/{corpus,artifacts}/$$target; \
	$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz $$target \
	target/fuzz/corpus/$$target tests/fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
	-max_len=20000 -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix=target/fuzz/artifacts/$$target/; \
	done

demo: postgresql ## watch a cluster lose a table and get it back
	$(CARGO) build --release --workspace --bins --locked
	target/release/holdfast-demo

bench: postgresql ## measure beside a shell pipe and pgBackRest, where it is installed; a report in Markdown
	$(CARGO) build --release --workspace --bins --locked
	$(CARGO) build --profile faulty -p restore-wal --bins --locked --features common/faults
	@HOLDFAST_BENCH_SLOW_STORE=target/faulty/restore-wal target/release/holdfast-bench

lint: ## what CI checks before the tests
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items --locked

fmt: ## format the code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml

postgresql:
	@contrib/install-postgresql.sh

clean: ## remove what was built
	$(CARGO) clean

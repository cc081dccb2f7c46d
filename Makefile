# Everything a person or CI runs here. `make help` lists it.
#
# Tools that the tests need are installed by tests/tools at pinned versions into .cache/ (QRELAY_CACHE overrides),
# Debian packages only where they are missing. Each step stops at its first failure and says how to run it again.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STEP := tests/tools/step
TARGET := $(or $(CARGO_TARGET_DIR),target)

# How often the crash ledger kills the server.
export QRELAY_TEST_KILLS ?= 25
# How many seconds the cluster ledger goes on killing, stopping and cutting.
export QRELAY_TEST_LEDGER_SECONDS ?= 120
# How many events one endpoint falls behind another.
export QRELAY_TEST_BEHIND ?= 50000
# How many seeds each simulation of the dispatcher's tests runs.
export QRELAY_TEST_SEEDS ?= 25
# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 60
# Arguments for the benchmark, say `make bench BENCH="--cycles 9"`.
BENCH ?=

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: ## Everything that proves the product works: contract lint, all tests, published client libraries.
	@$(STEP) tools tests/tools/install
	@$(STEP) contract tests/tools/buf lint proto
	@$(STEP) tests cargo test --workspace
	@# The other half: those marked `#[ignore = "needs X: run by make test"]`, all of them end to end. (Ignored tests inside
	@# a crate are bodies that its other tests run in a process or a file system of their own.)
	@$(STEP) tests-with-tools cargo test --workspace --test it -- --ignored --skip three_nodes::
	@# By themselves: three nodes and the processes on them are enough for a machine.
	@$(STEP) three-nodes cargo test --workspace --test it three_nodes:: -- --ignored --show-output --test-threads=1
	@tests/tools/summary tests tests-with-tools three-nodes

.PHONY: test-long
test-long: export QRELAY_TEST_KILLS := 250
test-long: export QRELAY_TEST_LEDGER_SECONDS := 3600
test-long: export QRELAY_TEST_BEHIND := 1000000
test-long: export QRELAY_TEST_SEEDS := 5000
test-long: test ## The same with ten times as many kills, an hour of the cluster ledger, an endpoint a million events behind, thousands of seeds.

.PHONY: fmt
fmt: ## Format the code.
	cargo fmt --all

.PHONY: lint
lint: ## Check formatting and run clippy; warnings are errors.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: docs
docs: ## Build the API documentation; warnings are errors.
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

.PHONY: deny
deny: ## Check licences, banned crates and sources of all dependencies.
	tests/tools/cargo-deny check --hide-inclusion-graph licenses bans sources

.PHONY: fuzz
fuzz: ## Fuzz each parser of remote bytes for FUZZ_SECONDS (needs a nightly toolchain).
	tests/tools/fuzz $(FUZZ_SECONDS)

.PHONY: bench
bench: ## All benchmarks and their table: figures beside their bounds, as text, JSON and a picture (some forty minutes, see loadtest/README.md).
	tests/tools/install nginx
	cargo build --release -p qrelay -p qrelay-loadtest
	cargo build --release -p qrelay-store --example seed_codes
	$(TARGET)/release/qrelay-loadtest bench --qrelay $(TARGET)/release/qrelay --seeder $(TARGET)/release/examples/seed_codes \
		--dir $(TARGET)/bench --json $(TARGET)/bench/figures.json --picture $(TARGET)/bench/figures.svg $(BENCH)

.PHONY: bench-redirect
bench-redirect: ## Benchmark the redirect against nginx: server CPU per request (some ten minutes).
	tests/tools/install nginx
	cargo build --release -p qrelay -p qrelay-loadtest
	$(TARGET)/release/qrelay-loadtest redirect --qrelay $(TARGET)/release/qrelay \
		--dir $(TARGET)/bench --json $(TARGET)/bench/redirect.json $(BENCH)

.PHONY: bench-codes
bench-codes: ## Benchmark scans and a start with ten million codes against a thousand (some fifteen minutes the first time).
	cargo build --release -p qrelay -p qrelay-loadtest
	cargo build --release -p qrelay-store --example seed_codes
	$(TARGET)/release/qrelay-loadtest codes --qrelay $(TARGET)/release/qrelay --seeder $(TARGET)/release/examples/seed_codes \
		--dir $(TARGET)/bench --json $(TARGET)/bench/codes.json $(BENCH)

.PHONY: bench-memory
bench-memory: ## Benchmark what an idle process, a cached code and an idle endpoint hold (some three minutes).
	cargo build --release -p qrelay -p qrelay-loadtest
	cargo build --release -p qrelay-store --example seed_codes
	$(TARGET)/release/qrelay-loadtest memory --qrelay $(TARGET)/release/qrelay --seeder $(TARGET)/release/examples/seed_codes \
		--dir $(TARGET)/bench --json $(TARGET)/bench/memory.json $(BENCH)

.PHONY: bench-deliveries
bench-deliveries: ## Benchmark deliveries against a loop of signed POSTs (some five minutes, see loadtest/README.md).
	cargo build --release -p qrelay -p qrelay-loadtest
	$(TARGET)/release/qrelay-loadtest deliveries --qrelay $(TARGET)/release/qrelay \
		--dir $(TARGET)/bench --json $(TARGET)/bench/deliveries.json $(BENCH)

.PHONY: bench-latency
bench-latency: ## Benchmark how long a scan takes to its redirect and its webhook at 1,000 scans/s (a minute, see loadtest/README.md).
	cargo build --release -p qrelay -p qrelay-loadtest
	$(TARGET)/release/qrelay-loadtest latency --qrelay $(TARGET)/release/qrelay \
		--dir $(TARGET)/bench --json $(TARGET)/bench/latency.json $(BENCH)

.PHONY: bench-cluster
bench-cluster: ## Benchmark the same across processes on a CQL cluster of one node, at 200 scans/s (a minute, needs a JDK and Maven).
	cargo build --release -p qrelay -p qrelay-loadtest
	$(TARGET)/release/qrelay-loadtest cluster --qrelay $(TARGET)/release/qrelay \
		--dir $(TARGET)/bench --json $(TARGET)/bench/cluster.json $(BENCH)

.PHONY: bench-backlog
bench-backlog: ## Benchmark an endpoint that catches up with a million events (some five minutes, see loadtest/README.md).
	cargo build --release -p qrelay -p qrelay-loadtest
	$(TARGET)/release/qrelay-loadtest backlog --qrelay $(TARGET)/release/qrelay \
		--dir $(TARGET)/bench --json $(TARGET)/bench/backlog.json $(BENCH)

.PHONY: bench-isolation
bench-isolation: ## Benchmark a healthy endpoint alone and beside bad ones (some three minutes, see loadtest/README.md).
	cargo build --release -p qrelay -p qrelay-loadtest
	$(TARGET)/release/qrelay-loadtest isolation --qrelay $(TARGET)/release/qrelay \
		--dir $(TARGET)/bench --json $(TARGET)/bench/isolation.json $(BENCH)

.PHONY: bench-appends
bench-appends: CQL := $(TARGET)/bench/cql
bench-appends: ## Benchmark recorded scans on a CQL cluster of one node, alone and gathered into batches (a minute, once built).
	cargo bench -p qrelay-store --bench cql_appends --no-run
	trap 'tests/tools/cassandra stop $(CQL); rm -rf $(CQL)' EXIT; \
	tests/tools/cassandra start $(CQL) --heap 1024; \
	cargo bench -p qrelay-store --bench cql_appends -- 127.0.0.1:19042 $$(cat $(CQL)/1/pid)

.PHONY: bench-quick
bench-quick: ## The same in under three minutes, once built.
	@$(MAKE) --no-print-directory bench BENCH="--quick $(BENCH)"

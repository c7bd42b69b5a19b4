# `make` lists what there is. The demo and test-fast need Rust alone; the others install what else they need.

STACK ?= ghcr-to-ecr
export PATH := $(CURDIR)/.tools/venv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0

.DEFAULT_GOAL := help
.PHONY: help demo test-fast test build deploy invoke fmt clean

help: ## list these targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## copy an image between two registries on this machine, through the real binary
	cargo build --release --locked --bin bootstrap
	cargo run --release --locked --package support --bin demo -- target/release/bootstrap

test-fast: ## format, lints, tests and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

test: test-fast ## all of that, and the built function in a container, between real registries
	tests/real/install.sh
	PYTHONDONTWRITEBYTECODE=1 .tools/venv/bin/python -m pytest -p no:cacheprovider tests/real

.tools/venv/requirements.txt: tests/real/requirements.txt
	tests/real/install.sh python

build: .tools/venv/requirements.txt ## the function for AWS (ARCHITECTURE=x86_64 for Intel and AMD)
	cargo lambda build --release --locked --bin bootstrap $(if $(filter x86_64,$(ARCHITECTURE)),--x86-64,--arm64)

deploy: .tools/venv/requirements.txt ## build and deploy with AWS SAM; asks, or takes PARAMETERS="DestinationRepositories=arn:… Rules=…"
	sam build
	sam deploy --stack-name $(STACK) $(if $(PARAMETERS),--parameter-overrides $(PARAMETERS),--guided)

invoke: .tools/venv/requirements.txt ## invoke the deployed function with an event: EVENT=events/….json
	@test -n "$(EVENT)" || { echo 'make invoke EVENT=events/….json' >&2; exit 2; }
	sam remote invoke CopyFunction --stack-name $(STACK) --event-file $(EVENT)

fmt: ## format the Rust code
	cargo fmt --all

clean: ## remove what was built, and the tools and images of the tests
	cargo clean
	rm -rf .aws-sam .tools

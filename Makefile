# `make` lists what there is. The demo and test-fast need Rust alone, fuzz a C++ compiler too; the others install what else they need.

# One of the environments in samconfig.toml.
ENVIRONMENT ?= default
# Settings of the function when it runs on this machine.
ENV ?= events/environment.json
FUNCTION ?= CopyFunction
PORT ?= 3000

export PATH := $(CURDIR)/.tools/venv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0

# What runs here is built for here. In the place of Lambda's base image the one that the tests have made will do, if any.
HOST_ARCHITECTURE := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x86_64)
LOCAL_BUILD := .tools/sam
LOCAL_IMAGE := ghcr-to-ecr/lambda:provided-$(HOST_ARCHITECTURE)
LOCAL_OPTIONS = --template $(LOCAL_BUILD)/template.yaml --parameter-overrides Architecture=$(HOST_ARCHITECTURE) \
	--env-vars $(ENV) \
	$(if $(shell docker image ls --quiet $(LOCAL_IMAGE) 2>/dev/null),--invoke-image $(LOCAL_IMAGE) --skip-pull-image)

.DEFAULT_GOAL := help
.PHONY: help demo bench test-fast test fuzz build local-build invoke start-api deploy remote-invoke fmt clean

help: ## list these targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## copy an image between two registries on this machine, through the real binary
	cargo build --release --locked --bin bootstrap
	cargo run --release --locked --package support --bin demo -- target/release/bootstrap

bench: ## measure beside skopeo, and the floor by curl (CASES="a f", ROUNDS=5)
	tests/real/install.sh peers
	cargo build --release --locked --bin bootstrap
	cargo run --release --locked --package bench -- $(if $(ROUNDS),--rounds $(ROUNDS)) target/release/bootstrap $(CASES)

test-fast: ## format, lints, tests, the demo and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	cargo run --locked --package support --bin demo -- target/debug/bootstrap
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

test: test-fast ## all of that, and the built functions in a container, between real registries
	tests/real/install.sh
	PYTHONDONTWRITEBYTECODE=1 .tools/venv/bin/python -m pytest -p no:cacheprovider tests/real

fuzz: ## fuzz what reads outside bytes: FUZZ_SECONDS=30 for each target, TARGETS="event http …" for some
	tests/fuzz/run.sh $(TARGETS)

.tools/venv/requirements.txt: tests/real/requirements.txt
	tests/real/install.sh python

build: .tools/venv/requirements.txt ## the function for AWS (ARCHITECTURE=x86_64 for Intel and AMD)
	cargo lambda build --release --locked --bin bootstrap $(if $(filter x86_64,$(ARCHITECTURE)),--x86-64,--arm64)

local-build: .tools/venv/requirements.txt
	sam build --parameter-overrides Architecture=$(HOST_ARCHITECTURE) --build-dir $(LOCAL_BUILD)

invoke: local-build ## invoke the function in a container here: EVENT=events/….json (ENV=….json for its settings, FUNCTION=…)
	@test -n "$(EVENT)" || { echo 'make invoke EVENT=events/….json' >&2; exit 2; }
	sam local invoke $(FUNCTION) --event $(EVENT) $(LOCAL_OPTIONS)

start-api: local-build ## the webhook in a container here, on http://127.0.0.1:3000/webhook (ENV=….json, PORT=…)
	sam local start-api --port $(PORT) $(LOCAL_OPTIONS)

deploy: .tools/venv/requirements.txt ## build and deploy (ENVIRONMENT=production); asks, or takes PARAMETERS="DestinationRepositories=arn:… Rules=…"
	sam build
	sam deploy --config-env $(ENVIRONMENT) $(if $(PARAMETERS),--parameter-overrides $(PARAMETERS),--guided)

remote-invoke: .tools/venv/requirements.txt ## invoke the deployed function: EVENT=events/….json (ENVIRONMENT=production)
	@test -n "$(EVENT)" || { echo 'make remote-invoke EVENT=events/….json' >&2; exit 2; }
	sam remote invoke CopyFunction --config-env $(ENVIRONMENT) --event-file $(EVENT)

fmt: ## format the Rust code
	cargo fmt --all

clean: ## remove what was built, and the tools and images of the tests
	cargo clean
	rm -rf .aws-sam .tools

# `make` lists what there is. copy, the demo and test-fast need Rust alone, fuzz a C++ compiler too; the others install what else they need.

# One of the environments in samconfig.toml, and the file of its parameters, from which the build learns the architecture too.
ENVIRONMENT ?= development
PARAMETERS ?= deploy/$(ENVIRONMENT).yaml
# Settings of the function when it runs on this machine.
ENV ?= events/environment.json
FUNCTION ?= CopyFunction
PORT ?= 3000

# SAM runs cargo, and cargo finds cargo-lambda by PATH. make 3.81, which macOS has, does not look for commands along a PATH
# that a Makefile exports, so each command gets its own. The architecture is the parameter's, but SAM tells cargo-lambda of
# arm64 alone, and without a word of it an ARM machine would build for itself; --arm64 beats what is set here.
SAM := PATH="$(CURDIR)/.tools/venv/bin:$$PATH" CARGO_LAMBDA_BUILD='{x86_64=true}' SAM_CLI_TELEMETRY=0 .tools/venv/bin/sam
TOOLS := .tools/venv/deploy.txt

# What runs here is built for here. In the place of Lambda's base image the one that the tests have made will do, if any.
HOST_ARCHITECTURE := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x86_64)
LOCAL_BUILD := .tools/sam
LOCAL_IMAGE := ghcr-to-ecr/lambda:provided-$(HOST_ARCHITECTURE)
LOCAL_OPTIONS = --template $(LOCAL_BUILD)/template.yaml --parameter-overrides Architecture=$(HOST_ARCHITECTURE) \
	--env-vars $(ENV) \
	$(if $(shell docker image ls --quiet $(LOCAL_IMAGE) 2>/dev/null),--invoke-image $(LOCAL_IMAGE) --skip-pull-image)

.DEFAULT_GOAL := help
.PHONY: help copy demo picture bench test-fast test fuzz advisories parameters build local-build package invoke start-api \
	deploy remote-invoke doctor release-function release-command release fmt clean

help: ## list these targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# In the development profile, which is built in a fraction of the time: a copy waits for the network. The shell reads the names from
# the environment, which make puts its command line's variables into, so that nothing in them is a command to it. Standard output
# has the command's result alone.
copy: ## copy an image from this machine: SOURCE=ghcr.io/…:1.2.3 DESTINATION=repository (OPTIONS=--dry-run)
	@test -n "$$SOURCE" || { echo 'make copy SOURCE=ghcr.io/owner/name:tag DESTINATION=repository[:tag]' >&2; exit 2; }
	@cargo run --locked --features cli --bin ghcr-to-ecr -- copy $(OPTIONS) -- "$$SOURCE" $${DESTINATION:+"$$DESTINATION"}

# The development profile: the release profile's link-time optimisation takes longer than all else together. And the whole
# workspace's features, though only these two are built: then both share one build of each crate, which the tests use too.
demo: ## copy an image between two registries on this machine, through the real binary
	cargo build --locked --workspace $(FEATURES) --bin bootstrap --bin demo
	target/debug/demo target/debug/bootstrap

PICTURE ?= docs/one-copy.svg

picture: ## draw the README's picture of one copy from what the demo shows
	cargo build --locked --workspace $(FEATURES) --bin bootstrap --bin demo
	python3 docs/one-copy.py $(PICTURE) target/debug/demo target/debug/bootstrap

bench: ## measure beside skopeo, and the floor by curl (CASES="a f", ROUNDS=5)
	tests/real/install.sh peers
	cargo build --release --locked --bin bootstrap
	cargo run --release --locked --package bench -- $(if $(ROUNDS),--rounds $(ROUNDS)) target/release/bootstrap $(CASES)

# Four tests at a time even on two processors: they wait more than they compute. With the laptop's command; the first lint is of the function as it is deployed, without it.
test-fast: FEATURES := --features cli
test-fast: ## format, lints, tests, the demo and documentation
	cargo fmt --all --check
	cargo clippy --bin bootstrap --locked -- -D warnings
	cargo clippy --workspace $(FEATURES) --all-targets --locked -- -D warnings
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} cargo test --workspace $(FEATURES) --locked
	$(MAKE) demo FEATURES="$(FEATURES)"
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace $(FEATURES) --no-deps --locked

test: test-fast ## all of that, and the built functions in a container, between real registries
	tests/real/install.sh
	tests/real/run.sh

fuzz: ## fuzz what reads outside bytes: FUZZ_SECONDS=30 for each target, TARGETS="event http …" for some
	tests/fuzz/run.sh $(TARGETS)

advisories: ## ask the RustSec database, which is fetched from GitHub, about known flaws of the dependencies
	tests/real/install.sh cargo-deny
	.tools/cargo/bin/cargo-deny --locked check advisories

$(TOOLS): deploy/requirements.txt
	deploy/install.sh

# SAM ignores a parameter that the template does not have.
parameters:
	@test -f "$(PARAMETERS)" || { echo 'there is no $(PARAMETERS): copy deploy/example.yaml there and fill it in, or name another file: PARAMETERS=….yaml' >&2; exit 2; }
	@for name in $$(sed -n 's/^\([A-Za-z][A-Za-z]*\):.*/\1/p' "$(PARAMETERS)"); do \
		grep -q "^  $$name:" template.yaml || { echo "$(PARAMETERS): template.yaml has no parameter $$name" >&2; exit 2; }; \
	done

build: parameters $(TOOLS) ## the functions for AWS, as the parameters say (ENVIRONMENT=production, or PARAMETERS=….yaml)
	$(SAM) build --parameter-overrides file://$(PARAMETERS)

# With the flags of `package`: whoever has made one has compiled for the other.
local-build: $(TOOLS)
	$(WITHOUT_PATHS) $(SAM) build --parameter-overrides Architecture=$(HOST_ARCHITECTURE) --build-dir $(LOCAL_BUILD)

# For both processors the same sources give the same bytes, with the same versions of Rust, of the tools in
# deploy/requirements.txt and of Python: the binary knows no path of this machine, and the zip no time.
ARCHITECTURE ?= arm64
ARCHIVE := target/package/ghcr-to-ecr-$(ARCHITECTURE)
CARGO_FOLDER := $(or $(CARGO_HOME),$(HOME)/.cargo)
WITHOUT_PATHS = RUSTFLAGS="--remap-path-prefix=$(CURDIR)=/source --remap-path-prefix=$(CARGO_FOLDER)=/cargo" \
	CFLAGS="-ffile-prefix-map=$(CURDIR)=/source -ffile-prefix-map=$(CARGO_FOLDER)=/cargo"
# Fails where a path of this machine is in a binary all the same.
SEARCH_PATHS = @grep --quiet --text --fixed-strings --regexp="$(CURDIR)/" --regexp="$(CARGO_FOLDER)/" $(1); \
	test $$? = 1 || { echo 'a path of this machine is in $(1), or it could not be searched' >&2; exit 2; }

package: $(TOOLS) ## the function's zip, checksum and bill of materials, in target/package (ARCHITECTURE=x86_64)
	mkdir -p $(dir $(ARCHIVE))
	PATH="$(CURDIR)/.tools/venv/bin:$$PATH" $(WITHOUT_PATHS) \
		cargo lambda build --release --locked --bin bootstrap $(if $(filter arm64,$(ARCHITECTURE)),--arm64,--x86-64)
	$(call SEARCH_PATHS,target/lambda/bootstrap/bootstrap)
	.tools/venv/bin/python deploy/package.py target/lambda/bootstrap/bootstrap $(ARCHIVE).zip >$(ARCHIVE).zip.sha256
	.tools/venv/bin/python deploy/bill_of_materials.py $(ARCHITECTURE) >$(ARCHIVE).cdx.json
	@cat $(ARCHIVE).zip.sha256

# What a release consists of, as .github/workflows/release.yml builds it; see docs/releasing.md.
release-function: package
	deploy/release/linux_binary.py $(ARCHITECTURE) 2.34 target/lambda/bootstrap/bootstrap
ifeq ($(ARCHITECTURE),$(HOST_ARCHITECTURE))
	cargo build --locked --workspace --bin demo
	target/debug/demo target/lambda/bootstrap/bootstrap
endif

VERSION = $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml)
# For Linux by cargo-lambda, as the function is: zig links it so that it runs with any glibc since 2.17, the oldest that Rust
# supports. In a folder of its own, or it would undo what was compiled for the function.
TARGET ?= $(shell rustc --print host-tuple)
LINUX = $(findstring linux,$(TARGET))
COMMAND_ARCHIVE = ghcr-to-ecr-$(VERSION)-$(TARGET)
COMMAND = target/command/$(if $(LINUX),lambda/ghcr-to-ecr/bootstrap,$(TARGET)/release/ghcr-to-ecr)

release-command: $(if $(LINUX),$(TOOLS))
	cargo fetch --locked
	PATH="$(CURDIR)/.tools/venv/bin:$$PATH" $(WITHOUT_PATHS) CARGO_TARGET_DIR=target/command \
		cargo $(if $(LINUX),lambda build --target $(TARGET).2.17,build --target $(TARGET)) \
		--release --locked --features cli --bin ghcr-to-ecr
	$(call SEARCH_PATHS,$(COMMAND))
	$(if $(LINUX),deploy/release/linux_binary.py $(if $(filter aarch64-%,$(TARGET)),arm64,x86_64) 2.17 $(COMMAND))
	$(if $(filter $(TARGET),$(shell rustc --print host-tuple)),$(COMMAND) --version)
	deploy/third_party.py >target/command/THIRD-PARTY.txt
	deploy/release/tarball.py $(COMMAND_ARCHIVE) $(COMMAND) LICENSE target/command/THIRD-PARTY.txt target/package
	deploy/bill_of_materials.py $(TARGET) >target/package/$(COMMAND_ARCHIVE).cdx.json

# From what all builds have left in BUILDS. GitHub's workflows set GITHUB_REPOSITORY.
RELEASE ?= target/release-files

release:
	cargo fetch --locked
	deploy/release/assemble.py $(VERSION) "$(GITHUB_REPOSITORY)" $(BUILDS) $(RELEASE)

invoke: local-build ## invoke the function in a container here: EVENT=events/….json (ENV=….json for its settings, FUNCTION=…)
	@test -n "$(EVENT)" || { echo 'make invoke EVENT=events/….json' >&2; exit 2; }
	$(SAM) local invoke $(FUNCTION) --event $(EVENT) $(LOCAL_OPTIONS)

start-api: local-build ## the webhook in a container here, on http://127.0.0.1:3000/webhook (ENV=….json, PORT=…)
	$(SAM) local start-api --port $(PORT) $(LOCAL_OPTIONS)

deploy: build ## build and deploy with the parameters in deploy/development.yaml (ENVIRONMENT=production, or PARAMETERS=….yaml)
	$(SAM) deploy --config-env $(ENVIRONMENT) $(if $(AWS_REGION),--region $(AWS_REGION)) --parameter-overrides file://$(PARAMETERS)

STACK = $(shell sed -n '/^\[$(ENVIRONMENT)\.global\./,/^stack_name/ s/^stack_name *= *"\(.*\)".*/\1/p' samconfig.toml)

# A function of the deployed stack, and a file with the event. By the AWS CLI: SAM's own command gives up after a minute, and
# invokes again.
INVOKE = AWS_MAX_ATTEMPTS=1 aws lambda invoke --cli-read-timeout 0 --cli-binary-format raw-in-base64-out --function-name "$$( \
		aws cloudformation describe-stack-resource --logical-resource-id $(1) --stack-name $(STACK) \
			--query StackResourceDetail.PhysicalResourceId --output text)" \
		--payload file://$(2)

remote-invoke: ## invoke the deployed function: EVENT=events/….json (ENVIRONMENT=production)
	@test -n "$(EVENT)" || { echo 'make remote-invoke EVENT=events/….json' >&2; exit 2; }
	$(call INVOKE,CopyFunction,$(EVENT)) /dev/stdout

# Each has its own rights and settings: only the one that takes webhooks can read their secret.
doctor: ## test everything that the deployed functions need, and say what to do (ENVIRONMENT=production)
	@answer=$$(mktemp) && trap 'rm -f "$$answer"' EXIT && status=0 && \
	for function in CopyFunction WebhookFunction; do \
		: >"$$answer"; \
		$(call INVOKE,$$function,events/check.json) "$$answer" >/dev/null || status=1; \
		python3 deploy/doctor.py "$$function" <"$$answer" || status=1; \
	done; exit $$status

fmt: ## format the Rust code
	cargo fmt --all

clean: ## remove what was built, and the tools and images of the tests
	cargo clean
	rm -rf .aws-sam .tools

# Every command of the project. `make` alone lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON_ENVIRONMENT := target/python
DEMO_OPTIONS ?=

.PHONY: help demo test soak conformance bench lint build packages test-packages python clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18

demo: packages build ## build, start the embedded cluster, fill it, mount it at ./demo/mnt (options: DEMO_OPTIONS='--port 4443')
	@target/release/arvados demo $(DEMO_OPTIONS)

build: ## build target/release/arvados
	cargo build --release --locked

test: packages test-packages python ## install what the tests need and run them (under 25 minutes)
	scripts/test

soak: packages test-packages python ## long campaigns: parsers against generated input, hours if you like (SOAK_FACTOR=10)
	scripts/soak

conformance: packages test-packages build ## fsx and pjdfstest on a mount (a few minutes; as root)
	ARVADOS_BINARY=target/release/arvados scripts/conformance

bench: packages test-packages python build ## compare with arv-mount and with the physical bound, as ratios
	scripts/bench

lint: ## formatting and lints, as CI checks them
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

packages:
	@scripts/install-packages fuse3 gcc libc6-dev

test-packages:
	@scripts/install-packages pkg-config libfuse-dev libcurl4-openssl-dev libssl-dev python3-dev python3-venv nginx-light rsync git

python: test-packages
	@scripts/python-environment $(PYTHON_ENVIRONMENT)

clean: ## remove the demo's cluster and its data (the build stays)
	@! grep -q " $(CURDIR)/demo/mnt " /proc/mounts || { echo "the demo is still mounted: end it first"; exit 1; }
	rm -rf demo

# `make` lists the commands. Each is a thin call: the work is in scripts/ and in cargo.

.DEFAULT_GOAL := help
.PHONY: help test demo bench fuzz test-long tls-check fmt lint peers clean-peers api-check

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

test: ## run all that CI runs; installs what is missing
	@scripts/test.sh

demo: ## create a wallet and see a transaction mined on a local node; leaves nothing running
	@scripts/demo.sh

bench: ## measure the protocol, the token and the whole server (optimised build, then about ten minutes)
	@scripts/setup.sh softhsm peers postgres programs
	scripts/with-postgres.sh cargo bench --workspace --locked --bench signature --bench envelope --bench decision --bench server --bench store

TIME = 600
fuzz: ## fuzz everything that comes from outside, for TIME seconds in all (default 600; TARGETS="sg1 body" for some)
	@scripts/fuzz.sh $(TIME) $(TARGETS)

test-long: ## everything in `make test`, then the tests marked ignored because they are slow
	@scripts/test.sh
	scripts/with-postgres.sh cargo nextest run --workspace --locked --run-ignored only

tls-check: ## look at the listeners with openssl, curl and sslyze (which needs the network once)
	@scripts/tls-check.sh

api-check: ## run schemathesis over mTLS against docs/openapi.json, with signed and unsigned requests (about four minutes)
	@scripts/api-check.sh

fmt: ## format the source
	cargo fmt --all

lint: ## formatting and clippy, as CI sees them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

peers: ## install the local Ethereum nodes used by tests and demo into target/peers
	@scripts/setup.sh peers

clean-peers: ## remove them
	rm -rf target/peers

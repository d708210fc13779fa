# Every target installs what it needs; `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := build/bin

# The first Python here that is new enough; `make PYTHON=/path/to/python3.13 …` chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; print("$(p)") if sys.version_info >= (3, 11) else None' 2>/dev/null)))

.PHONY: help serve test test-clients check lint proto baseline docs faults bench lock tools stubs stubs-python stubs-go stubs-typescript stubs-java clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(READY) ## run the service with an embedded Postgres, in the foreground
	@exec $(BIN)/skilder-keys serve

# Many container images set this. With it, every process that the tests start would compile all of its code again.
unexport PYTHONDONTWRITEBYTECODE

test: $(READY) ## run every test, several at once
	@$(BIN)/pytest --numprocesses=auto --dist=worksteal

# Each client whose tools are here: what it takes is fetched first. CI has all of them, and runs these tests in `check`.
test-clients: export SKILDER_KEYS_TEST_LONG := 1
test-clients: $(READY) ## run the clients' tests in every language that is installed, against running servers
	@! command -v go >/dev/null || $(MAKE) --no-print-directory stubs-go OUT=build
	@! command -v npm >/dev/null || $(MAKE) --no-print-directory stubs-typescript OUT=build
	@! command -v mvn >/dev/null || $(MAKE) --no-print-directory stubs-java OUT=build
	$(BIN)/pytest --numprocesses=auto --dist=loadfile tests/clients tests/integration/test_committed_stubs.py

check: export SKILDER_KEYS_TEST_LONG := 1
check: lint test ## do what CI does: the linters, and every test in its long form

lint: $(READY) ## run ruff, mypy, the import contracts and buf, and check that generated/ is up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(BASELINE)
	@mkdir -p build && $(BUILD_BASELINE) build/baseline.binpb
	@cmp $(BASELINE) build/baseline.binpb || { echo "protos/ has what $(BASELINE) lacks: run \`make baseline\`"; exit 1; }
	@$(MAKE) --no-print-directory proto OUT=build
	diff -r --exclude=__pycache__ generated build/generated

# Every language's stubs are made by `buf generate`, from the template beside them. OUT names another folder for them.
OUT := .
GENERATE = $(BIN)/buf generate --output $(OUT) --template

proto: $(READY) ## generate generated/ from protos/
	@rm -rf $(OUT)/generated/skilder
	$(GENERATE) buf.gen.yaml
	@PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--proto_path="$$($(BIN)/python -c 'import google.rpc; print(google.rpc.__path__[0])')/../.." \
		--python_out=$(OUT)/generated --grpc_python_out=$(OUT)/generated \
		--mypy_out=quiet:$(OUT)/generated --mypy_grpc_out=quiet:$(OUT)/generated protos/skilder/envoy/*.proto
	@touch $(OUT)/generated/skilder/keys/v1/py.typed $(OUT)/generated/skilder/envoy/py.typed

BASELINE := protos/baseline.binpb
BUILD_BASELINE := $(BIN)/buf build --exclude-source-info --output

baseline: $(READY) ## take what was added to protos/ into protos/baseline.binpb; fails if a change breaks callers
	@[ ! -e $(BASELINE) ] || $(BIN)/buf breaking --against $(BASELINE)
	$(BUILD_BASELINE) $(BASELINE)

docs: $(READY) ## write the generated parts of the documents
	$(BIN)/python -m tests.docs

FAULTS_SECONDS ?= 300
faults: $(READY) ## run five minutes of load and faults (FAULTS_SECONDS=… for longer, FAULTS_TRANSPORT=… for one transport, FAULTS_SEED=… to repeat a run)
	SKILDER_KEYS_FAULTS_SECONDS=$(FAULTS_SECONDS) $(if $(FAULTS_SEED),SKILDER_KEYS_FAULTS_SEED=$(FAULTS_SEED)) \
		$(if $(FAULTS_TRANSPORT),SKILDER_KEYS_FAULTS_TRANSPORT=$(FAULTS_TRANSPORT)) \
		$(BIN)/pytest -s tests/faults/test_history.py

bench: $(READY) $(TOOLS)/ghz $(TOOLS)/openloop build/naive/.ready ## measure what calls cost, in twenty minutes, and write docs/performance.md (ROUNDS=5 is more exact)
	@command -v h2load >/dev/null || { echo "h2load is needed but was not found. Install it (Debian: apt-get install nghttp2-client)."; exit 1; }
	$(BIN)/python -m bench $(if $(ROUNDS),--rounds $(ROUNDS))

build/naive/.ready: bench/naive/requirements.txt
	@$(PYTHON) -m venv build/naive
	@build/naive/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

lock: $(READY) ## choose the newest versions and write requirements.lock
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --all-extras \
		--no-header --no-annotate --no-emit-index-url --output-file requirements.lock pyproject.toml
	printf '%s\n' asyncpg fastapi httptools uvicorn uvloop | $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --output-file bench/naive/requirements.txt -

GO_INSTALL = GOBIN="$(CURDIR)/$(TOOLS)" go install

tools: $(addprefix $(TOOLS)/,grpcurl ghz openloop grpc-interop-client check-dashboard gitleaks caddy protoc-gen-go protoc-gen-go-grpc) ## build grpcurl, ghz, the bench's load generator, gRPC's interop client, a check of dashboards, gitleaks, Caddy and the generators of Go stubs (needs Go)

$(TOOLS)/grpcurl:
	$(GO_INSTALL) github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

$(TOOLS)/ghz:
	$(GO_INSTALL) github.com/bojand/ghz/cmd/ghz@v0.93.0

$(TOOLS)/gitleaks:
	$(GO_INSTALL) github.com/zricethezav/gitleaks/v8@v8.30.1

$(TOOLS)/caddy:
	$(GO_INSTALL) github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9

$(TOOLS)/openloop: $(wildcard bench/openloop/*.go bench/openloop/go.*)
	cd bench/openloop && go build -trimpath -o "$(CURDIR)/$@" .

$(TOOLS)/check-dashboard: $(wildcard tests/support/grafana/*.go tests/support/grafana/go.*)
	cd tests/support/grafana && go build -trimpath -o "$(CURDIR)/$@" .

$(TOOLS)/grpc-interop-client:
	$(GO_INSTALL) google.golang.org/grpc/interop/client@v1.85.0
	@mv $(TOOLS)/client $@

$(TOOLS)/protoc-gen-go:
	$(GO_INSTALL) google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12

$(TOOLS)/protoc-gen-go-grpc:
	$(GO_INSTALL) google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0

stubs: stubs-python stubs-go stubs-typescript stubs-java ## make every language's stubs from protos/ (needs Go, Node with npm, a JDK and Maven; OUT=… for another folder)

PYTHON_CLIENT := clients/python/src/skilder_keys_client
stubs-python: proto
	@mkdir -p $(OUT)/$(PYTHON_CLIENT)
	PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=clients/python/protos \
		--python_out=$(OUT)/clients/python/src --mypy_out=quiet:$(OUT)/clients/python/src clients/python/protos/*/*.proto
	$(BIN)/python clients/python/copy_contract.py $(OUT)/generated $(OUT)/$(PYTHON_CLIENT)

stubs-go: $(READY) $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc
	@rm -rf $(OUT)/clients/go/v1
	$(GENERATE) clients/go/buf.gen.yaml

stubs-typescript: $(READY) build/typescript/node_modules/.ready build/clients/typescript/node_modules/.ready
	@rm -rf $(OUT)/clients/typescript/src/gen
	$(GENERATE) clients/typescript/buf.gen.yaml

stubs-java: $(READY) build/java/.ready build/maven/.ready
	@rm -rf $(OUT)/build/stubs-java
	$(GENERATE) clients/java/buf.gen.yaml

build/typescript/node_modules/.ready: $(addprefix tests/support/typescript/,package.json package-lock.json)
	@mkdir -p build/typescript && cp $^ build/typescript
	cd build/typescript && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# What the client for TypeScript is built and tested with.
build/clients/typescript/node_modules/.ready: $(addprefix clients/typescript/,package.json package-lock.json)
	@mkdir -p build/clients/typescript && cp $^ build/clients/typescript
	cd build/clients/typescript && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Maven keeps no digests of its own, so what it fetched is compared with those in jars.sha256.
build/java/.ready: $(addprefix tests/support/java/,pom.xml jars.sha256)
	@rm -rf build/java && mkdir -p build/java
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -Dmdep.stripVersion -DoutputDirectory="$(CURDIR)/build/java"
	cd build/java && sha256sum --quiet --check "$(CURDIR)/tests/support/java/jars.sha256" && chmod +x *.exe
	@touch $@

# A build fetches all that later builds need, which are offline. What it fetched has the digests in artifacts.sha256.
build/maven/.ready: $(addprefix clients/java/,pom.xml artifacts.sha256)
	@rm -rf build/maven
	mvn --quiet --batch-mode --file $< -Dmaven.repo.local="$(CURDIR)/build/maven/repository" -Doutput="$(CURDIR)/build/maven/target" process-test-classes
	cd build/maven/repository && find . -name '*.jar' -o -name '*.exe' | LC_ALL=C sort | xargs sha256sum > ../artifacts.sha256
	@! grep --invert-match --line-regexp --fixed-strings --file=clients/java/artifacts.sha256 build/maven/artifacts.sha256 || \
		{ echo "clients/java/artifacts.sha256 has no such digests"; exit 1; }
	@touch $@

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# uv takes a tenth of pip's time. It knows nothing of pip's settings, so where these are needed, pip does the work.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed but was not found. Install it, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON), which takes some seconds"
	@$(PYTHON) -m venv $(VENV)
	@awk '/^[^ ]/ { uv = /^uv==/ } uv' requirements.lock > $(VENV)/uv.lock
	@$(PIP) --require-hashes -r $(VENV)/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock || \
		$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean: ## remove what the targets made, except the data folder
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

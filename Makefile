# Every command that this project has, a line each: `make help`.
SHELL := /bin/sh
GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@latest
FUZZTIME ?= 30s
NIGHT ?= 8h
SCALE ?= 100
TAGS := faults,reliability,peers,sscep,cas,container,console,packaging,bench,docs
DEVICES ?= 20000
RATE ?= 100
MINUTES ?= 30

# What the race detector is worth its time on: where goroutines meet.
RACED := ./gateway ./gateway/store/... ./plugins/backend/groupcommit ./plugins/host

.PHONY: help run build build-all pkcs11 test deps vet lint unit race fuzz fuzz-nightly bench microbench reliability storm soak peers backends console monitoring container deb packaging docs generate vuln clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## the gateway on its embedded CA and store, with the commands that enrol a device
	$(GO) run ./cmd/muster serve

build: ## bin/muster, one static binary
	GO='$(GO)' sh .ci/build bin/muster

build-all: ## bin/muster-linux-amd64 and bin/muster-linux-arm64, static
	@for arch in amd64 arm64; do GO='$(GO)' GOOS=linux GOARCH=$$arch sh .ci/build bin/muster-linux-$$arch || exit 1; done
	$(GO) run ./e2e/elf bin/muster-linux-amd64 bin/muster-linux-arm64

pkcs11: ## bin/muster-pkcs11, the plugin for keys in an HSM: linked with the C library, which it loads the vendor's module by
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '-s -w' -o bin/muster-pkcs11 ./cmd/muster-pkcs11

test: deps vet unit ## everything, end-to-end tests with real clients included (under 8 minutes, first build included)

deps: ## what the tests need from Debian: curl, openssl, strongSwan's pki, nginx, certmonger, PostgreSQL, Python, a C compiler
	@sh .ci/deps

vet: ## gofmt, go vet
	@out=$$(gofmt -l cmd gateway protocols backends plugins authz configs e2e); test -z "$$out" || { echo "not gofmt'ed:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags $(TAGS) ./cmd/... ./e2e/... ./protocols/scep

lint: vet ## and staticcheck, which looks at all dependencies first (2 minutes on a new machine)
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags $(TAGS) ./cmd/... ./e2e/... ./protocols/scep

unit: ## all tests without the race detector, end-to-end included
	$(GO) test -timeout 15m -parallel 4 ./...

race: deps ## the tests of gateway, store and plugin host under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $(RACED)

fuzz: ## every fuzz target for FUZZTIME (30s) each; what is found is kept in testdata/fuzz
	@GO='$(GO)' sh .ci/fuzz each $(FUZZTIME)

fuzz-nightly: ## all fuzz targets, which share NIGHT (8h); goes on after findings, and ends with a list of them
	@GO='$(GO)' sh .ci/fuzz all $(NIGHT)

bench: deps ## what an enrollment costs, beside its crypto operations and beside step-ca, scepserver and estserver: writes docs/performance.md (under 15 minutes; SHORT=1 under 3, and writes into bin/bench)
	@dir=$$(WITHOUT=Vault sh .ci/cas) && mkdir -p bin/bench && MUSTER_CAS=$$dir MUSTER_BENCH_DIR=$(CURDIR)/$(if $(SHORT),bin/bench,docs) $(GO) test -timeout 30m -count 1 -v -tags bench $(if $(SHORT),-short) ./e2e/bench

microbench: ## Go's benchmarks: the parts that an enrollment is made of
	$(GO) test -run '^$$' -bench . -benchmem ./...

reliability: deps ## kills, power cuts, broken disks, a faulty CA, fail-over, replays, hostile input, stops under load: a table (under 20 minutes, as root); SCALE percent of it
	MUSTER_SCALE=$(SCALE) $(GO) test -timeout 40m -count 1 -v -run '^(TestReliability.*|TestReloadUnderLoad|TestRollover|TestCrashInARekey|TestServerKeyGenCrashPoints|TestEdgeMemory)$$' -tags reliability ./e2e

storm: ## DEVICES (20000) renew at once while their CA may issue RATE (100) per second (10 minutes): its bound, and memory
	MUSTER_DEVICES=$(DEVICES) MUSTER_RATE=$(RATE) $(GO) test -timeout 24h -count 1 -v -run '^TestStorm$$' -tags reliability ./e2e

soak: deps ## mixed load for MINUTES (30): enrollments, renewals, operators, reloads, hostile input; memory, goroutines, descriptors and series stay flat
	MUSTER_MINUTES=$(MINUTES) $(GO) test -timeout 24h -count 1 -v -run '^TestSoak$$' -tags reliability ./e2e

peers: deps ## CMP and EST against BouncyCastle, OpenSSL 3.5 and GlobalSign's client, fetched into ~/.cache (under 6 minutes)
	@dir=$$(sh .ci/peers) && MUSTER_PEERS=$$dir $(GO) test -timeout 8m -count 1 -tags peers ./e2e/peers

backends: deps ## the gateway before CAs that are not ours: step-ca, Vault, pebble, ... built into ~/.cache (20 minutes the first time, WITHOUT=Vault 5)
	@dir=$$(WITHOUT='$(WITHOUT)' sh .ci/cas) && MUSTER_CAS=$$dir $(GO) test -timeout 20m -count 1 -v -tags cas $(if $(WITHOUT),-skip '^Test$(WITHOUT)') ./e2e/cas

monitoring: ## the alert rules by Prometheus's own promtool (apt install prometheus)
	promtool check rules configs/deploy/prometheus/*.rules.yaml

container: deps ## the Dockerfile by buildah, its image run in namespaces of its own, and configs/deploy/compose, as root (3 minutes, the first time 10)
	@dir=$$(GO='$(GO)' sh .ci/container) && MUSTER_CONTAINER=$$dir $(GO) test -timeout 40m -count 1 -v -tags container ./e2e/container

console: deps ## the console in Chromium, by Playwright fetched into ~/.cache (5 minutes); screenshots go to SHOTS
	@dir=$$(sh .ci/console) && MUSTER_CONSOLE=$$dir MUSTER_SHOTS='$(SHOTS)' $(GO) test -timeout 30m -count 1 -tags console ./e2e/console

deb: ## bin/muster_VERSION_amd64.deb and _arm64.deb; VERSION (default: what git describe says)
	@for arch in amd64 arm64; do GO='$(GO)' configs/deploy/debian/build "$(or $(VERSION),$$(git describe --tags --always))" $$arch bin || exit 1; done

packaging: ## the Debian package under a systemd of its own and without one, the Helm chart by Kubernetes' schemas, as root (under 6 minutes, the first time 15)
	@dir=$$(GO='$(GO)' sh .ci/packaging) && MUSTER_PACKAGING=$$dir $(GO) test -timeout 30m -count 1 -v -tags packaging ./e2e/packaging

docs: deps ## the commands that README.md and docs/ show, as they stand there, on real gateways (2 minutes); what other targets run is in the pages' marks
	$(GO) test -timeout 20m -count 1 -tags docs -run '^(TestDocs.*|TestStories.*|TestExamples.*)$$' ./e2e

generate: ## the gRPC code of the plugin contract (needs protoc)
	$(GO) generate ./plugins/backend/...

vuln: ## known vulnerabilities in what is linked (needs the vulnerability database's host)
	$(GO) run $(GOVULNCHECK) ./...

clean: ## what was built
	rm -rf bin

# caponier: `make help` lists the targets.

SHELL       := /bin/bash
export CGO_ENABLED ?= 0
BIN         := bin/caponier
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZ        ?= 5000x

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/caponier, one static binary
	go build -trimpath -ldflags "-s -w -X caponier/internal/control.version=$(VERSION)" -o $(BIN) ./cmd/caponier

.PHONY: demo
demo: setup-demo build ## the two-customer lab: build it, show traffic crossing and isolation holding, remove it
	$(BIN) lab up
	$(BIN) lab test; status=$$?; $(BIN) lab down; exit $$status

.PHONY: test
test: setup vet lint test-unit test-race test-arm64 test-fuzz test-system ## everything: vet, lint, race tests, fuzz smoke, the program against real peers

.PHONY: setup
setup: ## install the system packages that the tests need (Debian, as root)
	scripts/setup.sh test

.PHONY: setup-demo
setup-demo:
	scripts/setup.sh demo

.PHONY: vet
vet: ## go vet, and go.mod is tidy
	go vet ./...
	go mod tidy -diff

.PHONY: lint
lint: ## golangci-lint with .golangci.yml
	scripts/lint.sh

.PHONY: test-unit
test-unit: ## unit tests as built for release, in random order, with the allocation tests
	go test -shuffle on $$(go list ./... | grep -v caponier/test/)
	GODEBUG=cpu.avx512f=off go test ./internal/lanes ./internal/suite ./internal/esp # without lanes, as on other processors
	GODEBUG=cpu.avx512f=off,cpu.avx2=off go test -short ./internal/sm ./internal/esp # without kernels for SM4, as on small ones

.PHONY: test-race
test-race: ## unit tests under the race detector
	CGO_ENABLED=1 go test -race -short -shuffle on $$(go list ./... | grep -v caponier/test/)

# The first arm64 has instructions for SM3 and SM4, the second those for AES only.
.PHONY: test-arm64
test-arm64: ## other processors, emulated: the ciphers and what uses them, and that the program starts
	GOARCH=arm64 go test -short -exec "qemu-aarch64-static -cpu max" ./internal/sm ./internal/lanes ./internal/suite/... ./internal/esp ./internal/keystore ./internal/pki
	GOARCH=arm64 go test -short -exec "qemu-aarch64-static -cpu cortex-a53" ./internal/sm ./internal/esp
	GOARCH=ppc64le go test -short -exec qemu-ppc64le-static ./internal/sm
	GOARCH=arm go test -short -exec qemu-arm-static ./internal/sm ./internal/esp
	GOARCH=arm64 go build -o bin/caponier-arm64 ./cmd/caponier
	qemu-aarch64-static bin/caponier-arm64 version
	qemu-aarch64-static bin/caponier-arm64 gm selftest

.PHONY: test-fuzz
test-fuzz: ## every fuzz target with FUZZ inputs (5000x), or for FUZZ each (10m)
	scripts/fuzz.sh $(FUZZ)

.PHONY: fuzz
fuzz: ## every fuzz target for ten minutes (FUZZ=1h for an hour); appends what it did to docs/fuzzing.jsonl
	FUZZ_RECORD=$(CURDIR)/docs/fuzzing.jsonl scripts/fuzz.sh $(if $(filter 5000x,$(FUZZ)),10m,$(FUZZ))

# One package after the other: each has namespaces, daemons and the CPUs for itself.
.PHONY: test-system
test-system: ## the program itself: interoperability with strongSwan, operation, attacks (root)
	go test -count 1 -p 1 -timeout 30m ./test/...
	go test -count 1 -timeout 10m -tags vm -exec "$(CURDIR)/scripts/vm.sh" -run '^TestPlaneConforms$$/^traffic$$/^(both_families|an_outbound_SA_moves|the_one_added|an_SA_has)' ./internal/dataplane/kernel

.PHONY: test-interop
test-interop: ## tunnels with strongSwan (root); rewrites docs/interop.md
	go test -count 1 -timeout 20m ./test/interop -update

.PHONY: test-leaks
test-leaks: ## what crosses the outside link while things happen to a gateway (root); rewrites docs/leaks.md
	go test -count 1 -run 'TestLeaks$$' ./test/operations -update

.PHONY: test-vm
test-vm: ## the planes and their peers in a virtual machine with Debian's kernel; rewrites docs/planes.md
	scripts/setup.sh vm
	go test -count 1 -timeout 30m -tags vm -exec "$(CURDIR)/scripts/vm.sh -t 1800" ./internal/dataplane/kernel
	go test -count 1 -timeout 60m ./test/vm -update

.PHONY: bench
bench: build bench-peers ## this program beside its peers, for half an hour (root); rewrites docs/benchmarks
	scripts/setup.sh bench
	$(BIN) bench --out docs/benchmarks

.PHONY: bench-quick
bench-quick: build bench-peers ## the same in two minutes, only shown
	scripts/setup.sh bench
	$(BIN) bench --quick

.PHONY: bench-peers
bench-peers: ## build the peers that no package brings
	scripts/bench-peers.sh

.PHONY: bench-go
bench-go: ## Go benchmarks of the packet path
	go test -run '^$$' -bench . -benchmem ./internal/...

.PHONY: cross
cross: ## prove that it builds for the targets of embedded routers
	for a in amd64 arm64 arm mips riscv64; do GOARCH=$$a go build -o /dev/null ./cmd/caponier || exit 1; done

.PHONY: install
install: build ## install the binary and the systemd unit below DESTDIR
	install -D -m 0755 $(BIN) $(DESTDIR)/usr/bin/caponier
	install -D -m 0644 packaging/caponier.service $(DESTDIR)/usr/lib/systemd/system/caponier.service

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

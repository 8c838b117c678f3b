# What people type. `make` alone lists it.
#
#   make setup     what a fresh Debian 12 with Rust lacks, by apt
#   make demo      three hosts, one overlay, packets: watch it
#   make test      everything, ends with a count
#
# Everything but setup needs nothing but what setup installs. Labs and the demo
# need root: run make as root, or with sudo at hand.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help setup build release check fmt test test-unit test-lab vm-lab demo demo-down lab-clean \
        bench bench-first bench-gossip bench-kernel bench-dns bench-ports bench-ipam bench-docker bench-cni \
        bench-thousand deny chaos sim fuzz fuzz-repro fuzz-minimize

## help: this list
help:
	@echo "usage: make TARGET"
	@sed -n 's/^## \([^:]*\): /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

## setup: install what a fresh Debian 12 lacks (apt), fetch and check the crates; again is fine
setup:
	@deploy/setup.sh
	cargo fetch --locked
	cargo check --workspace --all-targets --locked

## build: overlayd, overlayctl and the plugins, debug
build:
	cargo build --locked -p overlayd -p overlayctl -p overlay-cni

## release: overlayd, overlayctl and the plugins, optimised
release:
	cargo build --locked --release -p overlayd -p overlayctl -p overlay-cni

## check: formatting and lints, warnings are errors
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

## fmt: format the sources
fmt:
	cargo fmt --all

## test: everything (format, lints, unit, property, kernel, lab); root; ends with a count
test:
	@tests/run.sh all

## test-unit: what needs neither root nor network
test-unit:
	@tests/run.sh unit

## test-lab: the labs alone; root
test-lab:
	@tests/run.sh lab

## chaos: random faults on real daemons, N=20 of them on HOSTS=5; SEED=n draws the same again; some minutes; root
chaos: build
	CHAOS_FAULTS=$(or $(N),20) CHAOS_HOSTS=$(or $(HOSTS),5) CHAOS_SEED=$(or $(SEED),$$(date +%s)) CHAOS_SECONDS=86400 \
	    OVERLAY_BIN_DIR=target/debug RUST_LIB_BACKTRACE=0 \
	    cargo test --locked -p overlay-tests --test lab_chaos after_every_fault -- --nocapture

## sim: simulations, release, more and longer; SEED=n repeats one exactly, RUNS=n runs seeds 0 to n-1
sim:
	cc -shared -fPIC -O1 -Wall -o target/libseed.so tests/sim/seed.c
	cargo test --locked --release -p overlay-sim --no-run
	$(if $(SEED),SIM_SEED=$(SEED) LD_PRELOAD=$(CURDIR)/target/libseed.so,SIM_RUNS=$(or $(RUNS),50)) SIM_LONG=1 \
	    $$(ls -t target/release/deps/simulation-* | grep -v '\.d$$' | head -1) --nocapture --test-threads=1

## fuzz: libFuzzer on each target for TIME=60 seconds, or on TARGET=name; JOBS=2 beside each other
fuzz:
	@tests/fuzz.sh run $(or $(TIME),60) $(TARGET)

## fuzz-repro: run one input again, TARGET=name FILE=path
fuzz-repro:
	@tests/fuzz.sh repro $(TARGET) $(FILE)

## fuzz-minimize: take what was found into tests/fuzz/corpus, as small as it can be
fuzz-minimize:
	@tests/fuzz.sh minimize $(TARGET)

## demo: three hosts in network namespaces form an overlay; KEEP=1 leaves it running
demo:
	@KEEP=$(KEEP) deploy/demo.sh up

## demo-down: remove a demo that was kept
demo-down:
	@deploy/demo.sh down

## vm-lab: a lab under Debian's kernel in an emulated machine, for what this kernel lacks; LAB=lab_underlay ARGS=--nocapture
vm-lab:
	@tests/vm.sh $(or $(LAB),lab_underlay) $(ARGS)

.PHONY: deb lab lab-box lab-test lab-down
## deb: Debian packages in target/deb: overlayd with its service, overlayctl, overlay-cni if it is built; no network
deb: release
	@deploy/deb/build.sh

## lab-box: the local box of the lab: Debian 12 and its cloud kernel; fetched once; root
lab-box:
	@vagrant/box.sh

## lab: real machines by Vagrant with overlayd as a service, see docs/lab.md; LAB_HOSTS=2 LAB_IPV6=1; root
lab: deb lab-box
	@vagrant/lab.sh up

## lab-test: the smoke test of the lab, from outside
lab-test:
	@vagrant/lab.sh test

## lab-down: remove the machines and all that was started for them
lab-down:
	@vagrant/lab.sh down

## lab-clean: remove labs that were kept with OVERLAY_KEEP=1
lab-clean:
	@tests/lab-clean.sh

## bench: all measurements that docs/performance.md shows; quiet machine, root
bench: bench-first bench-gossip bench-kernel bench-dns bench-ports bench-ipam bench-docker bench-cni

## bench-first: attach latency, reach of an attach, memory; release binaries
bench-first: release
	OVERLAY_BIN_DIR=target/release cargo bench --locked -p overlay-tests --bench first_light

## bench-gossip: reach, bulk, joiner, idle cost, memory, dead hosts, loss; ONLY="reach bulk" MINUTES=10; half an hour
bench-gossip: release
	OVERLAY_BIN_DIR=target/release ONLY="$(ONLY)" $(if $(MINUTES),MINUTES=$(MINUTES)) \
	    cargo bench --locked -p overlay-tests --bench gossip

## bench-kernel: 300,000 entries against raw netlink, one change, adoption, rest, packets; ONLY="burst path" ROUNDS=5; quarter of an hour
bench-kernel: release
	OVERLAY_BIN_DIR=target/release ONLY="$(ONLY)" $(if $(ROUNDS),ROUNDS=$(ROUNDS)) \
	    cargo bench --locked -p overlay-tests --bench kernel

## bench-dns: names: questions a second and p99 beside dnsmasq; ROUNDS=5; two minutes
bench-dns: release
	OVERLAY_BIN_DIR=target/release $(if $(ROUNDS),ROUNDS=$(ROUNDS)) \
	    cargo bench --locked -p overlay-tests --bench dns

## bench-ports: published ports against one DNAT rule by hand, a change among 1,000 ports; ONLY="path service change" ROUNDS=15; three minutes
bench-ports: release
	OVERLAY_BIN_DIR=target/release ONLY="$(ONLY)" $(if $(ROUNDS),ROUNDS=$(ROUNDS)) \
	    cargo bench --locked -p overlay-tests --bench ports

## bench-docker: docker run and docker network connect until a ping across hosts, beside Docker's own overlay; ROUNDS=15
bench-docker: release
	OVERLAY_BIN_DIR=target/release $(if $(ROUNDS),ROUNDS=$(ROUNDS)) cargo bench --locked -p overlay-tests --bench docker

## bench-ipam: addresses: attach and detach, gifts, a /16 over ten hosts to the last one; ONLY="local full" PREFIX=20; five minutes
bench-ipam: release
	OVERLAY_BIN_DIR=target/release ONLY="$(ONLY)" $(if $(PREFIX),PREFIX=$(PREFIX)) \
	    cargo bench --locked -p overlay-tests --bench ipam
	cargo bench --locked -p overlay-engine --bench ipam

## bench-cni: ADD, CHECK and DEL beside the reference plugins bridge and host-local; ROUNDS=200 ONLY="one cluster parallel"; two minutes
bench-cni: release
	OVERLAY_BIN_DIR=target/release ONLY="$(ONLY)" $(if $(ROUNDS),ROUNDS=$(ROUNDS)) \
	    cargo bench --locked -p overlay-tests --bench cni

## bench-thousand: a thousand simulated hosts, or HOSTS=n; long
bench-thousand:
	$(if $(HOSTS),HOSTS=$(HOSTS)) cargo bench --locked -p overlay-sim --bench thousand

## deny: licences, bans, advisories (.deny.toml); installs cargo-deny when missing
deny:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --config .deny.toml check

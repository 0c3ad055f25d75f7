# SPDX-License-Identifier: GPL-2.0
#
# The targets call scripts/, each of which has --help.

# Settings given on the command line (IMPL=, KDIR=, O=, JOBS=, LLVM=, TOOLBOX=, TOOLCHAIN=, WS=, FULL=) reach the scripts by the
# environment. LLVM= given but empty means GCC, so only those that were given may be exported.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
# IMPL= given but empty is as good as not given.
override IMPL := $(or $(IMPL),rust)
export IMPL

export RUST_IOMMUFD_T0 := $(shell date +%s)

.PHONY: help run test test-full stress next bench shell config build kernel tree series fold check-series fmt lint unsafe where clean
.PHONY: distclean

help: ## print this list
	@echo "The Rust iommufd. From a bare machine:"
	@echo
	@sed -n -E 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo "Settings: IMPL=rust|c  KDIR=your-7.3-tree  O=build-directory  JOBS=n  LLVM=...  TOOLBOX=host  TOOLCHAIN=new  WS=work-space"
	@echo "Their meaning is at the top of scripts/common.sh; everything made lives in ~/.cache/rust-iommufd (make where)."

run: build ## build the kernel with the series, boot it, do VFIO DMA and run the iommufd selftests
	@scripts/guest run

test: ## run all tests: series checks, KUnit, selftests, DMA client
	@scripts/test

test-full: ## the same, and build every patch and all of config/matrix, and test VFIO on more IOMMUs (RESUME=1: continue)
	@FULL=1 scripts/test

stress: ## races, fuzzing, fault injection, debug kernels (PARTS="race fuzz"; SCALE=10: a tenth of the time; RESUME=1: continue)
	@scripts/stress $(if $(SCALE),--scale $(SCALE)) $(PARTS)

next: ## show which patches apply to the newest kernel of Debian, and changes of the C driver there
	@scripts/next $(VERSION)

bench: ## compare the cost of C, Rust and vfio_iommu_type1 (PROFILE=op: one operation by function)
	@scripts/bench $(if $(PROFILE),profile $(PROFILE))

shell: build ## start a shell in the guest, with the module loaded
	@scripts/guest shell

config: ## fetch the base kernel, apply the series, configure (IMPL=rust or c)
	@scripts/kernel config $(IMPL)

build: ## fetch the base kernel, apply the series, build (IMPL=rust or c)
	@scripts/kernel build $(IMPL)

kernel: ## fetch the base kernel and apply the series, without building
	@scripts/kernel tree

tree: ## make a kernel work tree on the branch of the series, one commit per patch (DIR=: where)
	@scripts/kernel base
	@scripts/series tree $(DIR)

series: ## write the commits of that branch to patches/ and the directories
	@scripts/series export

fold: ## carry an edit of the directories into the commits that it belongs to, and write patches/
	@scripts/kernel base
	@scripts/series fold

check-series: ## check that patches/ applies, is what the directories say, is clean and builds (FULL=1: build every patch)
	@scripts/kernel base
	@scripts/series check

fmt: ## format the Rust sources
	@scripts/lint fmt

lint: ## run layers, rustfmt, clippy, sparse, shellcheck and checkpatch on our files
	@scripts/lint check

unsafe: ## list every unsafe block, impl and function of the driver and the abstractions, with its reason
	@scripts/unsafe

where: ## print the paths of source tree, build directories, toolbox and logs
	@scripts/kernel where

clean: ## remove work trees, build directories and logs; keep the toolbox and the downloaded kernel
	@scripts/kernel clean

distclean: ## remove everything in the cache
	@scripts/kernel distclean

# SPDX-License-Identifier: Apache-2.0
# Short names for the common jobs; CMake does the work (see CMakePresets.json). `make help` lists them.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PREFIX ?= /usr/local
CMAKE_ARGS ?=
CTEST_ARGS ?=
MODEL ?= models/rill-demo
FUZZ_SECONDS ?= 60
# a folder of the libraries' source archives (tools/fetch-sources.sh FOLDER): nothing is installed
SOURCES ?=
ASAN_TESTS ?=
# make compare: options of bench/compare/run.py
COMPARE_ARGS ?=
# make bench: what `rill bench` measures; make MODEL=FOLDER BENCH_ARGS=... for your own
BENCH_ARGS ?= --shape qwen3-0.6b --weights bf16 -p 512 -n 32 -r 3

# Ninja where it is installed, else make; a build folder keeps the one that it began with.
GENERATOR := $(if $(shell command -v ninja 2>/dev/null),Ninja,Unix Makefiles)
configure = cmake --preset $(1) --log-level=WARNING \
  $(if $(wildcard $(2)/CMakeCache.txt),,-G "$(GENERATOR)") \
  $(if $(SOURCES),-DRILL_SOURCES=$(abspath $(SOURCES))) $(CMAKE_ARGS)
ctest = ctest --output-on-failure --no-tests=error -j $(JOBS) $(CTEST_ARGS)
sources = find src include apps tests bench tools -name '*.cc' -o -name '*.h'

space := $(subst ,, )

.DEFAULT_GOAL := build
.PHONY: build deps demo demo-accuracy demo-cluster test install bench compare clean help
.PHONY: format check-format fuzz asan tsan debug

build: ## compile everything (the programs come to stand in build/bin/)
	@tools/install-deps.sh --check $(if $(SOURCES),compiler,build)
	@$(call configure,release,build)
	@cmake --build build --parallel $(JOBS)

deps: ## install the Debian packages that are missing (apt-get, as root or with sudo)
	@tools/install-deps.sh $(if $(SOURCES),--check compiler,build ranks)

demo: deps ## install what is missing, build, and let the built-in model answer a question
	@$(call configure,release,build)
	@cmake --build build --parallel $(JOBS) --target programs
	@tools/demo.sh

demo-accuracy: deps ## score the built-in model on its held-out questions, in every arithmetic
	@$(call configure,release,build)
	@cmake --build build --parallel $(JOBS) --target programs
	@tools/demo-accuracy.sh

demo-cluster: deps ## run the built-in model on four MPI ranks and compare every bit with one process
	@$(call configure,release,build)
	@cmake --build build --parallel $(JOBS) --target programs
	@tools/demo-cluster.sh

test: deps ## install what is missing, build, and run every test
	@$(call configure,release,build)
	@cmake --build build --parallel $(JOBS)
	@$(ctest) --test-dir build

install: build ## install programs, library and headers under PREFIX (/usr/local)
	@cmake --install build --prefix $(PREFIX)

bench: build ## measure prefill and decode beside the machine's own limits
	build/bin/rill bench $(BENCH_ARGS)

compare: build ## measure beside other engines, which it installs first, and write docs/performance.md
	bench/compare/run.py $(COMPARE_ARGS)

debug: deps ## the tests in a debug build, with assertions
	@$(call configure,debug,build-debug)
	@cmake --build build-debug --parallel $(JOBS)
	@$(ctest) --test-dir build-debug

asan: deps ## the tests under AddressSanitizer and UBSan (ASAN_TESTS="text_test ..." for some)
	@$(call configure,asan,build-asan)
	@cmake --build build-asan --parallel $(JOBS) $(if $(ASAN_TESTS),--target $(ASAN_TESTS))
	@$(ctest) --test-dir build-asan $(if $(ASAN_TESTS),-R '^($(subst $(space),|,$(strip $(ASAN_TESTS))))[.]')

tsan: ## the threads' tests under ThreadSanitizer (clang, libomp, Archer)
	@tools/install-deps.sh build tools
	@$(call configure,tsan,build-tsan)
	@cmake --build build-tsan --parallel $(JOBS) --target test_base
	@tests/tsan.sh $(ctest) --test-dir build-tsan -R '^test_base[.]'

fuzz: ## each libFuzzer target for FUZZ_SECONDS (60)
	@tools/install-deps.sh build tools
	@$(call configure,fuzz,build-fuzz) -DRILL_FUZZ_SECONDS=$(FUZZ_SECONDS)
	@cmake --build build-fuzz --parallel $(JOBS) --target fuzzers
	@$(ctest) --test-dir build-fuzz -L fuzz

format: ## bring every source file to .clang-format
	@$(sources) | xargs clang-format -i

check-format: ## name the source files that .clang-format would change
	@tools/check-format.sh

clean: ## remove what was built
	@rm -rf build build-debug build-clang build-asan build-tsan build-fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

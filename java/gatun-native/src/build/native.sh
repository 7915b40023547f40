#!/usr/bin/env bash
# Drives CMake for Maven: native.sh check | configure | build | stage | test. `check` looks for the
# tools and says how to install a missing one. For the others Maven sets
#   GATUN_SOURCE  the folder native/             GATUN_BUILD  where CMake builds
#   GATUN_STAGE   what the jars are packed from  GATUN_DNNL   oneDNN's headers and libraries
#   GATUN_CUDA    on, off, auto (on where nvcc is found) or keep (what the last configure chose)
#   GATUN_STRICT  on: warnings are errors        GATUN_SKIP_TESTS  true: leave the tests unbuilt
#   GATUN_TESTS_RUN  always, or changed: only if something changed since they last passed
#   GATUN_NIGHTLY true: also the long tests, and the library's own ones under sanitizers, which are
#                 built beside GATUN_BUILD
#   GATUN_SKIP    true: build nothing, pack what an earlier build left
set -euo pipefail
sanitized=${GATUN_BUILD:-}-sanitized

fail() {
    echo "gatun-native: $*" >&2
    exit 1
}

nvcc_path() {
    command -v nvcc || { [ -x /usr/local/cuda/bin/nvcc ] && echo /usr/local/cuda/bin/nvcc; }
}

cached() { # the value of a CMake cache entry, empty where there is none
    sed -n "s/^$1:[A-Z]*=//p" "$GATUN_BUILD/CMakeCache.txt" 2>/dev/null || true
}

check_tools() {
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
        fail "Gatun builds on Linux x86-64 only; this is $(uname -s) $(uname -m)."
    command -v cmake >/dev/null ||
        fail "CMake 3.25 or newer is needed and cmake was not found. Debian: apt-get install cmake"
    local compiler=${CXX:-g++}
    command -v "$compiler" >/dev/null ||
        fail "a C++20 compiler is needed and $compiler was not found. Debian: apt-get install g++"
    echo '#include <concepts>
          template <std::integral T> T one() { return T{1}; }
          int main() { return one<int>() - 1; }' |
        "$compiler" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null ||
        fail "$compiler ($("$compiler" -dumpfullversion)) does not compile C++20: g++ 12 or newer is" \
            "needed. Debian: apt-get install g++"
    command -v ninja >/dev/null || command -v make >/dev/null ||
        fail "neither ninja nor make was found. Debian: apt-get install ninja-build"
}

wants_cuda() {
    case $GATUN_CUDA in
        on) nvcc_path >/dev/null || fail "gatun.cuda is on and nvcc was not found: put the CUDA" \
            "toolkit's bin folder on PATH, or build with -Dgatun.cuda=off" ;;
        auto) nvcc_path >/dev/null ;;
        keep) [ "$(cached GATUN_CUDA)" = ON ] && nvcc_path >/dev/null ;;
        off) false ;;
        *) fail "gatun.cuda is '$GATUN_CUDA'; it is one of on, off, auto, keep" ;;
    esac
}

nightly() { [ "$GATUN_NIGHTLY" = true ] && [ "$GATUN_SKIP_TESTS" != true ]; }

configure() {
    local cuda=OFF
    local options=()
    if wants_cuda; then
        cuda=ON
        options+=("-DCMAKE_CUDA_COMPILER=$(nvcc_path)")
    fi
    # A plugin of an earlier build must not be loaded beside a newer libgatun.
    [ $cuda = ON ] || rm -f "$GATUN_BUILD/libgatun_cuda.so"
    local strict=OFF tests=ON
    [ "$GATUN_STRICT" != on ] || strict=ON
    # A build folder that has the tests keeps them: CMake would delete what it no longer builds.
    [ "$GATUN_SKIP_TESTS" != true ] || [ "$(cached GATUN_TESTS)" = ON ] || tests=OFF
    # A generator cannot be changed in a folder that another one has configured.
    if [ -z "$(cached CMAKE_GENERATOR)" ]; then
        if command -v ninja >/dev/null; then options+=(-G Ninja); else options+=(-G "Unix Makefiles"); fi
    fi
    cmake -S "$GATUN_SOURCE" -B "$GATUN_BUILD" -DCMAKE_BUILD_TYPE=Release "-DDNNL_DIR=$GATUN_DNNL" \
        "-DGATUN_CUDA=$cuda" "-DGATUN_STRICT=$strict" "-DGATUN_TESTS=$tests" "${options[@]}"
    if nightly; then
        cmake -S "$GATUN_SOURCE" -B "$sanitized" -G "$(cached CMAKE_GENERATOR)" "-DDNNL_DIR=$GATUN_DNNL" \
            -DGATUN_CUDA=OFF -DGATUN_SANITIZE=address,undefined
    fi
}

build() {
    cmake --build "$GATUN_BUILD" --parallel "$(nproc)"
    if nightly; then
        cmake --build "$GATUN_BUILD" --parallel "$(nproc)" --target nightly_tests
        cmake --build "$sanitized" --parallel "$(nproc)"
    fi
}

stage() {
    rm -rf "$GATUN_STAGE"
    local folder
    for folder in linux-x86_64 linux-x86_64-cuda13; do
        local resources=$GATUN_STAGE/$folder/dev/gatun/native/linux-x86_64
        local libraries=(libgatun.so libdnnl.so.3 libgomp.so.1)
        if [ "$folder" = linux-x86_64-cuda13 ]; then
            mkdir -p "$GATUN_STAGE/$folder"
            if [ "$(cached GATUN_CUDA)" != ON ] || [ ! -f "$GATUN_BUILD/libgatun_cuda.so" ]; then continue; fi
            libraries+=(libgatun_cuda.so)
        fi
        mkdir -p "$resources"
        local library
        for library in "${libraries[@]}"; do
            if [ "$GATUN_SKIP" = true ] && [ ! -f "$GATUN_BUILD/$library" ]; then
                echo "gatun-native: no $library to pack (gatun.native.skip)"
                continue
            fi
            cp -L "$GATUN_BUILD/$library" "$resources/$library"
        done
    done
}

run_tests() {
    [ "$GATUN_SKIP_TESTS" != true ] || return 0
    local passed=$GATUN_BUILD/tests-passed
    # The libraries, the tests and what CMake says of them are as they were when all passed.
    if [ "$GATUN_TESTS_RUN" = changed ] && [ -e "$passed" ] &&
        [ -z "$(find "$GATUN_BUILD"/*.so "$GATUN_BUILD/test" -newer "$passed" -type f \
            ! -path '*/Testing/*' -print -quit)" ]; then
        echo "gatun-native: nothing changed since the native tests passed; mvn verify runs them again"
        return 0
    fi
    rm -f "$passed"
    local without=(-LE nightly)
    [ "$GATUN_NIGHTLY" != true ] || without=()
    ctest --test-dir "$GATUN_BUILD" --output-on-failure "${without[@]}"
    if nightly; then
        ctest --test-dir "$sanitized" --output-on-failure
    fi
    touch "$passed"
}

case ${1:-} in
    check)
        check_tools
        exit 0
        ;;
    configure | build | test) [ "$GATUN_SKIP" != true ] || exit 0 ;;
esac
case ${1:-} in
    configure) configure ;;
    build) build ;;
    stage) stage ;;
    test) run_tests ;;
    *) fail "usage: native.sh check | configure | build | stage | test" ;;
esac

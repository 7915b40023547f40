#!/usr/bin/env bash
# Builds libgatun_cuda.so and the test programs of it and of ptx.cuh (device bodies and, for the
# simulator, host bodies) with nvcc and g++ alone, for a machine without CMake where a kernel is
# mended: rebuild.sh FOLDER [OBJECTS]. FOLDER gets the library, FOLDER/test the programs. Compiles for the GPU that is here, all files at once; what has not changed since the
# last time is taken from OBJECTS (default: FOLDER/rebuilt). CMakeLists.txt beside this says why each
# option is there.
set -euo pipefail

to=$(mkdir -p "$1/test" && cd "$1" && pwd)
objects=$(mkdir -p "${2:-$1/rebuilt}" && cd "${2:-$1/rebuilt}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

fail() {
    echo "rebuild: $*" >&2
    exit 1
}

nvcc=$(command -v nvcc || true)
[ -n "$nvcc" ] || nvcc=/usr/local/cuda/bin/nvcc
[ -x "$nvcc" ] || fail "nvcc is not on PATH and not in /usr/local/cuda/bin"
command -v g++ >/dev/null || fail "g++ is not on PATH"

# nvcc may be a link or a script: it knows where its toolkit is
cuda=$("$nvcc" --dryrun -c x.cu 2>&1 | sed -n 's/.*TOP=//p' | head -n 1)
include= cudart=
for folder in "$cuda/include" "$cuda/targets/x86_64-linux/include"; do
    [ ! -e "$folder/cuda_runtime.h" ] || include=$folder
done
for folder in "$cuda/lib64" "$cuda/lib" "$cuda/targets/x86_64-linux/lib"; do
    [ ! -e "$folder/libcudart_static.a" ] || cudart=$folder/libcudart_static.a
done
[ -n "$include" ] && [ -n "$cudart" ] || fail "$cuda has no cuda_runtime.h or no libcudart_static.a"

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 || true)
case $capability in
    9.0) architectures=(-gencode=arch=compute_90a,code=sm_90a) ;;
    8.0) architectures=(-gencode=arch=compute_80,code=sm_80) ;;
    *) architectures=("-gencode=arch=compute_80,code=[sm_80,compute_80]" -gencode=arch=compute_90a,code=sm_90a) ;;
esac
echo "nvcc $("$nvcc" --version | tail -n 1), for ${architectures[*]#*code=}"

compile() { # $1: a source, or sim: and a source; a header that is newer makes everything stale
    local object=$objects/${1//\//_}.o source=${1#sim:}
    local newer
    newer=$(find kernels native/include native/src "$source" \( -name '*.h' -o -name '*.cuh' -o -path "$source" \) \
        -newer "$object" -print -quit 2>/dev/null || echo all)
    [ -e "$object" ] && [ -z "$newer" ] && return
    case $1 in
        sim:*)
            g++ -std=gnu++20 -O2 -fno-strict-aliasing -fstack-clash-protection -Wall -Wextra -Wno-unused-function \
                -Inative/src/sim -Ikernels -isystem native/src/sim/include -xc++ -c "$source" -o "$object.new"
            ;;
        *.cu)
            "$nvcc" -std=c++20 -O3 -lineinfo "${architectures[@]}" -Xptxas=-v \
                -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra -Ikernels -c "$1" -o "$object.new" \
                >"$object.log" 2>&1 || { cat "$object.log"; return 1; }
            grep -B2 -E '[1-9][0-9]* bytes spill|warning' "$object.log" || true
            ;;
        *)
            g++ -std=gnu++20 -O3 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra \
                -fopenmp -fno-math-errno -Inative/include -Inative/src -Ikernels -isystem "$include" \
                -c "$1" -o "$object.new"
            ;;
    esac
    mv "$object.new" "$object"
    echo "compiled $1"
}
export -f compile
export nvcc objects include
# arrays do not pass through the environment
declare -p architectures >"$objects/architectures"

sources=(kernels/*.cu native/src/cuda/*.cpp native/src/core/error.cpp native/src/core/memory.cpp)
tests=native/test/kernel
host_bodies=("sim:$tests/ptx_check.cu" sim:native/src/sim/{simt,memory,runtime}.cpp)
printf '%s\0' "${sources[@]}" "$tests/ptx_check.cu" "$tests/plugin_test.cpp" "${host_bodies[@]}" |
    xargs -0 -n 1 -P "$(nproc)" bash -c 'set -euo pipefail; . "$objects/architectures"; compile "$1"' _ ||
    fail "something does not compile; the lines above say what"

link=("$cudart" -lpthread -lrt -ldl -static-libstdc++ -static-libgcc)
built=()
for source in "${sources[@]}"; do built+=("$objects/${source//\//_}.o"); done
bodies=()
for source in "${host_bodies[@]}"; do bodies+=("$objects/${source//\//_}.o"); done
g++ -shared -o "$to/libgatun_cuda.so.new" "${built[@]}" -Wl,--no-undefined -Wl,--exclude-libs,ALL "${link[@]}"
mv "$to/libgatun_cuda.so.new" "$to/libgatun_cuda.so"
for program in ptx_check.cu:ptx_check_cuda plugin_test.cpp:cuda_plugin_test; do
    source=$tests/${program%:*}
    g++ -o "$to/test/${program#*:}" "$objects/${source//\//_}.o" "${link[@]}"
done
g++ -o "$to/test/ptx_check_sim" "${bodies[@]}" -lpthread -static-libstdc++ -static-libgcc
echo "built $to/libgatun_cuda.so"

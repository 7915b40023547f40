#!/usr/bin/env bash
# What `gatun bundle` packs works where there is nothing: no environment, no Java, no network, another
# user, a folder with a space in its name. And the check that it carries bites. bundle.sh ROOT WORK
set -euo pipefail

root=$(cd "$1" && pwd)
work=$2
[ "${GATUN_SKIP_TESTS:-}" != true ] || exit 0
native=$root/java/gatun-native/target/native
if [ ! -e "$native/test/ptx_check_sim" ]; then
    echo "bundle: nothing to test: the native tests were not built" >&2
    exit 1
fi
rm -rf "$work"
# not below the repository: who unpacks there may be another user
place=$(mktemp -d)/"a place"
trap 'rm -rf "${place%/*}"' EXIT
mkdir -p "$work" "$place"
chmod 755 "${place%/*}" && chmod 777 "$place"

fail() {
    echo "bundle: $*" >&2
    exit 1
}

bare() { # runs its words as nobody, without network where that is possible, in an empty environment
    local -a as=()
    if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        unshare -n true 2>/dev/null && as+=(unshare -n)
        as+=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    fi
    (cd "$place" && "${as[@]}" env -i HOME=/nonexistent PATH=/usr/bin:/bin "$@")
}

check() { # $1: the report's name, the rest: options; prints nothing, returns the check's exit code
    local report=$place/$1.md
    shift
    bare "$place/gatun-bundle/gatun" gpu-check --report "$report" "$@" >"$work/said" 2>&1
}

holds() { # $1: the report's name, the rest: each a line's pattern that it must have
    local report=$place/$1.md pattern
    shift
    for pattern in "$@"; do
        grep -qE "$pattern" "$report" || fail "$report has no line like '$pattern': $(tail -n 40 "$report")"
    done
}

"$("$root/gatun" --find-jdk)/bin/java" --enable-native-access=ALL-UNNAMED "-Dgatun.home=$root" "-Dgatun.library.path=$native" \
    -jar "$root/java/gatun-cli/target/dist/gatun-cli.jar" bundle --out "$place/gatun-bundle.sh" \
    --level "${GATUN_BUNDLE_LEVEL:-0}"
size=$(stat -c %s "$place/gatun-bundle.sh")
# the limit is for what is shipped, which is packed harder
[ "${GATUN_BUNDLE_LEVEL:-0}" -lt 6 ] || [ "$size" -le $((45 << 20)) ] || fail "has $size bytes, more than 45 MiB"
chmod 755 "$place/gatun-bundle.sh"
started=$SECONDS
bare sh gatun-bundle.sh
seconds=$((SECONDS - started))
echo "bundle: $size bytes, unpacked in $seconds s"
[ "$seconds" -le 60 ] || fail "took $seconds s to unpack: a machine is lent for ten minutes"
rm "$place/gatun-bundle.sh"

bare "$place/gatun-bundle/gatun" info >"$work/info" 2>&1 || fail "info: $(cat "$work/info")"
grep -q '^cpu  *[^n]' "$work/info" || fail "info has no cpu device: $(cat "$work/info")"

check sim --device sim || fail "the check of sim: $(tail -n 40 "$work/said")"
holds sim '^- ok ldmatrix_x4_transposed' '^- ok mma_m16n8k16 \(bf16\)' '^- ok plugin: ' \
    '^\| layer_norm_backward, layer_norm_forward \| ([1-9][0-9]*) \| \1 \| \1 \|  \|$' \
    '^\| layer_norm_forward bf16 64x768 \| [0-9]' '^- not run: the sanitizer watches a GPU' \
    '^\| ops \| 0 \| 0 \|' '^\| model \| 0 \| 0 \|' '^\| timings \| 0 \| 0 \|' \
    '^\*\*Nothing is wrong' "^\| commit \| [0-9a-f]"
grep -q '"micros"' "$place/sim.json" || fail "sim.json has no figures"

# what proves ends in time, also where the figures behind it do not
check cpu --device cpu --minutes "${GATUN_BUNDLE_MINUTES:-1.5}" ||
    fail "the check of cpu: $(tail -n 40 "$work/said")"
holds cpu '^\| ops \| 0 \| 0 \|' '^\| model \| 0 \| 0 \|' '^\| layer_norm_forward bf16 1024x768 \| [0-9]' \
    '^\*\*Nothing is wrong'

# no GPU here: that is said, and is no success
if check cuda --device cuda --only layer_norm --minutes 1; then
    grep -q '^| gpu 0' "$place/cuda.md" || fail "a check without a GPU went well: $(cat "$place/cuda.md")"
else
    holds cuda 'WRONG|not run'
fi

# a wrapper that is wrong, then a program that dies: the others go on, the exit code is 1
program=$place/gatun-bundle/java/gatun-native/target/native/test/ptx_check_sim
lie() {
    printf '#!/bin/sh\n%s\n' "$1" >"$place/lie"
    chmod 755 "$place/lie"
    mv -f "$place/lie" "$program"
}
lie 'echo "ok ld32"; echo "WRONG ld128: word 0 is 00000000, wanted 00000001"; exit 1'
if check wrong --device sim --only layer_norm_f --minutes 2; then fail "a wrong wrapper was not noticed"; fi
holds wrong '^- \*\*WRONG\*\* ld128: word 0 is' '^- \*\*WRONG\*\* ptx_check_sim checks no .*cp_async' \
    '\| ([1-9][0-9]*) \| \1 \| \1 \|' '^\*\*2 wrong' '^\| wrappers \| 2 \| 0 \|'
# shellcheck disable=SC2016 # for the program to expand
lie 'kill -SEGV $$'
if check crash --device sim --only sample --minutes 0.5; then fail "a crash was not noticed"; fi
holds crash 'WRONG.* killed by signal 11' '^## Compute sanitizer'
echo "bundle: works"

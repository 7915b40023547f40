#!/usr/bin/env python3
"""Breaks the shipped kernels in one place at a time and sees whether their tests notice.

Each mutant is kernels/ with one edit of the device code of one file: a barrier, a wait or a commit
removed, a bound moved by one, a mask, a swizzle, a stride, an index or its type, a sum changed. The
tests of kernels that include the file are compiled for the simulated device and run until one
fails, crashes or does not end: that kills the mutant. One that survives is tried again under
AddressSanitizer and UndefinedBehaviorSanitizer, where a barrier is missing also under
ThreadSanitizer. surviving_mutants.txt names those that no test kills, and says why: they change
nothing that a caller can see (equivalent), or they do (survives).

Usage: sim_mutants.py [--jobs N] [--slice N] [--only REGEX] [--seed N] [--list]
  --slice N   N mutants of edits that are sure to change something, spread evenly, of tests that
              are known to pass, without sanitizers
  --only RE   those of the files, lines and edits that match: "layer_norm.cu", "barrier removed"
Exit status 1 when one survives that the file does not name, or when those that it says survive are
more than 5 % of all mutants.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

NATIVE = pathlib.Path(__file__).resolve().parent.parent
KERNELS = NATIVE.parent / "kernels"
TESTS = NATIVE / "test/kernel"
# what these hold is not a kernel's
NOT_MUTATED = {"ptx.cuh", "launch.cuh"}

# (what, pattern, replacement)
EDITS = [
    ("barrier removed", r"__syncthreads\(\);", ";"),
    ("sync_warp removed", r"(?<!\w)sync_warp\(\);", ";"),
    ("commit removed", r"cp_async_commit\(\);", ";"),
    ("wait for one group fewer", r"cp_async_wait<([^<>]*)>", r"cp_async_wait<\1 + 1>"),
    ("bound moved up", r"(?<=[\w\)\]}]) < (?=[\w\(])", " <= "),
    ("bound moved down", r"(?<=[\w\)\]}]) <= (?=[\w\(-])", " < "),
    ("bound moved down", r"(?<=[\w\)\]}]) > (?=[\w\(-])", " >= "),
    ("bound moved up", r"(?<=[\w\)\]}]) >= (?=[\w\(-])", " > "),
    ("bound moved down", r"(column|row) < (p\.columns|p\.layout\.rows|columns)", r"\1 + 1 < \2"),
    ("sum becomes difference", r" \+= ", " -= "),
    ("sum becomes assignment", r"(\w\]?) \+= (?!step|kStep|kVec|kThreads|kNorm|kVector)", r"\1 = "),
    ("half of the lanes", r"mask = 16", "mask = 8"),
    ("one shuffle fewer", r"mask > 0", "mask > 1"),
    ("warp of 16 (index)", r"(?<=[\w\)]) / 32", " / 16"),
    ("warp of 16 (lane)", r"(?<=[\w\)]) % 32", " % 16"),
    ("the same half of the parts each time", r"phase \^= 1;", ";"),
    ("swizzle or exchange left out", r" \^ ", " + 0 * "),
    ("mask left out", r"(?<=[\w\)]) & (?=[\w\(])", " + 0 * "),
    ("and becomes or", r" && (?!\w+ ?\w* ?=)", " || "),
    ("condition turned", r" == 0\b", " != 0"),
    ("condition turned", r" != 0\b", " == 0"),
    ("condition turned", r" == nullptr", " != nullptr"),
    ("condition turned", r" != nullptr", " == nullptr"),
    ("maximum becomes minimum", r"\bfmaxf\(", "fminf("),
    ("maximum becomes minimum", r"\bmax(_of)?(<\w+>)?\(", r"min\1\2("),
    ("minimum becomes maximum", r"\bfminf\(", "fmaxf("),
    ("minimum becomes maximum", r"\bmin(_of)?(<\w+>)?\(", r"max\1\2("),
    ("off by one", r" - 1(?![\w.])", ""),
    ("off by one", r" \+ 1(?![\w.])", ""),
    ("all blocks are the first", r"int64_t\{blockIdx\.x\}", "int64_t{0}"),
    ("index of 32 bits", r"int64_t\{([^{}]+)\}", r"static_cast<int>(\1)"),
    ("index off by one", r"\+ column(?=[,\)\]])", "+ column + 1"),
    ("index off by one", r"\[column\]", "[column + 1]"),
    ("index off by one", r"\[row\]", "[row + 1]"),
    ("lane left out", r"\* kThreads \+ lane\)", "* kThreads)"),
    ("stride left out", r" \* layout\.stride\[operand\]\[\w+\]", ""),
    ("mean left out", r" - mean\b", ""),
    ("scale left out", r" \* scale\b", ""),
    ("eps left out", r" \+ p\.eps", ""),
    ("other half of the partial rows", r"partial \+ p\.columns", "partial"),
    ("other operand", r"::kDy\b", "::kX"),
    ("other operand", r"::kResidual\b", "::kX"),
    ("other operand", r"::kRstd\b", "::kMean"),
]


def read_survivors():
    """(file, what, text of the line) -> "equivalent: …" or "survives: …" """
    found, why = {}, ""
    for line in (NATIVE / "test/surviving_mutants.txt").read_text().splitlines():
        if line.startswith("# "):
            why = line[2:]
        elif line:
            found[tuple(line.split(": ", 2))] = why
    return found


SURVIVORS = read_survivors()


def reason(mutant):
    """Why no test kills it, if that is known."""
    return SURVIVORS.get((mutant.name, mutant.what, mutant.line))


# How a test is built: as it is, and for those whom that does not kill.
BUILDS = {
    "plain": ["-O1"],  # half of -O0's time, compiling and running together
    "asan": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DGATUN_SIM_ASAN"],
    "tsan": ["-O1", "-fsanitize=thread", "-DGATUN_SIM_TSAN"],
}
# Edits that change behaviour wherever they can be made: for the slice.
SURE = {
    "wait for one group fewer", "condition turned", "maximum becomes minimum", "scale left out",
    "index off by one", "half of the lanes",
}  # fmt: skip
RACES = {"barrier removed", "sync_warp removed", "the same half of the parts each time"}

Mutant = collections.namedtuple("Mutant", "name number line what text")


def includes(path):
    return re.findall(r'#include "(?:[./]*kernels/)?([^"/]+)"', path.read_text())


def tests_of():
    """File of kernels/ -> the tests that include it, directly or through another."""
    found = collections.defaultdict(list)
    for test in sorted(TESTS.glob("*_kernel_test.cpp")):
        seen, todo = set(), [i for i in includes(test) if i.endswith(".cu")]
        while todo:
            name = todo.pop()
            if name in seen or not (KERNELS / name).exists():
                continue
            seen.add(name)
            todo += includes(KERNELS / name)
        for name in seen:
            found[name].append(test)
    return {n: t for n, t in found.items() if n.endswith((".cu", ".cuh")) and n not in NOT_MUTATED}


def mutants(names):
    for name in sorted(names, key=lambda n: (not n.endswith(".cu"), n)):
        text = (KERNELS / name).read_text()
        start = text.index("namespace gatun::kernels {")
        host = re.search(r"^// ---- launchers? ----", text, re.MULTILINE)
        end = host.start() if host else len(text)
        for what, pattern, replacement in EDITS:
            for match in re.finditer(pattern, text[start:end]):
                at = start + match.start()
                line_start = text.rfind("\n", 0, at) + 1
                line = text[line_start : text.index("\n", at)]
                before_comment = line.split("//")[0]
                if at - line_start >= len(before_comment):
                    continue
                if re.search(r"template|static_assert|#include|operator", before_comment):
                    continue
                edited = text[:at] + match.expand(replacement) + text[start + match.end() :]
                yield Mutant(name, text.count("\n", 0, at) + 1, line.strip(), what, edited)


def command(kernels, output, flags):
    sim = NATIVE / "src/sim"
    return [
        os.environ.get("CXX", "g++"), "-std=gnu++20", *flags, "-fno-strict-aliasing",
        "-fstack-clash-protection", "-w", f"-I{sim}", f"-I{kernels}", f"-I{NATIVE / 'src'}",
        f"-I{NATIVE / 'include'}",
        "-isystem", str(sim / "include"), "-pthread", "-o", str(output),
    ]  # fmt: skip


class Bench:
    def __init__(self, work, seed, builds):
        self.work = work
        self.seed = seed
        self.objects = {build: [] for build in builds}
        for build in builds:
            defines = [f for f in BUILDS[build] if f.startswith("-D")]
            for source in ("simt", "memory", "runtime"):
                self.objects[build].append(work / f"{source}.{build}.o")
                subprocess.run(
                    [
                        *command(KERNELS, self.objects[build][-1], ["-O2", *defines]),
                        "-c", str(NATIVE / f"src/sim/{source}.cpp"),
                    ],
                    check=True,
                )  # fmt: skip

    def run(self, index, mutant, tests, seconds):
        """What became of it: of the first test that fails, if any."""
        folder = self.work / f"mutant{index}"
        # the tests' own paths to ../../../kernels must lead to the mutant
        (folder / "native/test").mkdir(parents=True)
        shutil.copytree(KERNELS, folder / "kernels")
        shutil.copytree(TESTS, folder / "native/test/kernel")
        for header in TESTS.parent.glob("*.h"):
            (folder / "native/test" / header.name).symlink_to(header)
        (folder / "native/src").symlink_to(NATIVE / "src")
        (folder / "native/include").symlink_to(NATIVE / "include")
        if mutant is not None:
            (folder / "kernels" / mutant.name).write_text(mutant.text)
        try:
            for build in self.objects:
                if mutant is None and build != "plain":
                    continue  # ctest runs those
                if build == "tsan" and mutant.what not in RACES:
                    continue
                if build != "plain" and reason(mutant):
                    continue
                for test in tests:
                    slower = seconds if build == "plain" else 20 * seconds
                    result = self.run_test(folder, test, build, slower)
                    if result != "survived":
                        return result
            return "survived"
        finally:
            shutil.rmtree(folder)

    def run_test(self, folder, test, build, seconds):
        program = folder / test.stem
        source = folder / "native/test/kernel" / test.name
        built = subprocess.run(
            [
                *command(folder / "kernels", program, BUILDS[build]), "-g1",
                str(source), *map(str, self.objects[build]),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if built.returncode != 0:
            return "does not compile"
        limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        try:
            ran = subprocess.run(
                [str(program), str(self.seed), "first"],
                capture_output=True, text=True, errors="replace", timeout=20 * seconds, check=False,
                preexec_fn=limit,
                env=os.environ
                | {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1:history_size=0"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "killed: does not end"
        if ran.returncode == 0:
            return "survived"
        signs = ("FAILED", "ERROR: AddressSanitizer", "runtime error", "WARNING: ThreadSanitizer")
        first = next((l for l in ran.stderr.splitlines() if any(s in l for s in signs)), "")
        return f"killed: {first or 'exit status ' + str(ran.returncode)}"


def main():
    parser = argparse.ArgumentParser(description="mutants of the kernels on the simulated device")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--slice", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    tests = tests_of()
    every = list(mutants(tests))
    for gone in SURVIVORS.keys() - {(m.name, m.what, m.line) for m in every}:
        sys.exit("surviving_mutants.txt: there is no mutant " + ": ".join(gone))
    given_up = sum((reason(m) or "").startswith("survives") for m in every)
    if given_up > 0.05 * len(every):
        sys.exit(f"surviving_mutants.txt: {given_up} of {len(every)} mutants survive: more than 5 %")
    chosen = [
        m for m in every if re.search(options.only, f"{m.name}:{m.number}: {m.what}: {m.line}")
    ]
    if options.slice:
        chosen = [m for m in chosen if m.what in SURE and reason(m) is None]
        step = max(1.0, len(chosen) / options.slice)
        chosen = [chosen[int(i * step)] for i in range(min(options.slice, len(chosen)))]
    if options.list:
        for m in chosen:
            print(f"{m.name}:{m.number}: {m.what}: {m.line}")
        print(f"{len(chosen)} mutants")
        return
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(
            pathlib.Path(temporary), options.seed, ["plain"] if options.slice else list(BUILDS)
        )
        seconds = 120 if options.slice else 10
        if not options.slice:
            for test in sorted({t for m in chosen for t in tests[m.name]}):
                before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
                fine = bench.run("none", None, [test], 1000)
                if fine != "survived":
                    sys.exit(f"{test.name} with the kernels as they are: {fine}")
                took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
                seconds = max(seconds, int(3 * took))
        counts = collections.Counter()
        survivors = collections.Counter()
        started = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = pool.map(
                lambda item: bench.run(item[0], item[1], tests[item[1].name], seconds), enumerate(chosen)
            )
            for mutant, result in zip(chosen, results):
                if result == "survived":
                    result = reason(mutant) or result
                kind = result.split(":")[0]
                counts[mutant.name, kind] += 1
                counts[kind] += 1
                if kind == "survived":
                    survivors[mutant.what] += 1
                print(f"{mutant.name}:{mutant.number}: {mutant.what}: {mutant.line}\n    {result}", flush=True)
    kinds = ("killed", "survived", "survives", "equivalent", "does not compile")
    for name in sorted({m.name for m in chosen}):
        print(f"{name}: " + ", ".join(f"{counts[name, k]} {k}" for k in kinds))
    for what, count in survivors.most_common():
        print(f"survived: {what}: {count}")
    print(
        f"{len(chosen)} mutants in {time.monotonic() - started:.0f} s: "
        + ", ".join(f"{counts[k]} {k}" for k in kinds)
    )
    if counts["survived"] > 0:
        sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Breaks the shipped kernels in one place at a time and sees whether their test notices.

Each mutant is kernels/ with one edit of layer_norm.cu's or tile.cuh's device code: a barrier
removed, a bound moved by one, a mask, a stride, an index or a sum changed. It is compiled with the
kernel's test for the simulated device and run. A mutant dies if the test fails, crashes or does not
end. All are printed with their line; those in EQUIVALENT change nothing that a caller can
see, and say why.

Usage: sim_mutants.py [--jobs N] [--every N] [--seed N]   (--every N: a slice, each N-th mutant)
Exit status 1 when fewer than 95 % of the others die.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

NATIVE = pathlib.Path(__file__).resolve().parent.parent
KERNELS = NATIVE.parent / "kernels"
TEST = NATIVE / "test/kernel/layer_norm_kernel_test.cpp"
INCLUDE_OF_TEST = '#include "../../../kernels/layer_norm.cu"'

# (what, pattern, replacement)
EDITS = [
    ("barrier removed", r"__syncthreads\(\);", ";"),
    ("bound moved up", r"(?<=[\w\)\]}]) < (?=[\w\(])", " <= "),
    ("bound moved down", r"(column|row) < (p\.columns|p\.layout\.rows|columns)", r"\1 + 1 < \2"),
    ("sum becomes difference", r" \+= ", " -= "),
    ("sum becomes assignment", r"(\w\]?) \+= (?!step|kStep|kVec|kThreads|kNorm|kVector)", r"\1 = "),
    ("half of the lanes", r"mask = 16", "mask = 8"),
    ("one shuffle fewer", r"mask > 0", "mask > 1"),
    ("warp of 16 (index)", r"(?<=[\w\)]) / 32", " / 16"),
    ("warp of 16 (lane)", r"(?<=[\w\)]) % 32", " % 16"),
    ("the same half of the parts each time", r"phase \^= 1;", ";"),
    ("condition turned", r" == 0\b", " != 0"),
    ("condition turned", r" != 0\b", " == 0"),
    ("condition turned", r" == nullptr", " != nullptr"),
    ("condition turned", r" != nullptr", " == nullptr"),
    ("all blocks are the first", r"int64_t\{blockIdx\.x\}", "int64_t{0}"),
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

# (text of the mutated line, what): why nobody can tell
WHOLE_VECTORS = "column and columns are multiples of the 4 or 8 elements of a vector here"
EQUIVALENT = {
    ("if (column < p.columns) {", "bound moved down"): WHOLE_VECTORS,
    (
        "if (column < columns) UNROLL for (int i = 0; i < kVec; ++i) partial[column + i] = mine[k][i];",
        "bound moved down",
    ): WHOLE_VECTORS,
}


def device_code(name, text):
    """Spans of the text that run on the device."""
    if name == "tile.cuh":
        start = text.index("// ---- sums ----")
        return start, len(text)
    return text.index("// ---- device helpers ----"), text.index("// ---- launchers ----")


def mutants():
    for name in ("layer_norm.cu", "tile.cuh"):
        text = (KERNELS / name).read_text()
        start, end = device_code(name, text)
        for what, pattern, replacement in EDITS:
            for match in re.finditer(pattern, text[start:end]):
                at = start + match.start()
                line_start = text.rfind("\n", 0, at) + 1
                line = text[line_start : text.index("\n", at)]
                before_comment = line.split("//")[0]
                if at - line_start >= len(before_comment):
                    continue
                edited = text[:at] + match.expand(replacement) + text[start + match.end() :]
                if "template" in before_comment or "static_assert" in before_comment:
                    continue
                number = text.count("\n", 0, at) + 1
                yield name, number, line.strip(), what, edited


def command(folder, output, flags):
    sim = NATIVE / "src/sim"
    return [
        os.environ.get("CXX", "g++"), "-std=gnu++20", *flags, "-fno-strict-aliasing",
        "-fstack-clash-protection", "-w", f"-I{sim}", f"-I{folder / 'kernels'}",
        "-isystem", str(sim / "include"), "-pthread", "-o", str(output),
    ]  # fmt: skip


def run(objects, work, index, mutant, seed):
    name, _, _, _, text = mutant
    folder = work / f"mutant{index}"
    shutil.copytree(KERNELS, folder / "kernels")
    (folder / "kernels" / name).write_text(text)
    test = TEST.read_text()
    assert INCLUDE_OF_TEST in test
    source = folder / "test.cpp"
    source.write_text(test.replace(INCLUDE_OF_TEST, '#include "kernels/layer_norm.cu"'))
    program = folder / "test"
    try:
        built = subprocess.run(
            [*command(folder, program, ["-O1"]), str(source), *map(str, objects)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if built.returncode != 0:
            return "does not compile"
        try:
            ran = subprocess.run(
                [str(program), str(seed), "first"], capture_output=True, text=True, timeout=120, check=False
            )
        except subprocess.TimeoutExpired:
            return "killed: does not end"
        if ran.returncode == 0:
            return "survived"
        first = next((l for l in ran.stderr.splitlines() if "FAILED" in l), "")
        return f"killed: {first or 'exit status ' + str(ran.returncode)}"
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description="mutants of the kernels on the simulated device")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261125)
    options = parser.parse_args()
    chosen = list(mutants())[:: options.every]
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        shutil.copytree(KERNELS, work / "kernels")
        objects = []
        for source in ("simt", "memory", "runtime"):
            objects.append(work / f"{source}.o")
            subprocess.run(
                [*command(work, objects[-1], ["-O2"]), "-c", str(NATIVE / f"src/sim/{source}.cpp")],
                check=True,
            )
        original = (KERNELS / "layer_norm.cu").read_text()
        fine = run(objects, work, "none", ("layer_norm.cu", 0, "", "", original), options.seed)
        if fine != "survived":
            sys.exit(f"the kernels as they are: {fine}")
        killed = survived = equivalent = broken = 0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = pool.map(
                lambda item: run(objects, work, item[0], item[1], options.seed), enumerate(chosen)
            )
            for (name, number, line, what, _), result in zip(chosen, results):
                if result.startswith("killed"):
                    killed += 1
                elif result == "does not compile":
                    broken += 1
                elif (line, what) in EQUIVALENT:
                    equivalent += 1
                    result = f"equivalent: {EQUIVALENT[line, what]}"
                else:
                    survived += 1
                print(f"{name}:{number}: {what}: {line}\n    {result}", flush=True)
    print(
        f"{len(chosen)} mutants: {killed} killed, {survived} survived, {equivalent} equivalent,"
        f" {broken} do not compile"
    )
    if killed < 0.95 * (killed + survived):
        sys.exit(1)


if __name__ == "__main__":
    main()

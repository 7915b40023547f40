// What the machine has for the cpu device, and what this process may use of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gatun::cpu {

// Cores by affinity mask and cgroup quota, at least 1.
int usable_cores();

// The best SIMD level: 1 plain (x86-64-v2), 2 avx2 (v3), 3 avx512 (v4); 0 if not even plain runs.
int best_simd();

// Bytes that could still be taken: the smaller of the machine's and the cgroup's.
int64_t free_memory();

// "Intel(R) Xeon(R) Processor".
void processor_name(char* text, size_t size);

}  // namespace gatun::cpu

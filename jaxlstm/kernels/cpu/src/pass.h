// Code shared by all passes: the allocation of scratch memory, how threads share a time step, and the choice of AMX.
#pragma once
#include <cstddef>
#include <cstdint>

#include "vector.h"
#include "wait.h"

namespace jaxlstm {
namespace {

// Hands out consecutive pieces of a block, each aligned to 64 bytes. With a null block it only measures how much memory
// the pieces need.
class Arena {
 public:
  explicit Arena(void* base, size_t used = 0) : base_(static_cast<char*>(base)), used_(used) {}
  template <class T>
  T* take(long count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_;
};

// Threads share a time step in one of two ways.
//
// By columns: each thread computes some of the columns for all rows. It reads only its part of the weights, but all
// threads synchronize after each step, because the next step needs every column of h.
//
// By rows: each thread computes all columns for some of the rows. Threads never wait for each other, so a thread that
// the system suspends delays no other, but each thread reads all weights.

JAXLSTM_INLINE long ceil_divide(long a, long b) { return (a + b - 1) / b; }
// Returns the start of a thread's share of n items. The share ends at the start of the next thread's share.
JAXLSTM_INLINE long share(long n, int thread, int threads) { return n * thread / threads; }

struct Range {
  long begin, end;
  long size() const { return end > begin ? end - begin : 0; }
};
inline Range share_of(Range all, int thread, int threads) {
  return {all.begin + share(all.size(), thread, threads), all.begin + share(all.size(), thread + 1, threads)};
}

// Limits within which sharing by rows is faster. With 2 threads it gained up to 7 % with 8 rows per thread, and nothing
// beyond these limits, where reading the weights from the shared caches dominates. With AVX-512 it gained 11 % with 4
// rows, and with AVX2, whose register blocks have 3 rows, it lost 10 %. With 8 to 15 rows it gained 8 to 19 % of the
// backward pass with 1.5 MiB of weights, and lost 3 to 10 % of a pass with 2 MiB, which fill a core's cache.
constexpr long kMinRowsPerThread = kVectorBytes == 64 ? 4 : 8, kManyRowsPerThread = 16;
constexpr long kMaxWeightBytesPerRow = 256 << 10, kMaxWeightBytes = 8 << 20, kMaxWeightBytesOfFewRows = 1792 << 10;

inline bool sharing_rows_is_faster(long rows_per_thread, long weight_bytes) {
  const long limit = rows_per_thread >= kManyRowsPerThread ? kMaxWeightBytes : kMaxWeightBytesOfFewRows;
  return rows_per_thread >= kMinRowsPerThread && weight_bytes <= rows_per_thread * kMaxWeightBytesPerRow &&
         weight_bytes <= limit;
}

// The part of each step that one thread computes.
struct WorkShare {
  const bool by_rows;
  const int thread, threads;

  // Returns this thread's rows of `all`. Every share but the last is a multiple of `block` rows.
  Range rows(long all, long block = 1) const {
    if (!by_rows) return {0, all};
    const Range blocks = share_of({0, ceil_divide(all, block)}, thread, threads);
    return {blocks.begin * block, thread < threads - 1 ? blocks.end * block : all};
  }
  Range columns(long all) const { return by_rows ? Range{0, all} : share_of({0, all}, thread, threads); }
  // Returns this thread's part of work that is done once per row. `row_range` is a part of rows().
  Range whole_rows(Range row_range) const { return by_rows ? row_range : share_of(row_range, thread, threads); }
  // Waits for the other threads, if they share the columns.
  void synchronize(Barrier& barrier) const {
    if (!by_rows) barrier.wait();
  }
};

// The choice between AMX and vectors. AMX rounds differently, so the choice must not depend on padding: it only counts
// the rows up to the last one with a valid step.

// Returns the number of rows up to the last one with a valid step. `valid` is [time, batch], or null if all are valid.
inline long used_rows(const uint8_t* valid, long time, long batch) {
  if (!valid) return batch;
  long used = 0;
  for (long t = 0; t < time; t++)
    for (long row = batch; row > used; row--)
      if (valid[t * batch + row - 1]) used = row;
  return used;
}

// With AMX, return true if threads should share the rows, given the size of the recurrent weights. With 2
// threads it gained up to 14 % of the forward pass and 50 % of the backward pass, where otherwise each thread reads the
// grad_gates that the others wrote. Beyond these limits it gained nothing.
inline bool sharing_forward_rows_is_faster(long rows_per_thread, long weight_bytes) {
  return rows_per_thread >= 32 && weight_bytes <= 2 << 20;
}
inline bool sharing_backward_rows_is_faster(long rows_per_thread, long weight_bytes) {
  return rows_per_thread >= 16 && weight_bytes <= rows_per_thread * (128 << 10) && weight_bytes <= 8 << 20;
}

// Returns true if AMX is faster in float32. Its tiles have 16 rows, and a product of fewer rows takes hardly less time.
inline bool amx_is_faster(long rows) { return rows >= 12; }

}  // namespace
}  // namespace jaxlstm

// How the threads of a call share a time step.
//
// By columns: each thread computes some of the columns for all rows. It reads only its part of the weights, but all
// threads synchronize after each step, because the next step needs every column of h.
//
// By rows: each thread computes all columns for some of the rows. Threads never wait for each other, so a thread that
// the system suspends delays no other, but each thread reads all weights.
#pragma once
#include "vector.h"
#include "wait.h"

namespace jaxlstm {
namespace {

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
// beyond these limits, where reading the weights from the shared caches dominates.
constexpr long kMinRowsPerThread = 8, kMaxWeightBytesPerRow = 256 << 10, kMaxWeightBytes = 8 << 20;

inline bool sharing_rows_is_faster(long rows_per_thread, long weight_bytes) {
  return rows_per_thread >= kMinRowsPerThread && weight_bytes <= rows_per_thread * kMaxWeightBytesPerRow &&
         weight_bytes <= kMaxWeightBytes;
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

}  // namespace
}  // namespace jaxlstm

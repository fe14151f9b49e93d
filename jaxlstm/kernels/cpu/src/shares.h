// How the threads of a call share each of its steps.
//
// Either each thread has some of the columns, of all rows: each reads its part of the weights, and they meet after
// the step, since the next one needs all of it. Or each has some of the rows, with all columns: then no thread ever
// waits for another, and one that is held up for a moment holds up no other; but each reads all weights.
#pragma once
#include "barrier.h"
#include "vector.h"

namespace jaxlstm {
namespace {

JAXLSTM_INLINE long ceil_divide(long a, long b) { return (a + b - 1) / b; }
// The share of `thread` in n things.
JAXLSTM_INLINE long share(long n, int thread, int threads) { return n * thread / threads; }

struct Range {
  long begin, end;
  long size() const { return end > begin ? end - begin : 0; }
};
inline Range share_of(Range all, int thread, int threads) {
  return {all.begin + share(all.size(), thread, threads), all.begin + share(all.size(), thread + 1, threads)};
}

// Measured at 2 threads: rows were up to 7 % faster with 8 of them a thread and as many bytes of weights as here, and
// no faster beyond. With fewer rows, or more bytes, time goes into reading weights from the caches that cores share.
constexpr long kLeastRows = 8, kWeightBytesARow = 256 << 10, kMostWeightBytes = 8 << 20;

inline bool rows_pay_for_weights(long rows_a_thread, long weight_bytes) {
  return rows_a_thread >= kLeastRows && weight_bytes <= rows_a_thread * kWeightBytesARow &&
         weight_bytes <= kMostWeightBytes;
}

// What one thread has.
struct Shares {
  const bool by_rows;
  const int thread, threads;

  Range rows(long all) const { return by_rows ? share_of({0, all}, thread, threads) : Range{0, all}; }
  Range columns(long all) const { return by_rows ? Range{0, all} : share_of({0, all}, thread, threads); }
  // Of rows that are this thread's, what it does by itself; the rest is done by those that have them too.
  Range of_mine(Range rows) const { return by_rows ? rows : share_of(rows, thread, threads); }
  // Where threads that share the columns meet.
  void meet(Barrier& barrier) const {
    if (!by_rows) barrier.wait();
  }
};

}  // namespace
}  // namespace jaxlstm

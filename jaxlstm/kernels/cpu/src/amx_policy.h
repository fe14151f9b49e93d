// The choice between AMX and vectors. AMX rounds differently, so the choice must not depend on padding: it only counts
// the rows up to the last one with a valid step.
#pragma once
#include <cstdint>

namespace jaxlstm {
namespace {

// Returns the number of rows up to the last one with a valid step. `valid` is [time, batch], or null if all are valid.
inline long used_rows(const uint8_t* valid, long time, long batch) {
  if (!valid) return batch;
  long used = 0;
  for (long t = 0; t < time; t++)
    for (long row = batch; row > used; row--)
      if (valid[t * batch + row - 1]) used = row;
  return used;
}

// Return true if threads should share the rows (work_sharing.h), given the size of the recurrent weights. With 2
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

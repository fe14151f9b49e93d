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

// Returns true if AMX is faster in float32. Its tiles have 16 rows, and a product of fewer rows takes hardly less time.
inline bool amx_is_faster(long rows) { return rows >= 12; }

}  // namespace
}  // namespace jaxlstm

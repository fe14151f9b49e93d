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

// Returns true if AMX is faster. Its tiles have 16 rows; vectors are faster for fewer rows, or if the last tile of a
// batch would be mostly empty.
inline bool amx_is_faster(long rows) { return rows >= 16 && 4 * rows >= 3 * ((rows + 15) / 16 * 16); }

}  // namespace
}  // namespace jaxlstm

// Which rows of a batch are there, and whether they pay for AMX's tiles. A row gets other bits from those, within
// rounding, so that it is asked of the rows that are there: padding behind them changes nothing.
#pragma once
#include <cstdint>

namespace jaxlstm {
namespace {

// Those up to the last one that has a valid step; `valid` is [time, batch], or null if every step is.
inline long rows_there(const uint8_t* valid, long time, long batch) {
  if (!valid) return batch;
  long there = 0;
  for (long t = 0; t < time; t++)
    for (long row = batch; row > there; row--)
      if (valid[t * batch + row - 1]) there = row;
  return there;
}

// Tiles have 16 rows: fewer, or many that are not there, are faster on the vector units.
inline bool pays_for_tiles(long rows) { return rows >= 16 && 4 * rows >= 3 * ((rows + 15) / 16 * 16); }

}  // namespace
}  // namespace jaxlstm

// An allocator for the arrays that one pass keeps in a single block of scratch memory.
#pragma once
#include <cstddef>

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

}  // namespace
}  // namespace jaxlstm

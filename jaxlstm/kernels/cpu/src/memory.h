// Scratch memory that is reused by later calls. Each fresh page of 4 KiB costs a page fault, and for packed weights
// these faults take as long as the computation.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jaxlstm {

constexpr size_t kHugePage = 2 << 20;

// Asks the system to back a large array with huge pages. The hint covers the pages at both ends too, since XLA
// allocates its arrays from larger blocks.
inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  if (bytes < kHugePage / 2) return;
  const uintptr_t begin = uintptr_t(data) & ~uintptr_t(kHugePage - 1);
  const uintptr_t end = (uintptr_t(data) + bytes + kHugePage - 1) & ~uintptr_t(kHugePage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// A block of memory, taken from a free list and returned to it by the destructor. The list grows to as many blocks as
// there were concurrent calls. A block that is too small is replaced by a larger one.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      if (!free_blocks().empty()) {
        block_ = free_blocks().back();
        free_blocks().pop_back();
      }
    }
    if (block_.bytes >= bytes) return;
    std::free(block_.data);
    block_.bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    block_.data = std::aligned_alloc(kHugePage, block_.bytes);
    if (block_.data) advise_huge_pages(block_.data, block_.bytes);
    else block_.bytes = 0;
  }
  ~Scratch() {
    std::lock_guard<std::mutex> lock(mutex());
    free_blocks().push_back(block_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null if the allocation failed.
  void* data() const { return block_.data; }

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  // Never destroyed, because a call may still run while the process exits.
  static std::mutex& mutex() { static auto* m = new std::mutex; return *m; }
  static std::vector<Block>& free_blocks() { static auto* blocks = new std::vector<Block>; return *blocks; }
  Block block_;
};

}  // namespace jaxlstm

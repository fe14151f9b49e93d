// Scratch memory that outlives a call: fresh pages cost a fault for each 4 KiB, which for packed weights is as
// long as the computation.
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

// Large blocks in huge pages, where the system has them. Purely a hint, given for the pages at both ends too: XLA cuts
// its arrays from larger blocks.
inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  if (bytes < kHugePage / 2) return;
  const uintptr_t begin = uintptr_t(data) & ~uintptr_t(kHugePage - 1);
  const uintptr_t end = (uintptr_t(data) + bytes + kHugePage - 1) & ~uintptr_t(kHugePage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// One block, taken from those that ended calls have left and given back at the end. There are as many as there
// ever were calls at once, each as large as the largest of its calls.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      if (!idle().empty()) {
        block_ = idle().back();
        idle().pop_back();
      }
    }
    if (block_.bytes >= bytes) return;
    std::free(block_.data);
    block_.bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    block_.data = std::aligned_alloc(kHugePage, block_.bytes);
    if (block_.data) {
      advise_huge_pages(block_.data, block_.bytes);
    } else {
      block_.bytes = 0;
    }
  }
  ~Scratch() {
    std::lock_guard<std::mutex> lock(mutex());
    idle().push_back(block_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return block_.data; }  // null if there is no memory

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  // never destroyed: a call may still run when the process ends
  static std::mutex& mutex() { static auto* m = new std::mutex; return *m; }
  static std::vector<Block>& idle() { static auto* blocks = new std::vector<Block>; return *blocks; }
  Block block_;
};

}  // namespace jaxlstm

// The buffers of a call from XLA, checked against the shapes and dtypes that a handler expects.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "arguments.h"
#include "half.h"
#include "memory.h"
#include "xla/ffi/api/ffi.h"

namespace jaxlstm {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Shape = std::initializer_list<int64_t>;

template <class T>
constexpr ffi::DataType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return ffi::F32;
  else if constexpr (std::is_same_v<T, double>) return ffi::F64;
  else if constexpr (std::is_same_v<T, Bfloat16>) return ffi::BF16;
  else if constexpr (std::is_same_v<T, Float16>) return ffi::F16;
  else if constexpr (std::is_same_v<T, int32_t>) return ffi::S32;
  else return ffi::PRED;
}

// A buffer of shape (0,) stands for an absent array.
inline bool is_absent(const Buffer& buffer) { return buffer.dimensions().size() == 1 && buffer.element_count() == 0; }

// Checks all buffers of a call and keeps the first error, so that callers test for failure only once.
class BufferChecker {
 public:
  // `buffer` determines the dtype of the call.
  explicit BufferChecker(const Buffer& buffer) {
    for (const ffi::DataType dtype : {ffi::F32, ffi::F64, ffi::BF16, ffi::F16})
      if (buffer.element_type() == dtype) return;
    fail("inputs must be float16, bfloat16, float32 or float64");
  }

  // Returns the shape of a buffer with kAxes axes, or zeros after an error.
  template <size_t kAxes>
  std::array<long, kAxes> sizes(const char* name, const Buffer& buffer) {
    std::array<long, kAxes> result{};
    const auto dimensions = buffer.dimensions();
    if (dimensions.size() == kAxes) std::copy(dimensions.begin(), dimensions.end(), result.begin());
    else fail(std::string(name) + " must have " + std::to_string(kAxes) + " axes");
    return result;
  }

  template <class T>
  const T* input(const char* name, const Buffer& buffer, Shape shape) {
    check(name, buffer, shape, dtype_of<T>());
    return static_cast<const T*>(buffer.untyped_data());
  }
  template <class T>
  const T* optional_input(const char* name, const Buffer& buffer, Shape shape) {
    return is_absent(buffer) ? nullptr : input<T>(name, buffer, shape);
  }
  template <class T>
  T* output(const char* name, Result& buffer, Shape shape) {
    check(name, *buffer, shape, dtype_of<T>());
    advise_huge_pages(buffer->untyped_data(), buffer->size_bytes());
    return static_cast<T*>(buffer->untyped_data());
  }
  template <class T>
  T* optional_output(const char* name, Result& buffer, Shape shape) {
    return is_absent(*buffer) ? nullptr : output<T>(name, buffer, shape);
  }

  // Checks the cell's number and returns true if it has c and a projection. Otherwise their buffers must be absent.
  bool check_cell(int64_t cell, std::initializer_list<const Buffer*> buffers) {
    if (cell != int64_t(Cell::kLstm) && cell != int64_t(Cell::kGru)) fail("the cell must be 0 or 1");
    for (const Buffer* buffer : buffers)
      if (cell == int64_t(Cell::kGru) && !is_absent(*buffer)) fail("a GRU has no c and no projection");
    return cell == int64_t(Cell::kLstm);
  }
  void require_nonzero_sizes(long time, long hidden_size, long h_size) {
    if (time < 1 || hidden_size < 1 || h_size < 1) fail("time, hidden_size and h_size must be at least 1");
  }
  void fail(std::string message) {
    if (message_.empty()) message_ = "jaxlstm: " + message;
  }
  bool failed() const { return !message_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(message_); }

 private:
  void check(const char* name, const Buffer& buffer, Shape shape, ffi::DataType dtype) {
    const auto dimensions = buffer.dimensions();
    if (buffer.element_type() != dtype) fail(std::string(name) + " has the wrong dtype");
    if (!std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end()))
      fail(std::string(name) + " must have shape " + text(shape) + ", got " + text(dimensions));
  }
  template <class Sizes>
  static std::string text(const Sizes& sizes) {
    std::string out = "(";
    for (int64_t size : sizes) out += std::to_string(size) + ",";
    return out + ")";
  }

  std::string message_;
};

}  // namespace jaxlstm

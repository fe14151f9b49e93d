// XLA's arrays as the pointers that a kernel takes, each checked against the dtype and the shape that it must have.
#pragma once
#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>
#include <type_traits>

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
  else if constexpr (std::is_same_v<T, int32_t>) return ffi::S32;
  else return ffi::PRED;
}

// An axis of 0 elements alone stands for an array that is left out.
inline bool left_out(const Buffer& array) { return array.dimensions().size() == 1 && array.element_count() == 0; }

// Goes on after a complaint and keeps the first, so that whoever asks for arrays need not look after each.
class Checker {
 public:
  // By one array, whose dtype is to be that of the others.
  explicit Checker(const Buffer& array) {
    if (array.element_type() != ffi::F32 && array.element_type() != ffi::F64)
      complain("inputs must be float32 or float64");
  }

  // The sizes of an array of kAxes axes; zeros if it has others.
  template <size_t kAxes>
  std::array<long, kAxes> sizes(const char* name, const Buffer& array) {
    std::array<long, kAxes> found{};
    const auto dimensions = array.dimensions();
    if (dimensions.size() == kAxes) std::copy(dimensions.begin(), dimensions.end(), found.begin());
    else complain(std::string(name) + " must have " + std::to_string(kAxes) + " axes");
    return found;
  }

  template <class T>
  const T* input(const char* name, const Buffer& array, Shape shape) {
    check(name, array, shape, dtype_of<T>());
    return static_cast<const T*>(array.untyped_data());
  }
  template <class T>
  const T* input_if_there(const char* name, const Buffer& array, Shape shape) {
    return left_out(array) ? nullptr : input<T>(name, array, shape);
  }
  template <class T>
  T* output(const char* name, Result& array, Shape shape) {
    check(name, *array, shape, dtype_of<T>());
    advise_huge_pages(array->untyped_data(), array->size_bytes());
    return static_cast<T*>(array->untyped_data());
  }
  template <class T>
  T* output_if_there(const char* name, Result& array, Shape shape) {
    return left_out(*array) ? nullptr : output<T>(name, array, shape);
  }

  void require_steps_and_units(long time, long hidden_size, long h_size) {
    if (time < 1 || hidden_size < 1 || h_size < 1) complain("time, hidden_size and h_size must be at least 1");
  }
  void complain(std::string message) {
    if (message_.empty()) message_ = "jaxlstm: " + message;
  }
  bool failed() const { return !message_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(message_); }

 private:
  void check(const char* name, const Buffer& array, Shape shape, ffi::DataType dtype) {
    const auto dimensions = array.dimensions();
    if (array.element_type() != dtype) complain(std::string(name) + " has the wrong dtype");
    if (!std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end()))
      complain(std::string(name) + " must have shape " + text(shape) + ", got " + text(dimensions));
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

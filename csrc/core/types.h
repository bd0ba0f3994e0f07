// The element types a tensor may have here.
#pragma once
namespace fd {
enum class Dtype : int { f32, f16, bf16, f64, i32, i64 };
inline constexpr int width_of(Dtype t) {
  return t == Dtype::f32 || t == Dtype::i32 ? 4 : t == Dtype::f64 || t == Dtype::i64 ? 8 : 2;
}
}  // namespace fd

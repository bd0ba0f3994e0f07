// The element types a tensor may have here.
#pragma once
namespace fd {
enum class Dtype : int { f32, f16, bf16, f64, i32, i64 };
}

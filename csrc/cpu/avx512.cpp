#define FD_ISA avx512
#include "fill.inl"
#include "norm.inl"
#include "step.inl"

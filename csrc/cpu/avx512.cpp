#define FD_ISA avx512
#include "brownian.inl"
#include "fill.inl"
#include "norm.inl"
#include "step.inl"

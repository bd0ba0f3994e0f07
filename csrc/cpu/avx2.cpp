#define FD_ISA avx2
#include "brownian.inl"
#include "fill.inl"
#include "norm.inl"
#include "step.inl"

#define FD_ISA avx2
#include "fill.inl"
#include "norm.inl"
#include "step.inl"

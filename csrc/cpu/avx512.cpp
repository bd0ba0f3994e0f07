#define FD_ISA avx512
#include "fill.inl"
#include "step.inl"

#define FD_ISA avx2
#include "fill.inl"
#include "step.inl"

#define FD_ISA avx512_bf16
#include "step.inl"

#define FD_ISA base
#include "fill.inl"
#include "norm.inl"
#include "step.inl"

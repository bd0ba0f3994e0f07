#define FD_ISA base
#include "fill.inl"
#include "step.inl"

#define FD_ISA base
#include "brownian.inl"
#include "fill.inl"
#include "norm.inl"
#include "step.inl"

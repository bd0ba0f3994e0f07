#define FD_ISA base
#include "brownian.inl"
#include "fill.inl"
#include "dots.inl"
#include "kl.inl"
#include "loss.inl"
#include "norm.inl"
#include "step.inl"

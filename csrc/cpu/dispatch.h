// The best instruction set of this processor, or the one asked for (FASTDIFF_ISA, set_isa), so that one
// machine tests all.
#pragma once
#include <string>
#include <vector>
#include "../sums.h"

namespace fd::cpu {

const char* isa();
std::vector<std::string> isas();
void set_isa(const std::string& name);
int level();  // of the instruction set, from 0
int threads();  // what torch.set_num_threads last said on this thread

void run(const Step& s);  // over all groups, on the pool when that pays; needs no GIL
void run(const Fill& f);
void run(const Brownian& p);  // std::invalid_argument where the clock's rows are not those of its ladder
int64_t path_work(int64_t K);    // what an element of K increments costs, in elements of the others
void run(const Norm& n);
void run(const Loss& s);
void run(const Dots& s);
void run(const Kl& s);
bool small(int64_t elements);    // too little work to release the GIL or wake a thread
bool past_cache(int64_t bytes);  // more than the last cache holds

}  // namespace fd::cpu

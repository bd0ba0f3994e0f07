#include "ladder.h"
#include <algorithm>
#include "../core/brownian.h"

namespace fd::cpu {

int16_t Ladder::take() {
  if (!free_.empty()) {
    const int16_t b = free_.back();
    free_.pop_back();
    return b;
  }
  return buffers++;
}

void Ladder::give_out(int64_t k, int depth) {
  const Sum& s = sums_[static_cast<size_t>(k)];
  Rung r;
  const bool one = s.side[0] == kNothing || s.side[1] == kNothing;
  const int a = s.side[0] == kNothing;
  r.increment = k;
  r.from = s.side[a], r.width = width_of(s.cells[a], depth);
  if (!one) r.other = s.side[1], r.other_width = width_of(s.cells[1], depth);
  for (const int16_t b : s.side)
    if (b != kNothing) free_.push_back(b);
  rungs.push_back(r);
}

void Ladder::build(const int64_t* at, int64_t K, int depth) {
  rungs.clear(), waiting_.clear(), free_.clear();
  halvings = 0, buffers = kRoot + 1;
  sums_.assign(static_cast<size_t>(K), Sum{{kNothing, kNothing}, {0, 0}, 0});
  for (int64_t k = 0; k < K; ++k) {
    int32_t bits = 0;
    for (int64_t apart = at[k] ^ (at[k + 1] - 1); apart; apart >>= 1) ++bits;
    sums_[static_cast<size_t>(k)].split = depth - bits;
  }
  const int64_t end = int64_t(1) << depth;
  const int64_t* first = std::upper_bound(at, at + K + 1, int64_t(0));
  const int64_t* last = std::lower_bound(at, at + K + 1, end);
  if (first < last) waiting_.push_back({0, first - at, last - at, 1, 0, kRoot});
  else sums_[0].side[0] = kRoot, sums_[0].cells[0] = end;  // the one increment is all of the path

  int64_t given = 0;
  while (!waiting_.empty()) {
    const Node n = waiting_.back();
    waiting_.pop_back();
    while (given < K && at[given + 1] <= n.lo) give_out(given++, depth);
    const int64_t half = end >> (n.level + 1), mid = n.lo + half;
    const int64_t below = std::lower_bound(at + n.first, at + n.last, mid) - at;
    const int64_t above = below + (below < n.last && at[below] == mid);
    Rung r;
    r.from = n.buffer, r.node = n.id, r.level = n.level;
    free_.push_back(n.buffer);
    const auto place = [&](bool right, int64_t from, int64_t to) {
      Half h;
      h.width = width_of(half, depth);
      if (from < to) {  // boundaries inside: to be halved
        h.to = take();
        waiting_.push_back({right ? mid : n.lo, from, to, 2 * n.id + right, n.level + 1, h.to});
      } else if (from > 0 && from <= K) {  // inside increment from - 1
        Sum& s = sums_[static_cast<size_t>(from - 1)];
        const int side = n.level <= s.split ? right : !right;
        if (s.side[side] == kNothing) s.side[side] = take();
        else h.onto = s.side[side], h.onto_width = width_of(s.cells[side], depth);
        h.to = s.side[side];
        h.first = side == 0;
        s.cells[side] += half;
      }
      return h;
    };
    r.right = place(true, above, n.last);
    r.left = place(false, n.first, below);
    rungs.push_back(r);
    ++halvings;
  }
  while (given < K) give_out(given++, depth);
}

}  // namespace fd::cpu

// Brownian increments through tiles that stay in the caches
#pragma once
#include <algorithm>
#include <memory>
#include <vector>
#include "../core/brownian.h"
#include "kernels.h"
#include "ladder.h"
#include "lanes.inl"
#include "noise.inl"

namespace fd::FD_ISA {
namespace {

constexpr int64_t kPathTile = 512;  // groups
constexpr int64_t kPathVectors = kPathTile / N;
constexpr int64_t kPathRow = 4 * kPathTile + N;  // rows do not start at the same place of a page

// Inside a tile numbers lie as they are made: vectors of N groups, four vectors of one number of each group.
//
// Philox for all nodes of a tree. The node is word 1 of the counter, and a round moves it on to
//
//   round 1  word 0     x = node ^ ...                     the same for all groups of a sample
//   round 2  words 2, 3 hi, lo of the product of x         and words 0, 1 have nothing of it
//   round 3  words 0, 1 by the product of word 2; word 2 by an exclusive or
//
// What those rounds come to without the node is worked out once for each vector.
constexpr int kRoundsLeft = 7;  // from round 4 on
struct Start {
  W two, zero, at_two, three;  // into word 2 before round 3; into word 0, into word 2, and word 3 after it
};
// Vectors with the same keys
struct Run {
  int64_t at, vectors;  // the first, and how many
  bool one_key;         // all of one sample
  W x[2], k0[kRoundsLeft][2], k1[kRoundsLeft][2];  // of even and of odd lanes; x without the node
};
// The normals of a node, handed to the sink vector by vector
template <bool kOneKey, class Sink>
__attribute__((noinline)) void draw_node(const Run& run, const Start (*starts)[2], uint32_t node,
                                         const Sink& given) {
  const Sink sink = given;  // a local one is not reloaded after each store
  const Start(*start)[2] = starts + run.at;
  W hi[2], lo[2], k0[kRoundsLeft][2], k1[kRoundsLeft][2];
  for (int r = 0; r < kRoundsLeft; ++r)
    for (int i = 0; i < 2; ++i) k0[r][i] = run.k0[r][kOneKey ? 0 : i], k1[r][i] = run.k1[r][kOneKey ? 0 : i];
  for (int i = 0; i < 2; ++i) Simd::product(kPhilox0, run.x[i] ^ Simd::word(node), hi[i], lo[i]);
  const auto words = [&](int64_t v, U (*w)[4]) __attribute__((always_inline)) {
    W c[2 * kVectors][4], high;
    for (int i = 0; i < 2 * kVectors; ++i) {
      const Start& s = start[v + i / 2][i % 2];
      Simd::product(kPhilox1, hi[i % 2] ^ s.two, high, c[i][1]);
      c[i][0] = high ^ s.zero, c[i][2] = lo[i % 2] ^ s.at_two, c[i][3] = s.three;
    }
    philox_words(c, k0, k1, w);
  };
  const auto put = [&](int64_t v, const F (&x)[4]) __attribute__((always_inline)) {
    for (int r = 0; r < 4; ++r) sink.put((4 * (run.at + v) + r) * N, x[r]);
  };
  draw_vectors<Family::normal>({}, run.vectors, words, put);
}

struct Scaled {
  F by;
  float* to;
  Scaled(float by, float* to) : by(Simd::f(by)), to(to) {}
  FD_HD void put(int64_t at, F z) const { store(to + at, Simd::mul(by, z)); }
};

// One half is kept or, with kBoth, added to a sum; the other is always added. s is negative where the one is
// the right half: w - s z and w + (-s) z have the same bits.
template <bool kUniform, bool kBoth>
struct Halve {
  F a_one, a_other, s;
  const float *from, *onto_one, *onto_other;
  float *to_one, *to_other;
  FD_HD void put(int64_t at, F z) const {
    const F w = load<F>(from + at), b = Simd::mul(s, z);
    const F share = Simd::mul(a_one, w);  // sums go to other pipes than products, which are what is short
    const F one = Simd::add(share, b), other = Simd::sub(kUniform ? share : Simd::mul(a_other, w), b);
    store(to_one + at, kBoth ? Simd::add(load<F>(onto_one + at), one) : one);
    store(to_other + at, Simd::add(load<F>(onto_other + at), other));
  }
};

using Rows = float (*)[kPathRow];

class Tile {  // too large for a stack
 public:
  std::vector<Run> runs;
  Start starts[2][kPathVectors + 1][2];  // of W and of H; the last may be read and is not used

  void fit(int64_t rows) {
    if (rows > rows_) own_.reset(new Cell[static_cast<size_t>(rows)]), rows_ = rows;
  }
  Rows rows() const { return &own_[0].row; }
  void start(const Brownian& p, int64_t first, int64_t last, bool area);

 private:
  struct alignas(64) Cell {
    float row[kPathRow];
  };
  std::unique_ptr<Cell[]> own_;
  int64_t rows_ = 0;
};

// For groups [first, last): runs of whole vectors of a sample, and vectors across samples by themselves
void Tile::start(const Brownian& p, int64_t first, int64_t last, bool area) {
  const Column column{p.rng, blocks_of(p.E), 0, 0, {}};
  int64_t sample = first / column.blocks, block = first % column.blocks;
  runs.clear();
  for (int64_t at = 0; first < last;) {
    const int64_t same = std::min(last - first, column.blocks - block);  // of this sample
    const bool across = same < N;
    const int64_t left = across ? std::min<int64_t>(last - first, N) : same / N * N;
    Across lanes(column, sample, block, across ? left : 1);
    Run run;
    run.at = at, run.vectors = across ? 1 : left / N, run.one_key = !across;
    for (int i = 0; i < 2; ++i) {
      const auto half = [i](U u) { return i ? Simd::odd(u) : Simd::even(u); };
      const W k0 = half(lanes.k0.get()), k1 = half(lanes.k1.get());
      W hi, lo;
      Simd::product(kPhilox1, half(lanes.c2.get()), hi, lo);
      run.x[i] = hi ^ k0;
      for (uint64_t r = 0; r < kRoundsLeft; ++r)
        run.k0[r][i] = k0 + (3 + r) * kWeyl0, run.k1[r][i] = k1 + (3 + r) * kWeyl1;
      for (int kind = 0; kind <= area; ++kind) {
        const W c3 = half(lanes.c3.get()) ^ (static_cast<uint64_t>(kind ? kStreamH : kStreamW) << 24);
        for (int64_t v = 0; v < run.vectors; ++v) {
          const U c0 = across ? lanes.c0.get() : kLanes.get() + static_cast<uint32_t>(block + v * N);
          Start& s = starts[kind][at + v][i];
          W high, low;
          Simd::product(kPhilox0, half(c0), high, low);
          s.two = low ^ (k1 + kWeyl1);
          Simd::product(kPhilox1, high ^ c3 ^ k1, high, low);
          s.zero = low ^ (k0 + 2ull * kWeyl0);
          Simd::product(kPhilox0, high ^ lo ^ (k0 + kWeyl0), high, s.three);
          s.at_two = high ^ (k1 + 2ull * kWeyl1);
        }
      }
    }
    runs.push_back(run);
    at += run.vectors, first += left, block += left;
    sample += block / column.blocks, block %= column.blocks;
  }
}

struct HalveArea {
  AreaShares c;
  const cpu::Rung& r;
  Rows w, h;
  const float* z;
  HalveArea(const cpu::Rung& r, Rows w, Rows h, const float* z)
      : c(area_shares(r.level)), r(r), w(w), h(h), z(z) {}
  FD_HD void half(const cpu::Half& to, int64_t at, Pair<Simd> p) const {
    if (to.onto != cpu::kNothing) {
      const Pair<Simd> q{load<F>(w[to.onto] + at), load<F>(h[to.onto] + at)};
      p = to.first ? join<Simd>(to.width, p, to.onto_width, q) : join<Simd>(to.onto_width, q, to.width, p);
    }
    store(w[to.to] + at, p.w), store(h[to.to] + at, p.h);
  }
  FD_HD void put(int64_t at, F q) const {
    Pair<Simd> left, right;
    halve<Simd>(c, {load<F>(w[r.from] + at), load<F>(h[r.from] + at)}, load<F>(z + at), q, left, right);
    half(r.left, at, left);
    half(r.right, at, right);
  }
};

// Groups [first, last) of every increment of a ladder; at most kPathTile, with areas half as many
template <bool kArea>
void climb(const Brownian& p, const cpu::Ladder& ladder, const float* scale, Tile& tile, int64_t first,
           int64_t last) {
  const int64_t blocks = blocks_of(p.E), groups = last - first;
  const int64_t from = element_of(first, blocks, p.E), count = element_of(last, blocks, p.E) - from;
  const Rows w = tile.rows(), h = w + ladder.buffers;
  float* const z = w[(kArea ? 2 : 1) * ladder.buffers];
  tile.start(p, first, last, kArea);
  const auto draw = [&](uint32_t node, int kind, const auto& sink) {
    for (const Run& run : tile.runs)
      if (run.one_key) draw_node<true>(run, tile.starts[kind], node, sink);
      else draw_node<false>(run, tile.starts[kind], node, sink);
  };
  const float* coefs = p.coefs;
  draw(0, 0, Scaled{coefs ? coefs[2] : 1.0f, w[cpu::kRoot]});
  if constexpr (kArea)
    draw(0, 1, Scaled{from_bits(kRootTwelfth), h[cpu::kRoot]});
  for (float& x : w[cpu::kNothing]) x = -0.0f;  // adding it changes nothing

  for (const cpu::Rung& r : ladder.rungs) {
    if (r.increment < 0) {
      if constexpr (kArea) {
        draw(r.node, 0, Scaled{1.0f, z});
        draw(r.node, 1, HalveArea{r, w, h, z});
      } else {
        Shares c = uniform_clock(r.level);
        if (coefs) coefs += 3, c = {coefs[0], coefs[1], coefs[2]};
        const bool both = r.left.onto != cpu::kNothing && r.right.onto != cpu::kNothing;
        const bool swap = r.left.onto != cpu::kNothing;
        const cpu::Half &one = swap ? r.right : r.left, &other = swap ? r.left : r.right;
        const auto run = [&](auto s) {
          s.a_one = Simd::f(swap ? c.right : c.left), s.a_other = Simd::f(swap ? c.left : c.right);
          s.s = Simd::f(swap ? -c.std : c.std);
          s.from = w[r.from];
          s.onto_one = w[one.onto], s.onto_other = w[other.onto];
          s.to_one = w[one.to], s.to_other = w[other.to];
          draw(r.node, 0, s);
        };
        if (coefs) run(Halve<false, true>{});
        else if (both) run(Halve<true, true>{});
        else run(Halve<true, false>{});
      }
      continue;
    }
    for (int kind = 0; kind <= kArea; ++kind) {
      const F by = Simd::f(scale ? scale[r.increment + kind * (p.own ? p.B : p.K)] : 1.0f);
      const bool direct = p.out_type == Dtype::f32 && p.E % 4 == 0;
      const int64_t to = r.increment * p.B * p.E + from;
      float* y = direct ? static_cast<float*>(p.out[kind]) + to : z;
      const bool streams = direct && p.past_cache && reinterpret_cast<uintptr_t>(y) % kBytes == 0;
      const float *a = w[r.from], *b = w[r.other];
      const auto sum = [=, &r](int64_t i) {
        if constexpr (!kArea) return Simd::mul(by, Simd::add(load<F>(a + i), load<F>(b + i)));
        Pair<Simd> v{load<F>(a + i), load<F>(h[r.from] + i)};
        if (r.other != cpu::kNothing)
          v = join<Simd>(r.width, v, r.other_width, {load<F>(b + i), load<F>(h[r.other] + i)});
        return Simd::mul(by, kind ? v.h : v.w);
      };
      for (int64_t g = 0; g < groups; g += N) {
        const F v[4] = {sum(4 * g), sum(4 * g + N), sum(4 * g + 2 * N), sum(4 * g + 3 * N)};
        F four[4];
        Simd::blocks4(v, four);
        if (streams && groups - g >= N) {
          for (int i = 0; i < 4; ++i) stream(y + 4 * g + i * N, four[i]);
        } else {
          __builtin_memcpy(y + 4 * g, four, static_cast<size_t>(std::min<int64_t>(groups - g, N)) * 16);
        }
      }
      if (direct) continue;
      if (p.E % 4) close_gaps(z, first, last, blocks, p.E);
      narrow(p.out_type, z, p.out[kind], to, count);
    }
  }
}

void climb(const Brownian& p, const cpu::Ladder& ladder, const float* scale, Tile& tile, int64_t first,
           int64_t last) {
  tile.fit((p.out[1] ? 2 : 1) * ladder.buffers + 1);
  for (int64_t g = first; g < last; g += kPathTile) {
    const int64_t end = g + kPathTile < last ? g + kPathTile : last;
    if (p.out[1]) climb<true>(p, ladder, scale, tile, g, end);
    else climb<false>(p, ladder, scale, tile, g, end);
  }
}

void zeros(const Brownian& p, int64_t first, int64_t last) {
  const int64_t from = element_of(first, blocks_of(p.E), p.E), to = element_of(last, blocks_of(p.E), p.E);
  const auto size = static_cast<size_t>(width_of(p.out_type));
  for (void* out : p.out)
    if (out)
      __builtin_memset(static_cast<char*>(out) + static_cast<size_t>(from) * size, 0,
                       static_cast<size_t>(to - from) * size);
}

}  // namespace

void brownian_range(const PathJob& job, int64_t first, int64_t last) {
  const Brownian& p = job.p;
  Tile tile;
  if (!p.own) {
    climb(p, *job.ladder, p.scale, tile, first, last);
    return stream_end();
  }
  const int64_t blocks = blocks_of(p.E);
  cpu::Ladder ladder;
  while (first < last) {
    const int64_t b = first / blocks, end = (b + 1) * blocks < last ? (b + 1) * blocks : last;
    const int64_t* at = p.at + 2 * b;
    if (at[0] == at[1]) {
      zeros(p, first, end);
    } else {
      ladder.build(at, 1, p.depth);
      climb(p, ladder, p.scale ? p.scale + b : nullptr, tile, first, end);
    }
    first = end;
  }
  stream_end();
}

}  // namespace fd::FD_ISA

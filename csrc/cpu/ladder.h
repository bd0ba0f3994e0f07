// Many increments of a Brownian tree at once: every node that a boundary divides is halved once, parents
// first and from left to right, and a half that no boundary divides goes straight into the sum of its
// increment.
#pragma once
#include <cstdint>
#include <vector>

namespace fd::cpu {

// Values live in numbered buffers of a tile. kNothing is what a sum starts from.
constexpr int16_t kNothing = 0, kWaste = 1, kRoot = 2;

struct Half {
  int16_t to = kWaste, onto = kNothing;  // to = onto + this half
  bool first = false;                    // this half lies before what is in onto
  float width = 0, onto_width = 0;       // of both on the unit interval: areas need them
};

struct Rung {
  int64_t increment = -1;  // to give out as the sum of two buffers; -1: halve a node
  int16_t from = 0;        // the node's value; of an increment, the half that ends at its split
  int16_t other = 0;       // of an increment, the half that starts there, or kNothing
  float width = 0, other_width = 0;
  uint32_t node = 0;
  int32_t level = 0;
  Half left, right;
};

// The increments between K + 1 boundaries, strictly increasing inside [0, 2^depth]
struct Ladder {
  std::vector<Rung> rungs;
  int64_t halvings = 0;
  int16_t buffers = 0;  // about one for each level on the way down, and the two sums of an increment

  void build(const int64_t* at, int64_t K, int depth);

 private:
  struct Node {
    int64_t lo, first, last;  // where it begins, and the boundaries strictly inside
    uint32_t id;
    int32_t level;
    int16_t buffer;
  };
  struct Sum {
    int16_t side[2];  // up to the split, and from it on
    int64_t cells[2];
    int32_t split;  // the level of the smallest node that holds the increment
  };
  std::vector<Node> waiting_;
  std::vector<Sum> sums_;
  std::vector<int16_t> free_;

  int16_t take();
  void give_out(int64_t k, int depth);
};

}  // namespace fd::cpu

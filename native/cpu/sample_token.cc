// SPDX-License-Identifier: Apache-2.0
// Not compiled for each instruction set: it is made of the standard library's templates, whose copies would merge.
#include "sample_token.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <new>
#include <vector>

#include "philox.h"

namespace mambatune {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

uint32_t random_word(const SampleTokenParams& p, int64_t row, uint32_t position) {
  uint32_t words[4 * MAMBATUNE_ISA::kPhiloxCounters];
  const uint64_t substream = static_cast<uint32_t>(p.substreams[row]);
  MAMBATUNE_ISA::philox(p.seed, substream | static_cast<uint64_t>(p.stream) << 32, position / 4, words);
  return words[position % 4];
}

// One row's scores, and which of them are kept: those above `edge` and the first `ties` equal to it.
class Row {
 public:
  Row(const SampleTokenParams& p, int64_t row) : p_(p), scores_(static_cast<size_t>(p.cols)), unit_(std::ldexp(1.0, sample_weight_bits(p.cols))) {
    const uint32_t* seen = p.seen ? p.seen + row * ((p.cols + 31) / 32) : nullptr;
    for (int64_t i = 0; i < p.cols; ++i) {
      float score = p.logits[row * p.cols + i];
      if (seen && (seen[i / 32] >> (i % 32) & 1)) score = static_cast<float>(score < 0 ? score * p.penalty : score / p.penalty);
      score = static_cast<float>(score / p.temperature);
      scores_[static_cast<size_t>(i)] = score;
      has_nan_ |= std::isnan(score);
      largest_ = std::max(largest_, score);
    }
  }

  int32_t choose(uint32_t random) {
    if (has_nan_) return kNotANumberChoice;
    if (largest_ == kLowest) return kNoChoice;
    if (p_.do_sample) {
      keep_top_k();
      keep_top_p();
      keep_min_p();
    } else {
      edge_ = largest_;
    }
    // Infinite scores share the whole probability: the first of them, as where nothing is drawn.
    return draw(p_.do_sample && largest_ < -kLowest ? random : 0);
  }

 private:
  uint64_t weight(float score) const {
    if (score == largest_) return static_cast<uint64_t>(unit_);
    return static_cast<uint64_t>(std::nearbyint(std::exp(static_cast<double>(score) - largest_) * unit_));
  }

  void keep_top_k() {
    if (p_.top_k == 0 || p_.top_k >= p_.cols) return;
    std::vector<float> sorted = scores_;
    std::nth_element(sorted.begin(), sorted.begin() + (p_.top_k - 1), sorted.end(), std::greater<float>());
    edge_ = sorted[static_cast<size_t>(p_.top_k - 1)];
  }

  void keep_top_p() {
    if (p_.top_p >= 1) return;
    std::vector<float> rising;
    uint64_t total = 0;
    for (const float score : scores_) {
      if (score < edge_ || weight(score) == 0) continue;
      rising.push_back(score);
      total += weight(score);
    }
    std::sort(rising.begin(), rising.end());
    const uint64_t removable = std::min(static_cast<uint64_t>((1 - p_.top_p) * static_cast<double>(total)), total - 1);
    size_t removed = 0;
    for (uint64_t sum = weight(rising[0]); sum <= removable; sum += weight(rising[removed])) ++removed;
    edge_ = rising[removed];
    ties_ = std::upper_bound(rising.begin(), rising.end(), edge_) - rising.begin() - static_cast<int64_t>(removed);
  }

  void keep_min_p() {
    const double least = largest_ + p_.log_min_p;
    if (std::isinf(p_.log_min_p) || edge_ >= least) return;
    edge_ = static_cast<float>(least);
    if (edge_ < least) edge_ = std::nextafter(edge_, largest_);
    ties_ = p_.cols;
  }

  int32_t draw(uint32_t random) const {
    std::vector<uint64_t> sums(scores_.size());
    uint64_t sum = 0;
    int64_t ties = ties_;
    for (size_t i = 0; i < scores_.size(); ++i) {
      if (scores_[i] > edge_ || (scores_[i] == edge_ && ties-- > 0)) sum += weight(scores_[i]);
      sums[i] = sum;
    }
    const uint64_t passed = random * (sum >> 32) + (random * (sum & 0xffffffffu) >> 32);
    return static_cast<int32_t>(std::upper_bound(sums.begin(), sums.end(), passed) - sums.begin());
  }

  const SampleTokenParams& p_;
  std::vector<float> scores_;
  const double unit_;
  float largest_ = kLowest, edge_ = kLowest;
  int64_t ties_ = p_.cols;
  bool has_nan_ = false;
};

}  // namespace

Error sample_token(const SampleTokenParams& p) {
  try {
    for (int64_t row = 0; row < p.rows; ++row) {
      const uint32_t count = static_cast<uint32_t>(p.counts[row]);
      const uint32_t position = static_cast<uint32_t>(p.positions[row]);
      const int32_t choice = Row(p, row).choose(random_word(p, row, position));
      p.tokens[row] = std::max(choice, 0);
      p.choices[count % p.slots * p.rows + row] = choice;
      p.counts[row] = static_cast<int32_t>(count + 1);
      p.positions[row] = static_cast<int32_t>(position + 1);
      if (p.seen && choice >= 0) p.seen[row * ((p.cols + 31) / 32) + choice / 32] |= 1u << (choice % 32);
    }
  } catch (const std::bad_alloc&) {
    return "sample_token: there is no memory for a row of scores";
  }
  return nullptr;
}

}  // namespace mambatune

// Attention against a double-precision reference and finite differences, at every instruction-set level of this
// machine.
#include "ridgeline/ops/attention.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>

#include "../lent_memory.h"
#include "bench/operators/attention_reference.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/attention_isa.h"

namespace ridgeline::ops {
namespace {

using device::Isa;
using test::Reference;

std::vector<Isa> levels() {
  std::vector<Isa> found;
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx_bf16}) {
    if (isa <= device::isa()) found.push_back(isa);
  }
  return found;
}

const uint32_t kSamples[] = {7, 4000000000U, 11};

struct Case {
  const char* name;
  int64_t batch, queries, keys, heads, kv_heads, width;
  float dropout = 0.0F;
  bool packed = false;      // q, k, v in one tensor [rows][3][H][D]
  int64_t cache_extra = 0;  // tokens that a sample's cache is longer than Tk
  float sharpness = 1.0F;   // factor on q: sharp softmax
  int64_t document = 0;     // tokens of a document, fewer of a sample's first; 0: samples are not cut
};

// Of sample b the documents begin 11 b tokens before the others'.
std::vector<int32_t> first_keys_of(const Case& c) {
  std::vector<int32_t> first;
  for (int64_t i = 0; c.document > 0 && i < c.batch * c.queries; ++i) {
    const int64_t before = i / c.queries * 11 % c.document, begin = (i % c.queries + before) / c.document * c.document;
    first.push_back(static_cast<int32_t>(std::max<int64_t>(begin - before, 0)));
  }
  return first;
}

Attention shape_of(const Case& c) {
  Attention s;
  s.batch = c.batch, s.queries = c.queries, s.keys = c.keys, s.heads = c.heads, s.kv_heads = c.kv_heads;
  s.head_width = c.width;
  s.query_start = c.keys - c.queries;
  s.scale = 1.0F / std::sqrt(static_cast<float>(c.width));
  s.dropout = {c.dropout, random_key(3, 5, Purpose::attention_dropout), 9, kSamples};
  s.out_stride = c.heads * c.width;
  s.q_stride = c.packed ? 3 * c.heads * c.width : c.heads * c.width;
  s.kv_stride = c.packed ? s.q_stride : c.kv_heads * c.width;
  if (c.cache_extra > 0) s.kv_batch_stride = (c.keys + c.cache_extra) * s.kv_stride;
  return s;
}

float round_to(DType dtype, float x) {
  if (dtype == DType::f16) return static_cast<float>(f16(x));
  return dtype == DType::bf16 ? static_cast<float>(bf16(x)) : x;
}

// A strided tensor in memory: canaries around and between the elements that the op may touch.
class Tensor {
 public:
  Tensor(DType dtype, int64_t elements) : dtype_(dtype), bytes_(elements * size_of(dtype), kCanary) {}

  Ref ref(int64_t offset = 0) { return Ref(bytes_.data(), dtype_).at(offset); }
  float get(int64_t i) const {
    if (dtype_ == DType::f32) return value<float>(i);
    if (dtype_ == DType::f16) return static_cast<float>(value<f16>(i));
    return static_cast<float>(value<bf16>(i));
  }
  void set(int64_t i, float x) {
    if (dtype_ == DType::f32) {
      std::memcpy(&bytes_[i * 4], &x, 4);
    } else if (dtype_ == DType::f16) {
      const f16 rounded(x);
      std::memcpy(&bytes_[i * 2], &rounded, 2);
    } else {
      const bf16 rounded(x);
      std::memcpy(&bytes_[i * 2], &rounded, 2);
    }
  }
  bool untouched(int64_t i) const {
    for (int64_t at = i * size_of(dtype_); at < (i + 1) * size_of(dtype_); ++at) {
      if (bytes_[at] != kCanary) return false;
    }
    return true;
  }
  int64_t elements() const { return static_cast<int64_t>(bytes_.size()) / size_of(dtype_); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  static constexpr uint8_t kCanary = 0xcb;
  template <typename T>
  T value(int64_t i) const {
    T x;
    std::memcpy(&x, &bytes_[i * sizeof(T)], sizeof(T));
    return x;
  }
  DType dtype_;
  std::vector<uint8_t> bytes_;
};

// Inputs, outputs and gradients of one case.
struct Problem {
  Case c;
  std::vector<int32_t> first_keys;
  Attention shape;
  DType dtype;
  Reference reference;  // its inputs: run() computes the rest, which takes far longer than the kernels
  std::unique_ptr<Tensor> qkv, gradients;  // one tensor when packed, else q, k, v behind each other
  Tensor out, dout;
  std::vector<float> lse;
  int64_t q_at = 0, k_at = 0, v_at = 0;

  Problem(const Case& cc, DType d, uint64_t seed = 1)
      : c(cc),
        first_keys(first_keys_of(cc)),
        shape(shape_of(cc)),
        dtype(d),
        out(d, cc.batch * cc.queries * shape.out_stride),
        dout(d, cc.batch * cc.queries * shape.out_stride),
        lse(cc.batch * cc.heads * cc.queries, -77.0F) {
    if (!first_keys.empty()) shape.first_keys = first_keys.data();
    const int64_t kv_sample = shape.kv_batch_stride != 0 ? shape.kv_batch_stride : c.keys * shape.kv_stride;
    const int64_t q_size = c.batch * c.queries * shape.q_stride, kv_size = c.batch * kv_sample;
    k_at = c.packed ? c.heads * c.width : q_size;
    v_at = c.packed ? 2 * c.heads * c.width : q_size + kv_size;
    const int64_t total = c.packed ? q_size : q_size + 2 * kv_size;
    qkv = std::make_unique<Tensor>(dtype, total);
    gradients = std::make_unique<Tensor>(dtype, total);
    reference.shape = shape;
    reference.q = fill(
        seed * 10 + 1, c.queries, c.heads, [this](int64_t b, int64_t t, int64_t e) { return q_place(b, t, e); }, *qkv,
        c.sharpness);
    reference.k = fill(
        seed * 10 + 2, c.keys, c.kv_heads, [this](int64_t b, int64_t t, int64_t e) { return k_at + kv_place(b, t, e); },
        *qkv, 1);
    reference.v = fill(
        seed * 10 + 3, c.keys, c.kv_heads, [this](int64_t b, int64_t t, int64_t e) { return v_at + kv_place(b, t, e); },
        *qkv, 1);
    std::vector<double> d_out = fill(
        seed * 10 + 4, c.queries, c.heads, [this](int64_t b, int64_t t, int64_t e) { return out_place(b, t, e); }, dout,
        1);
    if (c.queries == c.keys) reference.dout = d_out;
  }

  int64_t q_place(int64_t b, int64_t t, int64_t e) const { return (b * c.queries + t) * shape.q_stride + e; }
  int64_t kv_place(int64_t b, int64_t t, int64_t e) const {
    const int64_t sample = shape.kv_batch_stride != 0 ? shape.kv_batch_stride : c.keys * shape.kv_stride;
    return b * sample + t * shape.kv_stride + e;
  }
  int64_t out_place(int64_t b, int64_t t, int64_t e) const { return (b * c.queries + t) * shape.out_stride + e; }

  template <typename Place>
  std::vector<double> fill(uint64_t seed, int64_t tokens, int64_t heads, Place place, Tensor& to, float factor) {
    std::vector<float> values(c.batch * tokens * heads * c.width);
    fill_normal(values.data(), static_cast<int64_t>(values.size()), seed, 0, 0.0F, factor);
    std::vector<double> kept(values.size());
    const int64_t row = heads * c.width;
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      const float x = round_to(dtype, values[i]);
      to.set(place(i / row / tokens, i / row % tokens, i % row), x);
      kept[i] = x;
    }
    return kept;
  }

  void run(Isa isa, int team_size) {
    device::WorkerTeam team(team_size);
    const int64_t bytes = cpu::attention_workspace_bytes(shape, dtype, team_size, isa);
    std::vector<uint8_t> memory(bytes + 192, 0x7f);  // a NaN pattern and a canary after the end
    void* workspace = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
    Tensor& x = *qkv;
    cpu::attention_forward(team, shape, x.ref(), x.ref(k_at), x.ref(v_at), out.ref(), lse.data(), {workspace, bytes},
                           isa);
    if (c.queries == c.keys) {
      Tensor& g = *gradients;
      cpu::attention_backward(team, shape, x.ref(), x.ref(k_at), x.ref(v_at), out.ref(), dout.ref(), lse.data(),
                              g.ref(), g.ref(k_at), g.ref(v_at), {workspace, bytes}, isa);
    }
    const uint8_t* end = static_cast<uint8_t*>(workspace) + bytes;
    for (const uint8_t* p = end; p < memory.data() + memory.size(); ++p) ASSERT_EQ(*p, 0x7f) << "past the workspace";
  }
};

// ‖got - want‖ / ‖want‖ over a whole tensor.
template <typename Get>
double relative_error(const std::vector<double>& want, double floor, Get get) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = get(static_cast<int64_t>(i)) - want[i];
    difference += d * d;
    norm += want[i] * want[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), floor);
}

void expect_matches(Problem& p, double out_limit, double gradient_limit) {
  const Case& c = p.c;
  p.reference.run();
  const int64_t row = c.heads * c.width, kv_row = c.kv_heads * c.width;
  EXPECT_LT(relative_error(
                p.reference.out, 0,
                [&](int64_t i) { return p.out.get(p.out_place(i / row / c.queries, i / row % c.queries, i % row)); }),
            out_limit);
  for (size_t i = 0; i < p.lse.size(); ++i) {
    // Scores are inner products of inputs, exact up to fp32 rounding in every dtype.
    ASSERT_NEAR(p.lse[i], p.reference.lse[i], 4e-6 * std::max(1.0, std::fabs(p.reference.lse[i])) * c.sharpness) << i;
  }
  if (c.queries != c.keys) return;
  // A softmax over one key has dq = dk = 0 exactly: errors are measured against a thousandth of dv.
  double floor = 0;
  for (const double x : p.reference.dv) floor += x * x;
  floor = 1e-3 * std::sqrt(floor);
  const Tensor& g = *p.gradients;
  EXPECT_LT(
      relative_error(p.reference.dq, floor,
                     [&](int64_t i) { return g.get(p.q_place(i / row / c.queries, i / row % c.queries, i % row)); }),
      gradient_limit);
  EXPECT_LT(relative_error(p.reference.dk, floor,
                           [&](int64_t i) {
                             return g.get(p.k_at + p.kv_place(i / kv_row / c.keys, i / kv_row % c.keys, i % kv_row));
                           }),
            gradient_limit);
  EXPECT_LT(relative_error(p.reference.dv, floor,
                           [&](int64_t i) {
                             return g.get(p.v_at + p.kv_place(i / kv_row / c.keys, i / kv_row % c.keys, i % kv_row));
                           }),
            gradient_limit);
}

const Case kCases[] = {
    {"one_token", 1, 1, 1, 1, 1, 1},
    {"three_tokens", 2, 3, 3, 2, 2, 5},
    {"five_tokens", 1, 5, 5, 1, 1, 7},
    {"panel", 1, 32, 32, 2, 2, 32},
    {"gpt2_head", 1, 96, 96, 3, 3, 64},
    {"odd_everything", 3, 61, 61, 3, 3, 33, 0, true},
    {"several_blocks", 1, 300, 300, 1, 1, 64, 0, true},
    {"block_edges", 1, 257, 257, 1, 1, 16},
    {"wide_head", 1, 70, 70, 1, 1, 256},
    {"gptj_head", 1, 33, 33, 2, 2, 80},
    {"grouped", 2, 141, 141, 6, 2, 24},
    {"one_key_head", 1, 130, 130, 5, 1, 64},
    {"dropout", 2, 67, 67, 2, 2, 16, 0.1F},
    {"dropout_blocks", 1, 301, 301, 1, 1, 8, 0.3F},
    {"dropout_grouped", 2, 135, 135, 4, 2, 40, 0.5F},
    {"sharp", 1, 80, 80, 2, 2, 64, 0, false, 0, 8},
    {"documents_of_two_tokens", 1, 40, 40, 1, 1, 16, 0, false, 0, 1, 2},
    {"documents_of_some_tokens", 2, 100, 100, 2, 2, 24, 0, false, 0, 1, 13},
    {"documents_over_blocks", 1, 700, 700, 1, 1, 16, 0, true, 0, 1, 301},
    {"documents_at_edges", 1, 513, 513, 1, 1, 8, 0, false, 0, 1, 128},
    {"documents_grouped", 2, 280, 280, 4, 2, 40, 0.3F, false, 0, 1, 90},
    {"few_tokens_of_documents", 2, 4, 4, 2, 1, 16, 0, false, 0, 1, 3},
    {"decode", 2, 1, 77, 4, 2, 64, 0, false, 5},
    {"decode_odd", 2, 3, 50, 2, 2, 13, 0, false, 9},
    {"cached_chunk", 2, 21, 300, 4, 2, 64, 0, false, 7},
    {"cached_aligned_chunk", 1, 64, 320, 1, 1, 64},
    {"cached_dropout", 1, 2, 37, 2, 1, 16, 0.25F},
};

class AttentionLevels : public testing::TestWithParam<Isa> {};

TEST_P(AttentionLevels, Fp32MatchesDoublePrecision) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Problem p(c, DType::f32);
    p.run(GetParam(), 1);
    // fp32 sums of up to 300 terms and an exponential good to 2 ulp; a sharp softmax multiplies the scores' rounding.
    expect_matches(p, 1e-6 * c.sharpness, 2e-6 * c.sharpness);
  }
}

TEST_P(AttentionLevels, Bf16MatchesDoublePrecisionOfTheSameInputs) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Problem p(c, DType::bf16);
    p.run(GetParam(), 1);
    // One rounding to bf16 is at most 2^-9 = 0.2 %, 0.11 % in rms; `out` has two (P, out). Gradients have up to three
    // (dS or P, delta through the rounded out, the result), and dS is a difference: its terms are larger than it.
    expect_matches(p, 4e-3, 1.2e-2);
  }
}

TEST_P(AttentionLevels, F16MatchesDoublePrecisionOfTheSameInputs) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Problem p(c, DType::f16);
    p.run(GetParam(), 1);
    // One rounding to f16 is at most 2^-12 relative, 0.014 % in rms; only results are rounded, and delta comes from the
    // rounded out.
    expect_matches(p, 5e-4, 1e-3 * c.sharpness);
  }
}

TEST_P(AttentionLevels, TeamSizeDoesNotChangeABit) {
  for (const Case& c : {Case{"odd items", 1, 140, 140, 3, 3, 24}, Case{"grouped", 3, 70, 70, 4, 2, 40, 0.3F}}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      Problem one(c, dtype);
      one.run(GetParam(), 1);
      for (const int size : {2, 3, 7}) {
        Problem many(c, dtype);
        many.run(GetParam(), size);
        EXPECT_EQ(one.out.bytes(), many.out.bytes());
        EXPECT_EQ(0, std::memcmp(one.lse.data(), many.lse.data(), one.lse.size() * 4));
        EXPECT_EQ(one.gradients->bytes(), many.gradients->bytes());
      }
    }
  }
}

TEST_P(AttentionLevels, LaterTokensHaveNoInfluenceNotEvenOnTheLastBit) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Case c{"causal", 1, 150, 150, 1, 1, 32};
    Problem a(c, dtype), b(c, dtype);
    constexpr int64_t kCut = 77;
    for (int64_t t = kCut; t < c.queries; ++t) {
      for (int64_t e = 0; e < c.width; ++e) {
        b.qkv->set(b.k_at + b.kv_place(0, t, e), 1e4F);
        b.qkv->set(b.v_at + b.kv_place(0, t, e), dtype == DType::f16 ? -6e4F : -3e30F);
      }
    }
    a.run(GetParam(), 1);
    b.run(GetParam(), 1);
    for (int64_t e = 0; e < kCut * c.width; ++e) ASSERT_EQ(a.out.get(e), b.out.get(e)) << e;
    for (int64_t t = 0; t < kCut; ++t) ASSERT_EQ(a.lse[t], b.lse[t]);
    EXPECT_NE(a.out.get(kCut * c.width), b.out.get(kCut * c.width));
  }
}

TEST_P(AttentionLevels, OtherDocumentsHaveNoInfluenceNotEvenOnTheLastBit) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Case c{"documents", 1, 190, 190, 1, 1, 32, 0, false, 0, 1, 75};
    Problem a(c, dtype), b(c, dtype);
    constexpr int64_t kFirst = 75, kLast = 150;  // of the second document
    for (int64_t t = 0; t < c.queries; ++t) {
      for (int64_t e = 0; (t < kFirst || t >= kLast) && e < c.width; ++e) {
        b.qkv->set(b.q_place(0, t, e), -3.0F);
        b.qkv->set(b.k_at + b.kv_place(0, t, e), 1e4F);
        b.qkv->set(b.v_at + b.kv_place(0, t, e), dtype == DType::f16 ? -6e4F : -3e30F);
      }
    }
    a.run(GetParam(), 1);
    b.run(GetParam(), 1);
    for (int64_t i = kFirst * c.width; i < kLast * c.width; ++i) {
      ASSERT_EQ(a.out.get(i), b.out.get(i)) << i;
      for (const int64_t at : {int64_t{0}, a.k_at, a.v_at})
        ASSERT_EQ(a.gradients->get(at + i), b.gradients->get(at + i)) << i;
    }
    for (int64_t t = kFirst; t < kLast; ++t) ASSERT_EQ(a.lse[t], b.lse[t]);
    EXPECT_NE(a.out.get(kLast * c.width), b.out.get(kLast * c.width));
  }
}

// A softmax over one key: its value, and no gradient but rounding for what the score is made of. The maximum is rounded
// and the score fused with it is not, so the probability may be one step from 1; in the backward it comes from lse.
TEST_P(AttentionLevels, ADocumentOfOneTokenIsItsValue) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Problem p({"documents of one token", 1, 40, 40, 1, 1, 16, 0, false, 0, 1, 1}, dtype);
    p.run(GetParam(), 1);
    for (int64_t i = 0; i < 40 * 16; ++i) {
      const float step = dtype == DType::f32 ? 2e-6F : dtype == DType::bf16 ? 8e-3F : 1e-3F;
      const float value = p.qkv->get(p.v_at + i), dout = p.dout.get(i);
      ASSERT_NEAR(p.out.get(i), value, step * std::max(1.0F, std::fabs(value))) << i;
      ASSERT_NEAR(p.gradients->get(p.v_at + i), dout, step * std::max(1.0F, std::fabs(dout))) << i;
      ASSERT_NEAR(p.gradients->get(i), 0, 1e-4) << i;
      ASSERT_NEAR(p.gradients->get(p.k_at + i), 0, 1e-4) << i;
    }
  }
}

// Queries at the end of a cache give what the whole sequence gives there.
TEST_P(AttentionLevels, CachedForwardEqualsFullForward) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Case whole{"whole", 1, 301, 301, 4, 2, 64};
    Problem full(whole, dtype);
    full.run(GetParam(), 1);
    for (const int64_t fresh : {1, 2, 4, 5, 45}) {
      Case c = whole;
      c.queries = fresh;
      Problem part(c, dtype);
      part.qkv = std::make_unique<Tensor>(dtype, full.qkv->elements());
      const int64_t skipped = (whole.queries - fresh) * full.shape.q_stride;
      for (int64_t i = skipped; i < full.qkv->elements(); ++i) part.qkv->set(i - skipped, full.qkv->get(i));
      part.run(GetParam(), 2);
      const int64_t row = whole.heads * whole.width;
      for (int64_t i = 0; i < fresh * row; ++i) {
        const double want = full.out.get((whole.queries - fresh) * row + i);
        // Blocks of the softmax start at other queries, or (decode) there are none: rounding of sums, and
        // one step of bf16 (2^-8 to 2^-7 of the value) or f16 (an eighth of that).
        const double step = dtype == DType::bf16 ? 8e-3 : 1e-3;
        ASSERT_NEAR(part.out.get(i), want, dtype == DType::f32 ? 1e-6 : step * std::max(0.1, std::fabs(want)))
            << fresh << " " << i;
      }
    }
  }
}

TEST_P(AttentionLevels, WritesOnlyItsElements) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Case c{"padded", 2, 37, 37, 2, 2, 19};
    Problem p(c, dtype);
    p.shape.q_stride += 3;
    p.shape.kv_stride += 5;
    p.shape.out_stride += 2;
    const int64_t q_size = 2 * 37 * p.shape.q_stride, kv_size = 2 * 37 * p.shape.kv_stride;
    p.k_at = q_size;
    p.v_at = q_size + kv_size;
    p.qkv = std::make_unique<Tensor>(dtype, q_size + 2 * kv_size);
    p.gradients = std::make_unique<Tensor>(dtype, q_size + 2 * kv_size);
    p.out = Tensor(dtype, 2 * 37 * p.shape.out_stride);
    p.dout = Tensor(dtype, 2 * 37 * p.shape.out_stride);
    for (int64_t i = 0; i < p.qkv->elements(); ++i) p.qkv->set(i, static_cast<float>(i % 13 - 6) * 0.1F);
    for (int64_t i = 0; i < p.dout.elements(); ++i) p.dout.set(i, static_cast<float>(i % 7 - 3) * 0.1F);
    p.run(GetParam(), 1);
    const int64_t row = 2 * 19;
    for (int64_t i = 0; i < p.out.elements(); ++i) EXPECT_EQ(p.out.untouched(i), i % p.shape.out_stride >= row);
    for (int64_t i = 0; i < q_size; ++i) EXPECT_EQ(p.gradients->untouched(i), i % p.shape.q_stride >= row);
    for (int64_t i = 0; i < 2 * kv_size; ++i) {
      EXPECT_EQ(p.gradients->untouched(q_size + i), i % p.shape.kv_stride >= row);
    }
  }
}

TEST_P(AttentionLevels, NonFiniteInputShowsInTheOutput) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int64_t queries : {1, 40}) {
      Problem p({"nan", 1, queries, 40, 1, 1, 16}, dtype);
      p.qkv->set(p.k_at + 3, std::numeric_limits<float>::quiet_NaN());
      p.run(GetParam(), 1);
      EXPECT_TRUE(std::isnan(p.out.get((queries - 1) * 16)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionLevels, testing::ValuesIn(levels()),
                         [](const auto& test) { return std::string(device::name_of(test.param)); });

// The reference's own gradients: without this, kernels and reference could share a mistake.
TEST(AttentionReference, GradientsMatchFiniteDifferences) {
  for (const Case& c : {Case{"plain", 1, 6, 6, 2, 1, 3}, Case{"dropout", 2, 7, 7, 2, 2, 2, 0.4F}}) {
    Problem p(c, DType::f32);
    Reference& r = p.reference;
    r.run();
    auto loss = [&] {
      Reference again = r;
      again.dout.clear();
      again.run();
      double sum = 0;
      for (size_t i = 0; i < again.out.size(); ++i) sum += again.out[i] * r.dout[i];
      return sum;
    };
    auto check = [&](std::vector<double>& x, const std::vector<double>& gradient) {
      for (size_t i = 0; i < x.size(); ++i) {
        const double kept = x[i], step = 1e-5;
        x[i] = kept + step;
        const double up = loss();
        x[i] = kept - step;
        const double down = loss();
        x[i] = kept;
        // Truncation step^2 and rounding 1e-16 / step, both below 1e-9 of values near 1.
        ASSERT_NEAR(gradient[i], (up - down) / (2 * step), 1e-8) << i;
      }
    };
    check(r.q, r.dq);
    check(r.k, r.dk);
    check(r.v, r.dv);
  }
}

TEST(AttentionDeathTest, RefusesAFirstKeyBehindItsQueryOrBeforeTheLast) {
  Problem p({"documents", 1, 8, 8, 1, 1, 4, 0, false, 0, 1, 3}, DType::f32);
  p.first_keys[6] = 7;
  EXPECT_DEATH(p.run(Isa::portable, 1), "first\\[i\\]");
  p.first_keys[6] = 2;
  EXPECT_DEATH(p.run(Isa::portable, 1), "first\\[i\\]");
}

TEST(Attention, PublicEntryUsesTheStreamsTeam) {
  Problem p({"public", 1, 70, 70, 2, 2, 64}, DType::f32);
  device::WorkerTeam team(2);
  device::Stream stream(team);
  const int64_t bytes = attention_workspace_bytes(p.shape, p.dtype, team.size());
  LentMemory memory(bytes);
  Tensor& x = *p.qkv;
  Tensor& g = *p.gradients;
  attention_forward(stream, p.shape, x.ref(), x.ref(p.k_at), x.ref(p.v_at), p.out.ref(), p.lse.data(), memory.all());
  attention_backward(stream, p.shape, x.ref(), x.ref(p.k_at), x.ref(p.v_at), p.out.ref(), p.dout.ref(), p.lse.data(),
                     g.ref(), g.ref(p.k_at), g.ref(p.v_at), memory.all());
  expect_matches(p, 1e-6, 2e-6);
}

}  // namespace
}  // namespace ridgeline::ops

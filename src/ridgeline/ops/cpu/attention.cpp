// Attention on a CPU: checks, cuts the work into (sample, key head) items and hands each to the kernels of an
// instruction set. An item is computed by one worker from start to end, so the team's size decides nothing but who
// computes what.
#include "ridgeline/ops/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/attention_isa.h"
#include "ridgeline/ops/cpu/attention_kernels.h"
#include "ridgeline/ops/cpu/require.h"

namespace ridgeline::ops {
namespace cpu {
namespace {

constexpr int64_t kAlignment = 64;

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

const AttentionKernels& kernels_for(device::Isa isa, DType dtype) {
  const AttentionTable* table = &kAttentionPortable;
  if (dtype == DType::f16 && isa > device::Isa::avx512) isa = device::Isa::avx512;
#if defined(__x86_64__)
  switch (isa) {
    case device::Isa::portable:
      break;
    case device::Isa::avx2:
      table = &kAttentionAvx2;
      break;
    case device::Isa::avx512:
      table = &kAttentionAvx512;
      break;
    case device::Isa::avx512_bf16:
      table = &kAttentionAvx512Bf16;
      break;
    case device::Isa::amx_bf16:
      table = &kAttentionAmx;
      break;
  }
#else
  (void)isa;
#endif
  if (dtype == DType::f32) return table->f32;
  if (dtype == DType::bf16) return table->bf16;
  RL_REQUIRE(dtype == DType::f16, "attention of dtype {}", name_of(dtype));
  return table->f16;
}

bool decodes(const Attention& shape) {
  return shape.queries <= kDecodeQueries && shape.dropout.probability == 0.0F;
}

void check(const Attention& s, DType dtype) {
  RL_REQUIRE(is_float(dtype), "attention of {}", name_of(dtype));
  RL_REQUIRE(s.batch > 0 && s.queries > 0 && s.keys > 0 && s.heads > 0 && s.kv_heads > 0,
             "attention shape B={} Tq={} Tk={} H={} KV={}", s.batch, s.queries, s.keys, s.heads, s.kv_heads);
  RL_REQUIRE(s.heads % s.kv_heads == 0, "{} heads against {} key heads", s.heads, s.kv_heads);
  RL_REQUIRE(s.head_width > 0 && s.head_width <= 256, "attention head width {}", s.head_width);
  RL_CHECK(s.keys, ==, s.query_start + s.queries);
  RL_REQUIRE(s.scale > 0.0F, "attention scale {}", s.scale);
  RL_REQUIRE(s.dropout.probability >= 0.0F && s.dropout.probability < 1.0F, "attention dropout {}",
             s.dropout.probability);
  RL_REQUIRE(s.dropout.probability == 0.0F || s.dropout.samples != nullptr, "attention dropout without sample numbers");
  RL_CHECK(s.q_stride, >=, s.heads * s.head_width);
  RL_CHECK(s.kv_stride, >=, s.kv_heads * s.head_width);
  RL_CHECK(s.out_stride, >=, s.heads * s.head_width);
}

void check_first_keys(const Attention& s) {
  if (s.first_keys == nullptr) return;
  for (int64_t b = 0; b < s.batch; ++b) {
    const int32_t* const first = s.first_keys + b * s.queries;
    RL_CHECK(first[0], >=, 0);
    for (int64_t i = 0; i < s.queries; ++i) {
      RL_CHECK(first[i], <=, s.query_start + i);
      if (i > 0) RL_CHECK(first[i], >=, first[i - 1]);
    }
  }
}

// Bytes of one worker: what forward() and backward() of attention_body.h and attention_backward.h carve.
int64_t forward_bytes(const Attention& s, int64_t element_bytes) {
  const int64_t width = round_up(s.head_width, kAttentionPanel), keys = round_up(s.keys, kAttentionPanel);
  const int64_t elements = 2 * keys * width + width * kAttentionPanel + kForwardKeys * kAttentionPanel;
  return elements * element_bytes + (kForwardKeys + width) * kAttentionPanel * 4;
}

int64_t backward_bytes(const Attention& s, int64_t element_bytes) {
  const int64_t width = round_up(s.head_width, kAttentionPanel), tokens = round_up(s.queries, kAttentionPanel);
  const int64_t kv_rows = s.heads > s.kv_heads ? round_up(tokens, kBackwardKeys) : kBackwardKeys;
  const int64_t elements = 4 * tokens * width + 3 * kBackwardKeys * width + 2 * kBackwardKeys * kBackwardQueries +
                           kBackwardKeys * kAttentionPanel;
  const int64_t floats = tokens * width + 2 * tokens + 2 * kAttentionPanel * kAttentionPanel + 2 * kv_rows * width;
  return elements * element_bytes + floats * 4 + 32 * kAlignment;  // the last for the rounding of each buffer
}

int64_t member_bytes(const Attention& s, DType dtype, device::Isa isa) {
  const int64_t element_bytes = kernels_for(isa, dtype).element_bytes;
  int64_t bytes = decodes(s) ? round_up(s.keys, kAttentionPanel) * 4 : forward_bytes(s, element_bytes);
  if (s.query_start == 0) bytes = std::max(bytes, backward_bytes(s, element_bytes));
  return round_up(bytes, 4096) + kAlignment;  // workers' buffers start at different places of the cache's sets
}

// Element numbers at which item (b, kv) starts.
struct Places {
  int64_t q, kv, out, lse;
};

Places places_of(const Attention& s, int64_t b, int64_t kv) {
  const int64_t group = s.heads / s.kv_heads, head = kv * group;
  const int64_t sample = s.kv_batch_stride != 0 ? s.kv_batch_stride : s.keys * s.kv_stride;
  return {b * s.queries * s.q_stride + head * s.head_width, b * sample + kv * s.head_width,
          b * s.queries * s.out_stride + head * s.head_width, (b * s.heads + head) * s.queries};
}

AttentionItem item_of(const Attention& s, int64_t b, int64_t kv) {
  AttentionItem item{};
  item.queries = s.queries;
  item.keys = s.keys;
  item.group = s.heads / s.kv_heads;
  item.head_width = s.head_width;
  item.query_start = s.query_start;
  item.q_stride = s.q_stride;
  item.kv_stride = s.kv_stride;
  item.out_stride = s.out_stride;
  item.scale = s.scale;
  item.first_keys = s.first_keys == nullptr ? nullptr : s.first_keys + b * s.queries;
  const double probability = s.dropout.probability;
  item.threshold = static_cast<uint32_t>(std::ceil(probability * 0x1p32));  // at most 2^32 - 2^8: a float below 1
  item.random_key = s.dropout.random_key;
  item.keep_scale = static_cast<float>(1.0 / (1.0 - probability));
  item.site = s.dropout.first_head + static_cast<uint32_t>(kv * item.group);
  item.sample = s.dropout.samples != nullptr ? s.dropout.samples[b] : 0;
  return item;
}

// body(sample, key head, workspace) for every item.
template <typename F>
void for_each_item(device::WorkerTeam& team, const Attention& s, int64_t bytes, Workspace workspace, F&& body) {
  const int64_t items = s.batch * s.kv_heads;
  const int64_t members = std::min<int64_t>(items, team.size());
  std::byte* const memory = workspace.require(members * bytes, "attention", team.size());
  std::atomic<int64_t> next{0};  // items as members become free: a core may be held up by something else
  auto part = [&](int member) {
    if (member >= members) return;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
      body(i / s.kv_heads, i % s.kv_heads, memory + member * bytes);
    }
  };
  if (members == 1) return part(0);
  team.run(part);
}

}  // namespace

int64_t attention_workspace_bytes(const Attention& shape, DType dtype, int team_size, device::Isa isa) {
  check(shape, dtype);
  return std::min<int64_t>(team_size, shape.batch * shape.kv_heads) * member_bytes(shape, dtype, isa);
}

void attention_forward(device::WorkerTeam& team, const Attention& shape, ConstRef q, ConstRef k, ConstRef v, Ref out,
                       float* lse, Workspace workspace, device::Isa isa) {
  check(shape, q.dtype);
  check_first_keys(shape);
  RL_REQUIRE(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype, "attention of {}, {}, {}, {}",
             name_of(q.dtype), name_of(k.dtype), name_of(v.dtype), name_of(out.dtype));
  const AttentionKernels& kernels = kernels_for(isa, q.dtype);
  const auto kernel = decodes(shape) ? kernels.decode : kernels.forward;
  for_each_item(team, shape, member_bytes(shape, q.dtype, isa), workspace, [&](int64_t b, int64_t kv, void* own) {
    const Places at = places_of(shape, b, kv);
    AttentionItem item = item_of(shape, b, kv);
    item.q = q.at(at.q).data;
    item.k = k.at(at.kv).data;
    item.v = v.at(at.kv).data;
    item.out = out.at(at.out).data;
    item.lse = lse == nullptr ? nullptr : lse + at.lse;
    item.workspace = own;
    kernel(item);
  });
}

void attention_backward(device::WorkerTeam& team, const Attention& shape, ConstRef q, ConstRef k, ConstRef v,
                        ConstRef out, ConstRef dout, const float* lse, Ref dq, Ref dk, Ref dv, Workspace workspace,
                        device::Isa isa) {
  check(shape, q.dtype);
  check_first_keys(shape);
  RL_CHECK(shape.query_start, ==, 0);
  for (const DType other : {k.dtype, v.dtype, out.dtype, dout.dtype, dq.dtype, dk.dtype, dv.dtype}) {
    RL_REQUIRE(other == q.dtype, "attention backward of {} and {}", name_of(q.dtype), name_of(other));
  }
  const AttentionKernels& kernels = kernels_for(isa, q.dtype);
  for_each_item(team, shape, member_bytes(shape, q.dtype, isa), workspace, [&](int64_t b, int64_t kv, void* own) {
    const Places at = places_of(shape, b, kv);
    AttentionItem item = item_of(shape, b, kv);
    item.q = q.at(at.q).data;
    item.k = k.at(at.kv).data;
    item.v = v.at(at.kv).data;
    item.out = const_cast<void*>(out.at(at.out).data);  // read only, as is lse
    item.dout = dout.at(at.out).data;
    item.lse = const_cast<float*>(lse) + at.lse;
    item.dq = dq.at(at.q).data;
    item.dk = dk.at(at.kv).data;
    item.dv = dv.at(at.kv).data;
    item.workspace = own;
    kernels.backward(item);
  });
}

}  // namespace cpu

int64_t attention_workspace_bytes(const Attention& shape, DType dtype, int team_size) {
  return cpu::attention_workspace_bytes(shape, dtype, team_size, device::isa());
}

void attention_forward(device::Stream& stream, const Attention& shape, ConstRef q, ConstRef k, ConstRef v, Ref out,
                       float* lse, Workspace workspace) {
  cpu::attention_forward(stream.team(), shape, q, k, v, out, lse, workspace, device::isa());
}

void attention_backward(device::Stream& stream, const Attention& shape, ConstRef q, ConstRef k, ConstRef v,
                        ConstRef out, ConstRef dout, const float* lse, Ref dq, Ref dk, Ref dv, Workspace workspace) {
  cpu::attention_backward(stream.team(), shape, q, k, v, out, dout, lse, dq, dk, dv, workspace, device::isa());
}

}  // namespace ridgeline::ops

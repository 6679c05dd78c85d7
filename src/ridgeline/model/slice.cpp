#include "ridgeline/model/slice.h"

#include <fmt/format.h>

#include "ridgeline/base/error.h"

namespace ridgeline::model {

Range Slice::of(SplitBy what) const {
  switch (what) {
    case SplitBy::nothing:
      return {};
    case SplitBy::heads:
      return heads;
    case SplitBy::kv_heads:
      return kv_heads;
    case SplitBy::ffn:
      return ffn;
    case SplitBy::rows:
      return rows;
  }
  RL_NO_CASE(what);
}

std::optional<std::string> unsliceable(const TransformerConfig& config, int64_t count) {
  if (config.heads % count != 0) return fmt::format("model.heads = {} is no multiple of it", config.heads);
  if (config.kv_heads % count != 0 && count % config.kv_heads != 0)
    return fmt::format("neither is model.kv_heads = {} a multiple of it, nor it one of those", config.kv_heads);
  if (config.ffn % count != 0) return fmt::format("model.ffn = {} is no multiple of it", config.ffn);
  if (config.vocab < count) return fmt::format("model.vocab = {} is less", config.vocab);
  return std::nullopt;
}

int key_head_copies(const TransformerConfig& config, int slices) {
  return slices > config.kv_heads ? slices / static_cast<int>(config.kv_heads) : 1;
}

Slice slice_of(const TransformerConfig& config, int index, int count, bool sequence) {
  const std::optional<std::string> refusal = unsliceable(config, count);
  RL_REQUIRE(!refusal, "{} slices: {}", count, *refusal);
  const int copies = key_head_copies(config, count);
  return {.index = index,
          .count = count,
          .sequence = sequence && count > 1,
          .heads = part_of(config.heads, index, count),
          .kv_heads = part_of(config.kv_heads, index / copies, count / copies),
          .ffn = part_of(config.ffn, index, count),
          .rows = part_of(config.vocab, index, count)};
}

}  // namespace ridgeline::model

// What lives as 1/N over which ranks, and what follows from it for a segment's buffers. Pure; the lowering, the
// inventory and the executor all ask here.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "ridgeline/base/dtype.h"
#include "ridgeline/comm/mesh.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/parallel/pipeline.h"

namespace ridgeline::parallel {

// Each level includes the ones before it.
enum class Shard : uint8_t {
  none,       // everything replicated: DDP
  optimizer,  // master weights and moments: ZeRO-1
  gradients,  // accumulated gradients too: ZeRO-2
  parameters  // weights too, gathered for use: ZeRO-3, FSDP (FULL_SHARD)
};

// When accumulated gradients are reduced.
enum class Reduce : uint8_t {
  last,  // once per step, after the last micro-batch: least traffic
  every  // after every micro-batch: from level `gradients` on the least memory
};

// How long gathered weights stay (level `parameters`).
enum class Gather : uint8_t {
  per_use,  // dropped after a use, unless the next one is at hand: forward and backward gather (FSDP's
            // reshard_after_forward)
  per_step  // kept from the first use to the last of a program
};

std::span<const std::string_view> words_of(Shard);
std::span<const std::string_view> words_of(Gather);

// A run's parallelism: the ranks along the mesh's shard axes share one copy of what is sharded, replicas of it sum
// their gradients (hybrid sharding: HSDP, MiCS); tensor ranks compute slices of the model, stages parts of its depth.
struct Sharding {
  Shard level = Shard::none;
  comm::Mesh mesh;
  Reduce reduce = Reduce::last;
  Gather gather = Gather::per_use;
  int prefetch = 1;            // operations between the start of a transfer and the wait for it; 0: no overlap
  DType wire = DType::f32;     // of gradients in a reduction: f32 or bf16 (summed in f32 either way)
  DType weights = DType::f32;  // of the weights that products read
  DType masters = DType::f32;  // of the weights that the optimizer changes; bf16: rounded stochastically
  DType moments = DType::f32;  // of both of Adam's
  int micro_batches = 1;       // per step and rank: the most of any step of the run
  // How units are cut into segments; null: not at all.
  model::Segmentation segmentation = nullptr;
  Pipeline pipeline;      // of the mesh's stages
  bool sequence = false;  // tensor ranks share the residual stream's tokens (model::Slice)

  // Ranks between which the state is cut; 1 for level none.
  int shards() const { return mesh.size(shard_axes()); }
  int replicas() const { return mesh.size(replica_axes()); }
  // Ranks that compute slices of the same model.
  int slices() const { return mesh.size(comm::Axis::tp); }
  // The first and the last stage hold the same vocabulary matrix; each has a part of its gradient.
  bool ties_stages(const model::TransformerConfig& config) const { return config.tied && pipeline.stages() > 1; }
  model::Partition partition() const { return {segmentation, slices(), sequence}; }
  // Ranks whose gradients are summed: shards x replicas.
  int ranks() const { return mesh.size(comm::kGradientAxes); }
  comm::AxisSet shard_axes() const { return level == Shard::none ? comm::AxisSet{} : comm::kShardAxes; }
  comm::AxisSet replica_axes() const {
    return level == Shard::none ? comm::kGradientAxes : comm::AxisSet{comm::Axis::dp_replicate};
  }
  // Cut into one part is not cut.
  bool cuts(Shard what) const { return shards() > 1 && level >= what; }
  // Products read a copy of the masters in a dtype of its own.
  bool mixed() const { return weights != masters; }

  // A step may reduce a segment more than once.
  bool reduces_every() const { return reduce == Reduce::every || micro_batches == 1; }
  // Micro-batches that are reduced together form a window.
  int window(int micro) const { return reduces_every() ? micro : 0; }
  // The accumulated gradient is this rank's part only.
  bool gradient_is_part() const { return cuts(Shard::gradients) && reduces_every(); }
  // What a reduction over a 2-byte wire gives fits 2 bytes as long as nothing is added to it.
  DType gradient_dtype() const { return wire != DType::f32 && micro_batches == 1 ? wire : DType::f32; }
  // Backward adds into a buffer of its own, which is reduced and then added to the accumulated gradient.
  bool separate_gradient() const {
    return gradient_is_part() || gradient_dtype() != DType::f32 || (reduce == Reduce::every && micro_batches > 1);
  }
  // Gradients are converted before they travel.
  bool packs() const { return wire != DType::f32; }
  // The reduction runs on a copy in the wire's dtype; or, where that is what is kept, on the accumulated gradient.
  bool separate_wire() const { return packs() && !wire_is_gradient(); }
  bool wire_is_gradient() const { return gradient_dtype() != DType::f32 && !gradient_is_part(); }
  // After the reduction this rank's part is added (or copied) to the accumulated gradient.
  bool accumulates() const { return !wire_is_gradient() && (separate_gradient() || separate_wire()); }
};

}  // namespace ridgeline::parallel

#include "ridgeline/parallel/pipeline.h"

#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {

Pipeline balanced_pipeline(const model::TransformerConfig& config, int64_t sequence, ScheduleKind kind, int stages,
                           int chunks) {
  // A look-up costs nothing beside a product.
  const double block = model::block_flops(config, sequence).per_token(), head = model::head_flops(config).per_token();
  return {kind, chunks,
          balanced(std::vector<double>(static_cast<size_t>(config.layers), block), 0, head, stages * chunks)};
}

}  // namespace ridgeline::parallel

#include "ridgeline/parallel/pipeline.h"

#include "ridgeline/model/declarations.h"

namespace ridgeline::parallel {

Pipeline balanced_pipeline(const model::TransformerConfig& config, int64_t sequence, ScheduleKind kind, int stages,
                           int chunks) {
  // A look-up costs nothing beside a product.
  const double head = 6.0 * static_cast<double>(config.width) * static_cast<double>(config.vocab);
  const double block =
      (model::training_flops(config, sequence).per_token() - head) / static_cast<double>(config.layers);
  return {kind, chunks,
          balanced(std::vector<double>(static_cast<size_t>(config.layers), block), 0, head, stages * chunks)};
}

}  // namespace ridgeline::parallel

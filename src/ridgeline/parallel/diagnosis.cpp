#include "ridgeline/parallel/diagnosis.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "ridgeline/base/error.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::parallel {
namespace {

// Everything that a rank looks at has a place in the order of a step; the smallest place over all ranks is the culprit.
class Search {
 public:
  explicit Search(const Executor& executor) : executor_(executor) {}

  int64_t place() const { return place_; }
  void go_to(int64_t place) { place_ = place; }

  template <typename Text>
  void look(int64_t count, ConstRef values, Text&& text) {
    ++place_;
    const int64_t at = ops::first_non_finite(executor_.stream(), count, values);
    if (at >= 0) found(text(at));
  }

  // This rank's part of a kind of state, segment by segment.
  void look_at_state(BufferKind kind, std::string_view name, bool reverse) {
    const std::vector<model::Segment>& segments = executor_.segments();
    for (size_t i = 0; i < segments.size(); ++i) {
      const int u = static_cast<int>(reverse ? segments.size() - 1 - i : i);
      if (!segments[static_cast<size_t>(u)].here) {
        place_ += std::ssize(segments[static_cast<size_t>(u)].tensors);
        continue;
      }
      const ElementRange own = executor_.part(u);
      for (const model::Tensor& tensor : segments[static_cast<size_t>(u)].tensors) {
        const int64_t first = std::clamp(tensor.offset, own.first, own.last);
        const int64_t last = std::clamp(tensor.offset + tensor.count(), own.first, own.last);
        ++place_;
        executor_.visit(kind, u, {first, last}, [&](int64_t from, int64_t count, ConstRef values) {
          const int64_t at = ops::first_non_finite(executor_.stream(), count, values);
          if (at >= 0)
            found(fmt::format("{} {} (element {})", name, tensor.name, tensor.global(from + at - tensor.offset)));
        });
      }
    }
  }

  // What the culprit says, on every rank; empty when nobody found anything.
  std::string agree(int64_t step) {
    comm::Communicator& ranks = executor_.ranks();
    if (!what_.empty()) what_ += fmt::format(" on rank {}", ranks.rank());
    if (ranks.size() == 1) return what_;
    ranks.wait(ranks.all_reduce(Ref(&key_), 1, comm::ReduceOp::min, {"first non-finite value", -1, step}));
    if (key_ == kNone) return "";
    char text[256] = {};
    const int owner = static_cast<int>(key_ % ranks.size());
    if (owner == ranks.rank()) what_.copy(text, sizeof text - 1);
    ranks.wait(
        ranks.broadcast(Ref(text, DType::u8), sizeof text, owner, {"name of the first non-finite value", -1, step}));
    return text;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  void found(std::string text) {
    const int64_t key = place_ * executor_.ranks().size() + executor_.ranks().rank();
    if (key >= key_) return;
    what_ = std::move(text);
    key_ = key;
  }

  const Executor& executor_;
  int64_t place_ = 0;
  std::string what_;
  int64_t key_ = kNone;
};

}  // namespace

std::string first_non_finite(Executor& executor, int program, const StepInput& input) {
  const RankMemory& memory = executor.memory();
  const Program& list = executor.programs()[static_cast<size_t>(program)];
  const int64_t all = memory.shape_of(program).tokens();
  const int64_t tokens = list.generates() ? input.tokens : executor.run_shape().local(list).tokens().count;
  const model::TransformerConfig& config = executor.run_shape().config;
  Search search(executor);
  search.look_at_state(BufferKind::master, "weights of", false);
  // Every rank runs all of it: others may need its weights. Stages run different elements, and some later than others.
  const int64_t begin = search.place(), elements = config.layers + 2;
  executor.run_forward(program, input, [&](const Op& op) {
    search.go_to(begin + op.micro * elements + op.index + 1);
    if (op.kind == OpKind::forward) {
      search.look(tokens * config.width, memory.output(program, op.index, op.micro), [&](int64_t at) {
        return fmt::format("output of {}{} (element {})", op.index < 0 ? "the " : "", name_of_element(op.index), at);
      });
    } else if (op.kind == OpKind::loss || op.kind == OpKind::evaluate) {
      search.look(all, ConstRef(memory.losses(program, op.micro)),
                  [&](int64_t at) { return fmt::format("loss (element {})", at); });
    }
  });
  search.go_to(begin + list.micro_batches * elements);
  if (list.trains()) search.look_at_state(BufferKind::gradient, "gradient of", true);
  return search.agree(input.step);
}

std::vector<float> logits(Executor& executor, int program, int micro) {
  const bound::Loss* const loss = executor.loss(program, micro);
  if (loss == nullptr) return {};
  RL_REQUIRE(!loss->trains, "program {} does not evaluate micro-batch {}", program, micro);
  model::BatchShape batch = loss->shape.batch;
  batch.head_chunk = batch.tokens();
  const model::LocalShape shape = loss->shape.with(batch);
  model::Carver counter(nullptr);
  model::carve_loss_scratch(counter, shape, false);
  const device::Arena memory(counter.used(), nullptr);
  model::Carver carver(memory.data());
  const model::LossScratch scratch = model::carve_loss_scratch(carver, shape, false);
  model::Operators operators(executor.stream(), scratch.workspace, &executor.slices());
  std::vector<float> result(static_cast<size_t>(batch.tokens() * shape.config.vocab));
  model::head_forward(operators, shape, loss->weights, loss->input, result.data(), scratch);
  return result;
}

}  // namespace ridgeline::parallel

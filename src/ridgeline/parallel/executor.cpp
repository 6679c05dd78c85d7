#include "ridgeline/parallel/executor.h"

#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::parallel {
namespace {

// Memory is planned for a rank and a team: another one would write over its neighbours. Aborts before anything is
// taken.
RunShape checked(RunShape run, const comm::World& world, const device::Stream& stream) {
  const int team = stream.team().size();
  for (const model::BatchShape* shape : {&run.batch, &run.evaluation_batch}) {
    RL_REQUIRE(shape->team_size == team, "memory is planned for a team of {}, but a team of {} runs on it",
               shape->team_size, team);
  }
  RL_CHECK(run.sharding.mesh.world_size(), ==, world.size());
  RL_CHECK(run.rank, ==, world.rank());
  RL_CHECK(name_of(run.sharding.weights), ==, name_of(run.batch.dtype));
  return run;
}

}  // namespace

Executor::Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream)
    : Executor(std::move(run), std::move(programs), world, stream, Options{}) {}

Executor::Executor(RunShape run, std::vector<Program> programs, comm::World& world, device::Stream& stream,
                   Options options)
    : run_(checked(std::move(run), world, stream)),
      programs_(std::move(programs)),
      segments_(run_.segments()),
      options_(std::move(options)),
      inventory_(make_inventory(run_, segments_, programs_, options_.packing)),
      proof_(options_.prove ? prove(run_, programs_, inventory_) : Proof{}),
      stream_(stream),
      shared_scalars_(std::make_unique<SharedScalars>()),
      groups_(world, run_),
      memory_(run_, segments_, programs_, inventory_, world, stream),
      state_(run_, segments_, programs_, inventory_, memory_, groups_, stream,
             {.offload_folder = options_.offload_folder, .processors = options_.processors}),
      scalars_(run_, programs_, static_cast<int>(segments_.size()), memory_, groups_, stream, *shared_scalars_),
      runner_(run_, segments_, programs_, memory_, state_, groups_, scalars_, stream, options_.overlap) {
  if (!options_.guard) return;
  RL_REQUIRE(options_.packing == Packing::separate, "only buffers on pages of their own are guarded");
  guard_ = std::make_unique<MemoryGuard>(
      inventory_, programs_, [this](const Buffer& buffer) { return memory_.address(buffer); }, run_.rank);
}

Executor::~Executor() = default;

void Executor::visit(BufferKind kind, int segment, ElementRange range, const StateVisitor& visitor) const {
  state_.visit(kind, segment, range, visitor);
}

std::vector<float> Executor::collect(BufferKind kind, const model::Tensor& tensor) const {
  return state_.collect(kind, tensor);
}

void Executor::fill(BufferKind kind, const StateSource& source) {
  if (kind == BufferKind::master) runner_.weights_changed();
  state_.fill(kind, source);
}

StepResult Executor::run(int program, const StepInput& input) {
  return runner_.run(program, input, guard_.get(), observer_);
}

void Executor::run_forward(int program, const StepInput& input, const std::function<void(const Op&)>& after) {
  runner_.run_forward(program, input, after);
}

}  // namespace ridgeline::parallel

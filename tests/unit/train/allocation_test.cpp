// Proofs about memory that need the whole process: an interposed allocator counts what steps take, every planned
// buffer's last page is used, nothing is touched outside its declared lifetime, and the process holds what the plan
// says.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "ridgeline/base/words.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/state.h"

// glibc's own allocator behind the names replaced below.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);
extern "C" void* __libc_memalign(size_t, size_t);
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
void count() {
  if (counting.load(std::memory_order_relaxed)) ++allocations;
}
}  // namespace

extern "C" void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
extern "C" void* calloc(size_t n, size_t size) {
  count();
  return __libc_calloc(n, size);
}
extern "C" void* realloc(void* p, size_t size) {
  count();
  return __libc_realloc(p, size);
}
extern "C" void* aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}

namespace ridgeline::train {
namespace {

// What is sharded over how many ranks; all of them at all levels, some with their optimizer's state in a file, some in
// slices or stages.
struct Layout {
  int ranks;  // in all
  parallel::Shard shard;
  int64_t offload_window = 0;
  int tensor = 1;
  bool sequence = false;
  parallel::Pipeline pipeline = {};
};
const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = [] {
    std::vector<Layout> list = {{1, parallel::Shard::none}};
    for (const int ranks : {2, 4, 8}) {
      for (const parallel::Shard shard :
           {parallel::Shard::none, parallel::Shard::optimizer, parallel::Shard::gradients, parallel::Shard::parameters})
        list.push_back({ranks, shard});
    }
    constexpr int64_t kWindow = 1 << 20;
    list.push_back({1, parallel::Shard::none, kWindow});
    list.push_back({2, parallel::Shard::optimizer, kWindow});
    list.push_back({4, parallel::Shard::parameters, kWindow});
    using parallel::ScheduleKind;
    list.push_back({4, parallel::Shard::optimizer, 0, 2, false});
    list.push_back({4, parallel::Shard::parameters, 0, 4, true});
    for (const ScheduleKind kind : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble})
      list.push_back({2, parallel::Shard::none, 0, 1, false, {kind, 1, {1, 3}}});
    list.push_back({2, parallel::Shard::none, 0, 1, false, {ScheduleKind::interleaved, 2, {1, 1, 1, 1}}});
    list.push_back({8, parallel::Shard::gradients, kWindow, 2, true, {ScheduleKind::zero_bubble, 1, {2, 2}}});
    return list;
  }();
  return all;
}

struct Case {
  Layout layout;
  DType dtype;
};
std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Layout& layout : layouts()) {
    const bool cut = layout.tensor * layout.pipeline.stages() > 1;  // one of the two: it takes long
    if (!cut || list.size() % 4 == 0) list.push_back({layout, DType::f32});
    if (!cut || list.size() % 4 != 0) list.push_back({layout, DType::bf16});
  }
  return list;
}

std::string text_of(const Layout& layout, DType dtype) {
  return fmt::format("{} ranks, level {}, {}{}, {} slices{}, {} stages {}", layout.ranks, word_of(layout.shard),
                     name_of(dtype), layout.offload_window > 0 ? ", offload" : "", layout.tensor,
                     layout.sequence ? " of tokens too" : "", layout.pipeline.stages(), word_of(layout.pipeline.kind));
}

parallel::RunShape shape(const Layout& layout, DType dtype, bool dropout) {
  parallel::RunShape run;
  run.config = model::with_usual_sizes({.layers = 4, .width = 128, .heads = 4, .vocab = 1000, .context = 64});
  run.config.dropout = dropout ? 0.1F : 0.0F;
  run.batch = {.batch = 2,
               .sequence = 64,
               .dtype = dtype,
               .head_chunk = 64,
               .team_size = layout.ranks == 1 ? 2 : 1,
               .dropout = dropout};
  run.evaluation_batch = run.batch;
  run.evaluation_batch.dropout = false;
  run.sharding = {.level = layout.shard,
                  .mesh = comm::Mesh::of_world(layout.ranks, layout.pipeline.stages(), layout.tensor, 1, 0),
                  .weights = dtype,
                  .micro_batches = 2,
                  .pipeline = layout.pipeline,
                  .sequence = layout.sequence};
  run.offload_window = layout.offload_window;
  return run;
}

std::vector<parallel::Program> programs(const parallel::RunShape& run) {
  const int stage = run.place().stage();
  const std::vector<std::vector<parallel::ScheduleEntry>> all = parallel::schedule(run.sharding.pipeline.shape(2));
  return {parallel::lower(run.config, all[static_cast<size_t>(stage)], run.sharding, stage),
          parallel::evaluation(run.config, 1, run.sharding, stage)};
}

// The buffers of one program share bytes with those of another, so tokens are written right before a run.
void write_tokens(parallel::Executor& executor, int program, int micro) {
  const model::BatchShape& batch = executor.run_shape().batch;
  const parallel::BatchBuffers buffers = executor.batch(program, micro);
  for (int64_t i = 0; i < batch.tokens(); ++i) {
    buffers.inputs[i] = static_cast<int32_t>((i * 37 + micro) % 1000);
    buffers.labels[i] = static_cast<int32_t>((i * 37 + 37 + micro) % 1000);
    buffers.positions[i] = static_cast<int32_t>(i % batch.sequence);
    buffers.samples[i] = static_cast<uint32_t>(i / batch.sequence);
  }
  for (int64_t b = 0; b < batch.batch; ++b) buffers.sample_of_row[b] = static_cast<uint32_t>(b);
}

parallel::StepResult run_program(parallel::Executor& executor, int program) {
  for (int micro = 0; micro < (program == 0 ? 2 : 1); ++micro) write_tokens(executor, program, micro);
  const parallel::StepInput step = {
      .step = 1, .optimizer = {}, .learning_rate = 1e-3F, .correction1 = 0.1F, .correction2 = 0.001F, .clip = 1.0F};
  return executor.run(program, step);
}

template <typename F>
void with_executor(const parallel::RunShape& run, parallel::Executor::Options options, F&& f) {
  options.offload_folder = std::filesystem::temp_directory_path() / "ridgeline_allocation";
  comm::run_threads(run.sharding.mesh.world_size(), {.timeout = std::chrono::seconds(60)}, [&](comm::World& world) {
    device::WorkerTeam team(run.batch.team_size);
    device::Stream stream(team);
    const parallel::RunShape mine = run.on_rank(world.rank());
    parallel::Executor executor(mine, programs(mine), world, stream, options);
    initialize(executor, 1);
    f(executor, world);
  });
}

TEST(memory, steps_allocate_nothing) {
  for (const Case& one : cases()) {
    const Layout& layout = one.layout;
    const DType dtype = one.dtype;
    SCOPED_TRACE(text_of(layout, dtype));
    allocations = 0;
    with_executor(shape(layout, dtype, true), {}, [&](parallel::Executor& executor, comm::World& world) {
      const auto barrier = [&, ranks = world.communicator("test")] { ranks->wait(ranks->barrier({"test", -1, -1})); };
      run_program(executor, 0);
      run_program(executor, 1);
      barrier();
      if (world.rank() == 0) counting = true;
      barrier();
      for (int step = 0; step < 2; ++step) {
        run_program(executor, 0);
        run_program(executor, 1);
      }
      barrier();
      if (world.rank() == 0) counting = false;
      barrier();
    });
    EXPECT_EQ(allocations.load(), 0);
  }
}

// What goes through the file is what the plan says, exactly, with steps that skip their update in between.
TEST(memory, offload_moves_the_bytes_of_the_plan) {
  for (const Case& one : cases()) {
    const Layout& layout = one.layout;
    const DType dtype = one.dtype;
    if (layout.offload_window == 0) continue;
    SCOPED_TRACE(text_of(layout, dtype));
    with_executor(shape(layout, dtype, true), {}, [&](parallel::Executor& executor, comm::World&) {
      const int64_t planned = executor.inventory().file_bytes;
      EXPECT_GT(planned, layout.offload_window);
      int64_t updates = 0;
      for (const bool updates_weights : {true, true, false, false, true, false, true}) {
        for (int micro = 0; micro < 2; ++micro) write_tokens(executor, 0, micro);
        const parallel::StepResult result =
            executor.run(0, {.step = 1, .correction1 = 0.1F, .correction2 = 0.001F, .update = updates_weights});
        EXPECT_EQ(result.offload_read_bytes, updates_weights ? planned : 0);
        EXPECT_EQ(result.offload_written_bytes, updates_weights ? planned : 0);
        updates += updates_weights ? 1 : 0;
      }
      // Looking at the state waits for what is still to be written.
      const std::vector<model::Segment>& segments = executor.segments();
      const auto here = std::find_if(segments.begin(), segments.end(), [](const model::Segment& s) { return s.here; });
      const auto segment = static_cast<int>(here - segments.begin());
      executor.visit(parallel::BufferKind::moment1, segment, executor.part(segment), [](int64_t, int64_t, ConstRef) {});
      EXPECT_EQ(executor.offload_file()->bytes_read(), updates * planned);
      EXPECT_EQ(executor.offload_file()->bytes_written(), updates * planned);
    });
  }
}

TEST(memory, the_counter_counts) {
  allocations = 0;
  counting = true;
  std::free(std::malloc(10));
  counting = false;
  EXPECT_EQ(allocations.load(), 1);
}

// Guard mode makes every transient buffer unreadable outside its declared lifetime and NaN at its start: a step that
// ends with the same loss as without guards used nothing else.
TEST(memory, nothing_is_used_outside_its_declared_lifetime_and_every_last_page_is_used) {
  for (const Case& one : cases()) {
    const Layout& layout = one.layout;
    const DType dtype = one.dtype;
    SCOPED_TRACE(text_of(layout, dtype));
    std::vector<double> plain(static_cast<size_t>(layout.ranks)), guarded = plain;
    std::mutex mutex;
    with_executor(shape(layout, dtype, true), {}, [&](parallel::Executor& executor, comm::World& world) {
      run_program(executor, 0);
      plain[static_cast<size_t>(world.rank())] = run_program(executor, 0).loss;
    });
    with_executor(shape(layout, dtype, true), {parallel::Packing::separate, true},
                  [&](parallel::Executor& executor, comm::World& world) {
                    run_program(executor, 0);
                    guarded[static_cast<size_t>(world.rank())] = run_program(executor, 0).loss;
                    run_program(executor, 1);
                    const std::lock_guard lock(mutex);
                    for (const std::string& name : executor.unused_buffers())
                      ADD_FAILURE() << "rank " << world.rank() << ": last page never written: " << name;
                  });
    EXPECT_EQ(plain, guarded);
  }
}

TEST(memory, a_process_holds_what_the_plan_says) {
  for (const Case& one : cases()) {
    const Layout& layout = one.layout;
    const DType dtype = one.dtype;
    SCOPED_TRACE(text_of(layout, dtype));
    const int64_t before = device::resident_memory().now;
    parallel::RunShape run = shape(layout, dtype, false);
    run.config.layers = 4;
    run.config.width = 256;
    run.config.ffn = 1024;
    run.config.vocab = 8192;
    with_executor(run, {}, [&](parallel::Executor& executor, comm::World& world) {
      const auto barrier = [&, ranks = world.communicator("test")] { ranks->wait(ranks->barrier({"test", -1, -1})); };
      run_program(executor, 0);
      run_program(executor, 1);
      int64_t planned = executor.inventory().total_bytes();  // stages differ
      const std::unique_ptr<comm::Communicator> all = world.communicator("planned");
      all->wait(all->all_reduce(Ref(&planned), 1, comm::ReduceOp::sum, {"planned bytes", -1, -1}));
      barrier();
      if (world.rank() == 0) {
        const int64_t grown = device::resident_memory().now - before;
        EXPECT_NEAR(static_cast<double>(grown), static_cast<double>(planned), 0.03 * static_cast<double>(planned));
      }
      barrier();
    });
  }
}

}  // namespace
}  // namespace ridgeline::train

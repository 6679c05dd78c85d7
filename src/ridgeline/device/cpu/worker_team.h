// A rank's own threads. No OpenMP: the team belongs to one rank, knows how to sleep, and never decides a result: ops
// cut their work into fixed blocks that do not depend on the team's size, the team only decides who computes which
// block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace ridgeline::device {

class WorkerTeam {
 public:
  struct Place {
    // To which each member is bound for the life of the team (index 0: whoever makes it, and calls run()); empty: none.
    std::vector<int> processors;
    // More threads are busy than there are processors: who waits sleeps soon.
    bool crowded = false;
  };
  // A team of `size` >= 1 threads: the caller of run() and size-1 workers. Throws Error when the system starts no more
  // threads.
  explicit WorkerTeam(int size) : WorkerTeam(size, Place{}) {}
  WorkerTeam(int size, Place place);
  ~WorkerTeam();
  WorkerTeam(const WorkerTeam&) = delete;
  WorkerTeam& operator=(const WorkerTeam&) = delete;

  int size() const;

  // Calls body(context, member) for member = 0 … size-1, member 0 on the calling thread, and returns when all have
  // returned. Allocates nothing. Bodies must not throw. Not reentrant; one caller at a time.
  // Waiting members spin shortly (microseconds), then sleep on a futex.
  void run(void (*body)(void* context, int member), void* context);

  // f(member) on every member.
  template <typename F>
  void run(F&& f) {
    run([](void* context, int member) { (*static_cast<std::remove_reference_t<F>*>(context))(member); }, &f);
  }

  // f(begin, end) over [0, count) cut into at most size() contiguous parts, each a multiple of `grain` but the last.
  // Which member gets which part is fixed (member i gets the i-th part), so that first touch and reuse stay local.
  template <typename F>
  void parallel_for(int64_t count, int64_t grain, F&& f) {
    if (count <= 0) return;
    const int64_t blocks = (count + grain - 1) / grain;
    const int64_t parts = blocks < size() ? blocks : size();
    if (parts == 1) return f(int64_t{0}, count);
    run([&](int member) {
      const int64_t first = blocks * member / parts * grain;
      const int64_t last = blocks * (member + 1) / parts * grain;
      if (member < parts && first < last) f(first, last < count ? last : count);
    });
  }

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace ridgeline::device

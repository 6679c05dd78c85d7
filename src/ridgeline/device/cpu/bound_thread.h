// On which processors a thread may run.
#pragma once

#include <memory>
#include <span>

namespace ridgeline::device {

// Binds the calling thread to `processors` for the life of the object, which ends on the same thread: then the thread
// may run where it could before. Threads inherit the bounds of whoever starts them. No processors, or ones that the
// system refuses: nothing changes.
class BoundThread {
 public:
  explicit BoundThread(std::span<const int> processors);
  ~BoundThread();
  BoundThread(const BoundThread&) = delete;
  BoundThread& operator=(const BoundThread&) = delete;

  // Threads of this process that are bound now.
  static int count();

 private:
  struct Before;
  std::unique_ptr<Before> before_;
};

}  // namespace ridgeline::device

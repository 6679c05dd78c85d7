// Guard mode: finds whoever uses memory that is not theirs. Every buffer lies alone on its pages, its end against a
// page that nobody may touch; what a transient buffer holds is poison at the start of its declared lifetime, and
// outside it the buffer cannot be touched at all. Slower and larger than a run without, never different: the same bits.
#pragma once

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ridgeline/parallel/inventory.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

#ifdef NDEBUG
inline constexpr bool kGuardByDefault = false;
#else
inline constexpr bool kGuardByDefault = true;
#endif

// RIDGELINE_GUARD of the environment: 1 or 0; without it, what the build does by default (debug builds guard). Anything
// else is an Error.
bool guard_requested();

class MemoryGuard {
 public:
  using Address = std::function<std::byte*(const Buffer&)>;
  // Of buffers laid out with Packing::separate, which lie where `address` says and are readable and writable. An access
  // beside one of them, or outside its lifetime, from now on ends the process with a message that names the rank, the
  // operation, the buffer and by how many bytes. Throws Error when the system protects no more pages.
  MemoryGuard(const Inventory& inventory, const std::vector<Program>& programs, const Address& address, int rank);
  ~MemoryGuard();
  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;

  // Around a run of a program and around each operation of it. leave() and end() abort when something was written right
  // before a buffer, where its first page is not its own.
  void begin(int program);
  void enter(int position);
  void leave(int position);
  void end();

  // Transient buffers whose last page was never written in any run: declared larger than they need be.
  const std::vector<std::string>& unused() const { return unused_; }

 private:
  struct Region {
    std::byte *pages, *begin, *end;  // its first page; where it begins on it; the end of both
    int program, first, last;        // program -1: always there
    bool open;                       // during all of a program: written before it runs or read after it
    bool scratch;
    std::string name;
  };
  void watch();
  static void on_fault(int signal, siginfo_t* info, void* context);
  bool explain(const std::byte* address) const;
  void protect(std::byte* first, std::byte* last, bool usable) const;
  static void poison_margin(const Region& region);
  void check_margin(const Region& region) const;
  void note_unused(const Region& region);

  const int rank_;
  std::vector<Region> regions_;
  std::vector<std::vector<std::string>> operations_;
  std::vector<std::string> unused_;
  std::atomic<int> program_{-1}, position_{-1};
  std::atomic<MemoryGuard*> next_{nullptr};  // of all guards of this process
};

}  // namespace ridgeline::parallel

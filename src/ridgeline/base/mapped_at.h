// What is mapped at an address of this process: for the handler of a signal (SIGBUS) that came of touching it.
#pragma once

#include <array>

namespace ridgeline {

struct MappedAt {
  enum class Kind {
    other,          // memory of the process itself, or nothing
    shared_memory,  // between processes: memfd, System V, files in /dev/shm
    cut_file,       // a file that ends before this address now
    file
  };
  Kind kind = Kind::other;
  std::array<char, 4096> name{};  // the kernel's, ends with '\0': a path, "/memfd:NAME (deleted)"; of `other` empty
};

// As /proc/self/maps has it. Async-signal-safe.
MappedAt mapped_at(const void* address) noexcept;

}  // namespace ridgeline

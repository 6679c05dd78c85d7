// Fetches files: many at a time, and large ones in many ranges at a time; what is there already is not fetched again.
//
// Content is checked against its hash before the file gets its name. Two processes that want the same file fetch it
// once: the second waits for the first. A process that ends at any moment leaves a state from which the next one goes
// on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/hub/http.h"
#include "ridgeline/hub/listing.h"

namespace ridgeline::hub {

// One file to fetch, size and etag known.
struct Item {
  RemoteFile file;
  std::string url;
  std::filesystem::path target;   // gets its name last
  std::filesystem::path partial;  // what is there of it before; on the file system of `target`
  std::filesystem::path lock;     // a file for the lock of whoever fetches it
  std::string part_of;            // whole_name() of its parts, those of other hosts too
};

struct TransferSettings {
  int connections = 8;  // at once, for all files together
  int tries = 6;        // of a range, in a row without a byte
};

struct TransferProgress {
  int64_t bytes_done = 0;  // of all items, those that were there included
  int64_t files_done = 0;
};

struct TransferReport {
  std::function<void(const TransferProgress&)> progress;  // a few times a second
  std::function<void(const std::string&)> note;           // a line about a try that failed, or a wait
  // The error for an answer that no other try mends.
  std::function<Error(const std::string& path, const Reply&)> refusal;
};

// All of `items`, whose folders are made; on return every target is there, whole and checked (by its size, where the
// etag is no hash). Error: as refusal() says; a file that is not what its hash says in two whole tries; the network,
// after `tries`; the disk.
void transfer(Http& http, std::vector<Item> items, const TransferSettings& settings, const TransferReport& report);

// Whether `target` is there, of the size that it is to have.
bool is_there(const Item& item);

}  // namespace ridgeline::hub

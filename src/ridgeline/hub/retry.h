// When a request is made again, and how long to wait before: pure functions of what the server or the network said.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace ridgeline::hub {

enum class Next {
  done,           // the answer is good
  again,          // what broke it may pass: a cut, a stall, 408, 429, 5xx
  resolve_again,  // a signed address is over: ask the hub for another one
  give_up         // it would be the same again
};

// What follows from an answer with this status (0: none, the transfer broke before), to a request to the hub itself or
// to another host that it named.
Next next_after(int64_t status, bool from_hub);

// Seconds before try number `failures` + 1 (failures >= 1): 0.5, 1, 2, … to 30, each shortened by up to a half as
// `random` (0 to 1) says, so that clients that failed together do not come back together.
double pause_after(int failures, double random);

// The header Retry-After: seconds, or a date, of which `now` (seconds of the epoch) is subtracted; nothing where it is
// neither. Never below 0.
std::optional<double> retry_after(std::string_view header, int64_t now);

// The header RateLimit, by which Hugging Face's hub says the same ('"api";r=0;t=55'): seconds until requests are
// counted anew, where none is left; nothing otherwise.
std::optional<double> limit_reset(std::string_view header);

}  // namespace ridgeline::hub

#include "ridgeline/hub/retry.h"

#include <curl/curl.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "ridgeline/hub/chunks.h"

namespace ridgeline::hub {

Next next_after(int64_t status, bool from_hub) {
  if (status >= 200 && status < 300) return Next::done;
  if (status == 0 || status == 408 || status == 425 || status == 429 || status >= 500) return Next::again;
  return from_hub ? Next::give_up : Next::resolve_again;
}

double pause_after(int failures, double random) {
  const double longest = std::min(30.0, std::ldexp(0.5, std::clamp(failures, 1, 16) - 1));
  return longest * (1 - random / 2);
}

std::optional<double> retry_after(std::string_view header, int64_t now) {
  if (const auto seconds = whole_number(header)) return static_cast<double>(*seconds);
  const time_t date = ::curl_getdate(std::string(header).c_str(), nullptr);
  if (date < 0) return std::nullopt;
  return static_cast<double>(std::max<int64_t>(0, date - now));
}

std::optional<double> limit_reset(std::string_view header) {
  std::optional<int64_t> left, seconds;
  for (size_t begin = 0; begin < header.size();) {
    const size_t end = std::min(header.find(';', begin), header.size());
    std::string word(header.substr(begin, end - begin));
    std::erase(word, ' ');
    if (word.starts_with("r=")) left = whole_number(std::string_view(word).substr(2));
    if (word.starts_with("t=")) seconds = whole_number(std::string_view(word).substr(2));
    begin = end + 1;
  }
  return left == 0 && seconds ? std::optional<double>(*seconds) : std::nullopt;
}

}  // namespace ridgeline::hub

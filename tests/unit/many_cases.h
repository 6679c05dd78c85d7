// Cases that a test makes by the hundred.
#pragma once

namespace ridgeline {

// All of them; in a build with a sanitizer, where each takes five to fifty times as long, one of `of`. A number that
// shares no factor with the lengths of the inner loops still meets every one of their values.
class ManyCases {
 public:
  explicit ManyCases(int of) : of_(kWatched ? of : 1) {}
  bool skips() { return number_++ % of_ != 0; }
  // How many of `all` are left.
  int share(int all) const { return all / of_; }

 private:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr bool kWatched = true;
#else
  static constexpr bool kWatched = false;
#endif
  int of_, number_ = 0;
};

}  // namespace ridgeline

// What a stranger may do with the installed libraries: train a tokenizer on a text, and add numbers over four ranks.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_trainer.h"

int main() {
  const std::string text = "the ridge and the line, the ridge again, the line again";
  ridgeline::data::PieceCounts counts;
  counts.add(text);
  const ridgeline::data::Tokenizer tokenizer = ridgeline::data::train_tokenizer(counts, 270);
  const std::vector<int32_t> ids = tokenizer.encode(text);
  if (ids.size() >= text.size() || tokenizer.decode(ids) != text) {
    std::fputs("consumer: the tokenizer does not give back its text in fewer tokens\n", stderr);
    return 1;
  }

  std::vector<int64_t> sums(4);
  ridgeline::comm::run_threads(4, {}, [&](ridgeline::comm::World& world) {
    const auto everyone = world.communicator("everyone");
    int64_t value = 1 + world.rank();
    const ridgeline::Ref buffer{&value, ridgeline::DType::i64};
    everyone->wait(everyone->all_reduce(buffer, 1, ridgeline::comm::ReduceOp::sum, {"consumer"}));
    sums[static_cast<size_t>(world.rank())] = value;
  });
  if (sums != std::vector<int64_t>{10, 10, 10, 10}) {
    std::fputs("consumer: four ranks did not agree on the sum of 1, 2, 3 and 4\n", stderr);
    return 1;
  }
  std::puts("consumer: tokenizer and ranks work from the installed package");
}

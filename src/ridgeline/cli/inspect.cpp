#include "ridgeline/cli/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/lineage.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/cli/inspect_file.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/train/find_documents.h"
#include "ridgeline/train/model_source.h"
#include "ridgeline/train/sample_listing.h"
#include "ridgeline/train/state.h"

namespace ridgeline::cli {
namespace {

namespace fs = std::filesystem;

struct InspectOptions {
  std::string path, tokenizer;
  bool tensors = false;
  int64_t document = -1, samples = 0, first_sample = 0;
  int ranks = 1;
  std::vector<std::string> overrides;
};

bool is_dataset(const fs::path& path) {
  fs::path index = path;
  if (path.extension() == ".bin" || path.extension() == ".idx") index.replace_extension();
  index += ".idx";
  // A file of llm.c alone is a file like any other.
  return fs::exists(index) || (!fs::exists(path) && data::IndexedDataset::is_there(path));
}

void inspect_dataset(const InspectOptions& options) {
  train::find_documents({options.path}, device::Machine::read(), stderr);
  const std::shared_ptr<const data::IndexedDataset> dataset = data::IndexedDataset::open(options.path);
  std::vector<int32_t> lengths(dataset->lengths().begin(), dataset->lengths().end());
  std::sort(lengths.begin(), lengths.end());
  const auto quantile = [&](double q) {
    return lengths.empty() ? 0 : lengths[static_cast<size_t>(q * static_cast<double>(lengths.size() - 1))];
  };
  fmt::print("token dataset {}\n", dataset->prefix().string());
  fmt::print("  documents   {}\n  tokens      {} ({} bytes each)\n", observe::format_integer(dataset->documents()),
             observe::format_integer(dataset->tokens()), data::size_of(dataset->token_type()));
  fmt::print("  length      {} to {} tokens, median {}, 90 % below {}\n", quantile(0), quantile(1), quantile(0.5),
             quantile(0.9));
  if (const auto& note = dataset->note()) {
    fmt::print("  text        {} bytes, {:.3f} per token\n  tokenizer   {} (hash {}), {} ids, end of document {}\n",
               observe::format_integer(note->text_bytes),
               static_cast<double>(note->text_bytes) / static_cast<double>(std::max<int64_t>(note->tokens, 1)),
               note->tokenizer, note->tokenizer_hash, note->vocabulary,
               note->end_of_document < 0 ? "not appended" : std::to_string(note->end_of_document));
  }
  if (const int64_t block = dataset->block(); block > 0) {
    const data::BlocksNote& blocks = dataset->note()->blocks;
    fmt::print("  blocks      each document is {} tokens of one of {} in the corpus; {} filled none ({} shorter)\n",
               block, observe::format_integer(blocks.corpus_documents),
               observe::format_counted(blocks.dropped_tokens, "token"),
               observe::format_counted(blocks.short_documents, "document was", "documents were"));
  }
  if (options.document < 0) return;
  if (options.document >= dataset->documents()) {
    throw Error(fmt::format("--document {}: there are only {}", options.document, dataset->documents()),
                "Documents are counted from 0.");
  }
  std::vector<int32_t> tokens(static_cast<size_t>(dataset->length(options.document)));
  dataset->read(dataset->begin(options.document), tokens, int64_t{1} << 31);
  if (options.tokenizer.empty()) {
    fmt::print("document {}: {}\n", options.document, fmt::join(tokens, " "));
  } else {
    fmt::print("document {}:\n{}\n", options.document, data::Tokenizer::load(options.tokenizer).decode(tokens));
  }
}

// The checkpoints of its run, and those of branches that the run has left.
void list_run(const fs::path& checkpoint) {
  const fs::path parent = checkpoint.parent_path();
  const auto line = [](const std::string& name, const std::vector<checkpoint::CheckpointEntry>& entries) {
    std::vector<int64_t> steps;
    for (const checkpoint::CheckpointEntry& entry : entries) steps.push_back(entry.step);
    if (!steps.empty()) fmt::print("  {:<11} steps {}\n", name, fmt::join(steps, ", "));
  };
  line("saved", checkpoint::run_checkpoints(parent));
  for (const fs::path& aside : checkpoint::branches_aside(parent))
    line(aside.filename().string(), checkpoint::list_checkpoints(aside));
}

// The data that the run was on when it was saved.
void print_order(const train::SampleOrder& order, const train::DatasetList& named) {
  for (size_t i = 0; i < order.train.size(); ++i) {
    const train::SampleOrder::Part& part = order.train[i];
    fmt::print("  data        ");
    if (order.train.size() > 1) fmt::print("{:.1f} % ", 100 * part.weight);
    fmt::print("'{}'", i < named.entries.size() ? named.entries[i].prefix : "");
    if (part.dataset) fmt::print(": {}", data::to_text(*part.dataset));
    if (part.block > 0) fmt::print(", blocks of {}", part.block);
    fmt::print("; documents {} to {} train\n", part.documents.first, part.documents.last - 1);
  }
}

void inspect_model(const InspectOptions& options) {
  const train::ModelSource source = train::ModelSource::open(options.path);
  print_notes(source.notes());
  const model::TransformerConfig& config = source.config();
  fmt::print("{} {}\n", source.is_checkpoint() ? "checkpoint" : "Hugging Face folder", source.folder().string());
  fmt::print("  model       {}: {}, width {}, {}, ffn {}, vocabulary {}, context {}\n  parameters  {}\n", config.family,
             observe::format_counted(config.layers, "layer"), config.width,
             observe::format_counted(config.heads, "head"), config.ffn, config.vocab, config.context,
             observe::format_integer(config.parameters()));
  if (const checkpoint::CheckpointReader* reader = source.reader()) {
    const train::RunState state = train::run_state_from_json(reader->extra(), source.folder().string());
    fmt::print("  step        {}, {} and {} consumed\n", reader->step(),
               observe::format_counted(state.consumed_samples, "sample"),
               observe::format_counted(state.consumed_tokens, "token"));
    if (state.order) print_order(*state.order, train::config_of(state).data.train);
    const checkpoint::Descent& descent = reader->manifest().descent;
    fmt::print("  lineage     branch {}, after {}\n", descent.branch,
               descent.parent ? fmt::format("step {}", *descent.parent) : "the start");
    if (state.evaluation_due) fmt::print("  evaluation  due at this step: a stop came first; --resume makes it up\n");
    if (state.best_validation_loss)
      fmt::print("  best        validation loss {:.4f} nats per token at step {}\n", *state.best_validation_loss,
                 state.best_step);
    for (const auto& file : reader->manifest().files) {
      fmt::print("  file        {}: {} bytes, crc32c {:08x}, verified\n", file.name,
                 observe::format_integer(file.bytes), file.crc32c);
    }
  }
  if (source.is_checkpoint()) list_run(source.folder());
  if (!options.tensors) return;
  observe::Table table(
      {{"tensor", observe::Table::left}, {"shape", observe::Table::left}, {"elements", observe::Table::right}});
  for (const model::Segment& segment : model::declare(config)) {
    for (const model::Tensor& tensor : segment.tensors) {
      table.row(
          {tensor.name, fmt::format("[{}]", fmt::join(tensor.shape, ", ")), observe::format_integer(tensor.count())});
    }
  }
  fmt::print("\n{}", table.text());
}

void inspect_samples(const InspectOptions& options) {
  if (!fs::exists(options.path) && fs::exists(options.path + ".idx")) {
    throw Error(fmt::format("--samples: '{}' is a dataset, which alone has no order of samples", options.path),
                "Name a run's folder or a configuration (FILE.toml).");
  }
  train::list_samples({.path = options.path,
                       .overrides = options.overrides,
                       .ranks = options.ranks,
                       .first = options.first_sample,
                       .count = options.samples},
                      [](const std::string& line) { fmt::print("{}\n", line); });
}

}  // namespace

void add_inspect(const Command& program) {
  const auto options = std::make_shared<InspectOptions>();
  const Command command = program.subcommand("inspect", "Say what a dataset, checkpoint or model folder holds");
  command.footer(
      "Examples:\n"
      "  ridgeline inspect data/pages --document 3 --tokenizer tokenizer\n"
      "  ridgeline inspect runs/first --tensors\n"
      "  ridgeline inspect runs/first --samples 16 --ranks 2     which tokens each rank takes, as lines of JSON");
  command.option("PATH", options->path, "Dataset prefix, checkpoint, run, Hugging Face folder, or any file").required();
  command.flag("--tensors", options->tensors, "Every tensor of a model");
  command.option("--document", options->document, Range{}, "Print this document of a dataset, counted from 0")
      .no_default();
  command.option("--tokenizer", options->tokenizer, "Print it as text with this tokenizer").placeholder("DIR");
  command.option("--samples", options->samples, Range{1}, "Print the first N training samples of a run or a FILE.toml")
      .placeholder("N")
      .no_default();
  command.option("--first-sample", options->first_sample, Range{}, "Begin with this sample, counted from 0");
  command.option("--ranks", options->ranks, Range{1, 1 << 20}, "Ranks that share the samples");
  command.list("--set", options->overrides, "Override a key of FILE.toml; may be given often").placeholder("KEY=VALUE");
  command.action([options] {
    if (options->samples > 0) return inspect_samples(*options);
    if (is_dataset(options->path)) return inspect_dataset(*options);
    if (!fs::exists(options->path)) {
      throw Error(
          fmt::format("'{0}' does not exist, and no dataset either ('{0}.idx')", options->path),
          "Name a dataset without its ending, a run's folder, a checkpoint, a Hugging Face folder, or a file; a "
          "relative path is taken from the current folder.");
    }
    options->path = owner_of(options->path).string();
    if (!train::ModelSource::is_model(options->path) && inspect_file(options->path)) return;
    inspect_model(*options);
  });
}

}  // namespace ridgeline::cli

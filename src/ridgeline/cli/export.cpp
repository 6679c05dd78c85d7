#include "ridgeline/cli/export.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/lock_file.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/failures.h"
#include "ridgeline/data/tokenizer_output.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/train/hugging_face_names.h"
#include "ridgeline/train/model_source.h"
#include "ridgeline/train/run_tokenizer.h"

namespace ridgeline::cli {
namespace {

struct ExportOptions {
  std::string checkpoint, out, tokenizer, dtype = "fp32";
};

void run(const ExportOptions& options) {
  const train::ModelSource source = train::ModelSource::open(options.checkpoint);
  print_notes(source.notes());
  std::vector<std::string> notes;
  const std::optional<data::Tokenizer> tokenizer = source.tokenizer_if_readable(options.tokenizer, notes);
  print_notes(notes);
  // Before the work, not after it.
  const std::vector<std::filesystem::path> inputs = {source.folder()};
  checkpoint::require_replaceable_export(options.out, inputs);
  if (!checkpoint::is_own_export(options.out)) data::require_replaceable_tokenizer(options.out, inputs);
  const auto lock = LockFile::of_folder(options.out, fmt::format("the model in '{}'", options.out), "ridgeline export");
  checkpoint::ExportOptions settings;
  settings.dtype = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  settings.config = model::to_hugging_face(source.config());
  // Theirs may have several rates where ours has one.
  for (const auto& [name, rate] : source.dropout_rates()) settings.config[name] = rate;
  settings.config["torch_dtype"] = options.dtype == "bf16" ? "bfloat16" : "float32";
  const nlohmann::json model_config =
      source.is_checkpoint() ? nlohmann::json() : checkpoint::read_config(source.folder());
  data::TokenizerFiles files = tokenizer ? tokenizer->files(source.config().context) : source.tokenizer_files();
  const train::ExportedIds ids =
      train::exported_ids(files, tokenizer, source.end_of_document(), model_config, source.config().vocab);
  train::set_ids(settings.config, ids);
  settings.generation_config = train::generation_config(files, ids);
  files.set("generation_config.json", json_text(settings.generation_config, 2) + "\n");
  files.require_room(options.out);
  std::map<std::string, std::vector<int64_t>, std::less<>> shapes;
  for (const model::Segment& segment : model::declare(source.config())) {
    for (const model::Tensor& tensor : segment.tensors) shapes[tensor.name] = tensor.shape;
  }
  observe::Progress progress({.label = "export", .unit = "bytes", .output = stderr});
  checkpoint::export_hugging_face(
      options.out, train::hugging_face_names(source.config()),
      [&](std::string_view name, int64_t first, int64_t count, Ref destination) {
        source.read(name, shapes.find(name)->second, first, count, destination);
      },
      settings, [&](int64_t done, int64_t) { progress.update(done); });
  progress.finish();
  files.write(options.out);
  fmt::print("'{}' holds a Hugging Face {} model{}\n", options.out, source.config().family,
             tokenizer ? " and its tokenizer" : "; no tokenizer was known (--tokenizer)");
}

}  // namespace

void add_export(const Command& program) {
  const auto options = std::make_shared<ExportOptions>();
  const Command command = program.subcommand("export", "Write a model as a Hugging Face folder");
  command.footer(
      "Writes model.safetensors (shards past 5 GB), config.json, generation_config.json and the tokenizer. An earlier\n"
      "export is replaced, files of others are not.\n\n"
      "Examples:\n"
      "  ridgeline export --checkpoint runs/first --out exported\n"
      "  python -c 'from transformers import pipeline; print(pipeline(\"text-generation\", \"exported\")(\"The "
      "file\"))'");
  command
      .option("--checkpoint", options->checkpoint,
              "A checkpoint, a run's folder (its newest), or a Hugging Face folder")
      .required()
      .placeholder("DIR");
  command.option("--out", options->out, "Folder to write").required().placeholder("DIR");
  command.option("--tokenizer", options->tokenizer, "When the model has none beside it").placeholder("DIR");
  command.choice("--dtype", options->dtype, {"fp32", "bf16"}, "Of the weights");
  command.action([options] { run(*options); });
}

}  // namespace ridgeline::cli

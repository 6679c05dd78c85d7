#include "ridgeline/train/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/train/hugging_face_names.h"

namespace ridgeline::train {
namespace {

using parallel::BufferKind;
using parallel::ElementRange;
using parallel::Executor;

struct Part {
  BufferKind kind;
  std::string_view prefix;  // of the tensors' names in the file
};
constexpr Part kParts[] = {
    {BufferKind::master, ""}, {BufferKind::moment1, "adam.moment1."}, {BufferKind::moment2, "adam.moment2."}};

checkpoint::FileLayout state_layout(const Executor& executor) {
  std::vector<checkpoint::TensorSpec> specs;
  for (const Part& part : kParts) {
    const DType dtype = executor.state_dtype(part.kind);
    // As declared: files do not depend on how units are cut.
    for (const model::Segment& segment : model::declare(executor.run_shape().config)) {
      for (const model::Tensor& tensor : segment.tensors)
        specs.push_back({std::string(part.prefix) + tensor.name, dtype, tensor.shape});
    }
  }
  return checkpoint::plan_layout(std::move(specs), {.stem = "state"});
}

// Runs `body` on the ranks that are to run it; when it throws anywhere, every rank throws that failure.
template <typename F>
void together(comm::Communicator& communicator, bool mine, const char* what, F&& body) {
  int64_t failed = 0;
  std::exception_ptr failure;
  try {
    if (mine) body();
  } catch (...) {
    failed = 1;
    failure = std::current_exception();
  }
  if (communicator.size() > 1) {
    communicator.wait(communicator.all_reduce(Ref(&failed), 1, comm::ReduceOp::sum, {what, -1, -1}));
  }
  if (failure) std::rethrow_exception(failure);
  if (failed == 0) return;
  // The rank that knows what happened is about to say so, which ends this wait.
  communicator.wait(communicator.barrier({what, -1, -1}));
  throw Error(fmt::format("another rank failed: {}", what));
}

std::vector<checkpoint::Piece> gather_pieces(comm::Communicator& communicator,
                                             const std::vector<checkpoint::Piece>& mine) {
  if (communicator.size() == 1) return mine;
  int64_t most = static_cast<int64_t>(mine.size());
  communicator.wait(
      communicator.all_reduce(Ref(&most), 1, comm::ReduceOp::max, {"number of pieces of a checkpoint", -1, -1}));
  const int64_t words = 1 + most * static_cast<int64_t>(sizeof(checkpoint::Piece) / sizeof(int64_t));
  std::vector<int64_t> all(static_cast<size_t>(words * communicator.size()));
  int64_t* const own = all.data() + words * communicator.rank();
  own[0] = static_cast<int64_t>(mine.size());
  if (!mine.empty()) std::memcpy(own + 1, mine.data(), mine.size() * sizeof(checkpoint::Piece));
  communicator.wait(communicator.all_gather(Ref(all.data()), words, {"pieces of a checkpoint", -1, -1}));
  std::vector<checkpoint::Piece> pieces;
  for (int rank = 0; rank < communicator.size(); ++rank) {
    const int64_t* const theirs = all.data() + words * rank;
    const size_t before = pieces.size();
    pieces.resize(before + static_cast<size_t>(theirs[0]));
    if (theirs[0] > 0)
      std::memcpy(static_cast<void*>(pieces.data() + before), theirs + 1,
                  static_cast<size_t>(theirs[0]) * sizeof(checkpoint::Piece));
  }
  return pieces;
}

void put_evaluation(nlohmann::json& json, const RunState& state) {
  json["best_validation_loss"] =
      state.best_validation_loss ? nlohmann::json(*state.best_validation_loss) : nlohmann::json();
  json["best_step"] = state.best_step;
  json["evaluation_due"] = state.evaluation_due;
}

}  // namespace

nlohmann::json to_json(const RunState& state, const model::TransformerConfig& config) {
  nlohmann::json json;
  json["model"] = model::to_json(config);
  json["consumed_samples"] = state.consumed_samples;
  json["consumed_tokens"] = state.consumed_tokens;
  json["successful_steps"] = state.successful_steps;
  json["successful_samples"] = state.successful_samples;
  json["loss_scale"] = state.loss_scale;
  put_evaluation(json, state);
  if (state.order) json["sample_order"] = to_json(*state.order);
  json["config"] = state.config;
  json["end_of_document"] = state.end_of_document ? nlohmann::json(*state.end_of_document) : nlohmann::json();
  return json;
}

RunState run_state_from_json(const nlohmann::json& json, std::string_view where) {
  try {
    RunState state;
    state.consumed_samples = json.at("consumed_samples").get<int64_t>();
    state.consumed_tokens = json.at("consumed_tokens").get<int64_t>();
    // Before there was fp16 no step was skipped; load_state() knows how many there were.
    state.successful_steps = json.value("successful_steps", int64_t{0});
    state.successful_samples = json.value("successful_samples", state.consumed_samples);
    state.loss_scale = json.value("loss_scale", nlohmann::json());
    if (!json.at("best_validation_loss").is_null())
      state.best_validation_loss = json.at("best_validation_loss").get<double>();
    state.best_step = json.at("best_step").get<int64_t>();
    state.evaluation_due = json.value("evaluation_due", false);
    if (json.contains("sample_order")) state.order = sample_order_from_json(json.at("sample_order"), where);
    state.config = json.at("config").get<std::string>();
    // The text of tokenizer.json stood here before the files lay beside the manifest.
    if (const std::string text = json.value("tokenizer", ""); !text.empty())
      state.tokenizer.set("tokenizer.json", text);
    if (const auto end = json.find("end_of_document"); end != json.end() && !end->is_null())
      state.end_of_document = end->get<int32_t>();
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw Error(
        fmt::format("'{}' does not hold what a run needs to go on: {}", where, error.what()),
        "Resume with the version of Ridgeline that wrote it, or start a new run from its weights: export it and "
        "name the folder with train.init_from.");
  }
}

data::TokenizerFiles tokenizer_of(const checkpoint::CheckpointReader& reader, const std::filesystem::path& folder) {
  data::TokenizerFiles files;
  for (const checkpoint::Manifest::FileRecord& file : reader.manifest().files) {
    if (data::TokenizerFiles::is_one(file.name)) files.set(file.name, read_text(folder / file.name));
  }
  return files.empty() ? run_state_from_json(reader.extra(), folder.string()).tokenizer : files;
}

model::TransformerConfig model_config_of(const nlohmann::json& extra, std::string_view where) {
  if (!extra.is_object() || !extra.contains("model")) {
    throw Error(fmt::format("'{}' does not say which model it holds", where),
                "Name a checkpoint that `ridgeline train` wrote.");
  }
  return model::from_json(extra.at("model"), where);
}

std::filesystem::path save_state(Executor& executor, const std::filesystem::path& parent, const RunState& state,
                                 const std::function<void()>& before_commit) {
  comm::Communicator& ranks = executor.ranks();
  const bool first_rank = ranks.rank() == 0;
  checkpoint::CheckpointWriter writer(parent, state.step, state_layout(executor));
  try {
    together(ranks, first_rank, "create a checkpoint", [&] { writer.create(); });
    std::vector<checkpoint::Piece> pieces;
    together(ranks, true, "write a checkpoint", [&] {
      for (const Part& part : kParts) {
        for (size_t i = 0; i < executor.segments().size(); ++i) {
          const int segment = static_cast<int>(i);
          if (!executor.segments()[i].here || !executor.segments()[i].counts) continue;
          const ElementRange piece = executor.piece(segment);
          executor.visit(part.kind, segment, piece, [&](int64_t first, int64_t elements, ConstRef values) {
            model::for_each_tensor_range(executor.segments()[i], first, first + elements,
                                         [&](const model::Tensor& tensor, int64_t at, int64_t count, int64_t offset) {
                                           writer.write_range(std::string(part.prefix) + tensor.name, at, count,
                                                              values.at(offset - first));
                                         });
          });
        }
      }
      pieces = writer.finish();
    });
    const std::vector<checkpoint::Piece> all = gather_pieces(ranks, pieces);
    together(ranks, first_rank, "complete a checkpoint", [&] {
      if (before_commit) before_commit();
      writer.commit(all, to_json(state, executor.run_shape().config), state.descent, state.tokenizer.all());
    });
  } catch (...) {
    if (first_rank) writer.abort();
    throw;
  }
  return writer.folder();
}

RunState load_state(Executor& executor, const std::filesystem::path& folder) {
  const checkpoint::CheckpointReader reader(folder);
  for (const Part& part : kParts) {
    if (part.kind != BufferKind::master && !executor.run_shape().training) continue;
    executor.fill(part.kind, [&](const model::Tensor& tensor, int64_t first, int64_t count, float* values) {
      reader.read_range(std::string(part.prefix) + tensor.name, tensor.shape, first, count, Ref(values));
    });
  }
  RunState state = run_state_from_json(reader.extra(), folder.string());
  state.step = reader.step();
  if (!reader.extra().contains("successful_steps")) state.successful_steps = state.step;
  state.descent = reader.manifest().descent;
  state.tokenizer = tokenizer_of(reader, folder);
  return state;
}

void save_evaluation(const std::filesystem::path& folder, const RunState& state) {
  const std::filesystem::path path = folder / checkpoint::kManifestName;
  nlohmann::json extra = checkpoint::parse_manifest(read_text(path), path.string()).extra;
  put_evaluation(extra, state);
  checkpoint::replace_extra(folder, std::move(extra));
}

void load_hugging_face(Executor& executor, const std::filesystem::path& folder) {
  const checkpoint::HuggingFaceModel source(folder, hugging_face_names(executor.run_shape().config));
  executor.fill(BufferKind::master, [&](const model::Tensor& tensor, int64_t first, int64_t count, float* values) {
    source.read_range(tensor.name, first, count, Ref(values));
  });
}

void initialize(Executor& executor, uint64_t seed) {
  executor.fill(BufferKind::master, [seed](const model::Tensor& tensor, int64_t first, int64_t count, float* values) {
    model::initial_values(tensor, seed, first, count, values);
  });
}

}  // namespace ridgeline::train

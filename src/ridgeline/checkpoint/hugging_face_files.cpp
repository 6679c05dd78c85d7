// Which files of a Hugging Face folder hold its weights.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/checkpoint/safetensors.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Weights in a form that is not read: how such a file's name begins and ends, and the Python that converts the folder
// `d` (of the file `f`); empty where no line does.
struct OtherForm {
  std::string_view begins, ends, name, python;
};
constexpr std::string_view kResave =
    "from transformers import AutoModelForCausalLM as M; M.from_pretrained(d, torch_dtype='auto').save_pretrained(d)";
constexpr std::array<OtherForm, 8> kOtherForms = {
    {{"pytorch_model", ".bin", "PyTorch's pickles", kResave},
     {"pytorch_model.bin", ".index.json", "PyTorch's pickles", kResave},
     {"adapter_model", "", "an adapter, which changes another model",
      "from peft import AutoPeftModelForCausalLM as M; M.from_pretrained(d).merge_and_unload().save_pretrained(d + "
      "'-merged')"},
     {"", ".gguf", "GGUF",
      "from transformers import AutoModelForCausalLM as M; M.from_pretrained(d, gguf_file=f).save_pretrained(d)"},
     {"", ".pth", "PyTorch's pickles", ""},
     {"", ".pt", "PyTorch's pickles", ""},
     {"tf_model", ".h5", "TensorFlow", ""},
     {"flax_model", ".msgpack", "Flax", ""}}};

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\'' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

[[noreturn]] void refuse(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored))
    names.insert(entry.path().filename().string());
  const std::string neither =
      fmt::format("'{}' has neither {} nor {}", folder.string(), kHuggingFaceWeights, kHuggingFaceIndex);
  for (const OtherForm& form : kOtherForms) {
    const auto file = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
      return name.starts_with(form.begins) && name.ends_with(form.ends);
    });
    if (file == names.end()) continue;
    throw Error(fmt::format("{}; its weights are in '{}' ({})", neither, *file, form.name),
                form.python.empty() ? "Convert them to safetensors with the tool that wrote them."
                                    : fmt::format("Convert them once: python3 -c \"d, f = '{}', '{}'; {}\"",
                                                  escaped(folder.string()), escaped(*file), form.python));
  }
  throw Error(neither, "Give a folder that holds a model in safetensors form.");
}

// {tensor: file} of an index, checked as far as it can be without the files.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const auto bad = [&](std::string_view what) {
    return Error(fmt::format("'{}' is no sound index of safetensors files: {}", path.string(), what),
                 "The file is damaged; get it again or use another one.");
  };
  std::map<std::string, std::string> result;
  const MappedFile file(path, MappedFile::Access::sequential);
  json index;
  try {
    index = parse_shallow_json(file.text(), 8);
  } catch (const std::exception&) {
    throw bad("it is no JSON");
  }
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw bad("it has no \"weight_map\"");
  }
  for (const auto& [tensor, name] : index["weight_map"].items()) {
    if (!name.is_string()) throw bad(fmt::format("the file of '{}' is no text", tensor));
    const std::string text = name.get<std::string>();
    if (text.empty() || text.find('/') != std::string::npos || text == "." || text == "..") {
      throw bad(fmt::format("the file of '{}' is '{}', outside this folder", tensor, text));
    }
    result.emplace(tensor, text);
  }
  return result;
}

// How an index beside a single file contradicts it; empty when it does not.
std::string disagreement(const fs::path& index_path, const TensorFolder& single) {
  std::map<std::string, std::string> weight_map;
  try {
    weight_map = read_index(index_path);
  } catch (const Error& error) {
    return error.message();
  }
  for (const auto& [tensor, name] : weight_map) {
    if (name != kHuggingFaceWeights) return fmt::format("{} names other files ('{}')", kHuggingFaceIndex, name);
    if (single.find(tensor).file == nullptr)
      return fmt::format("{} names a tensor that is not in it ('{}')", kHuggingFaceIndex, tensor);
  }
  return {};
}

}  // namespace

TensorFolder TensorFolder::open_hugging_face(const fs::path& folder) {
  const fs::path index_path = folder / kHuggingFaceIndex;
  const fs::path single = folder / kHuggingFaceWeights;
  std::error_code ignored;
  const bool indexed = fs::exists(index_path, ignored);
  if (fs::exists(single, ignored)) {
    TensorFolder result = open_file(single);
    if (const std::string what = indexed ? disagreement(index_path, result) : ""; !what.empty()) {
      result.notes_.push_back(fmt::format("'{}': {} is read, as transformers does, although {}", folder.string(),
                                          kHuggingFaceWeights, what));
    }
    return result;
  }
  if (!indexed) refuse(folder);
  const std::map<std::string, std::string> weight_map = read_index(index_path);
  std::vector<fs::path> files;
  for (const auto& [tensor, name] : weight_map) files.push_back(folder / name);
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  TensorFolder result = open_files(std::move(files));
  result.where_ = folder.string();
  for (const auto& [tensor, name] : weight_map) {
    const Place place = result.find(tensor);
    if (place.file == nullptr || place.file->path() != folder / name) {
      throw Error(
          fmt::format("'{}' says that tensor '{}' is in '{}', but it is not", index_path.string(), tensor, name),
          "The index belongs to other files; get the folder again.");
    }
  }
  return result;
}

}  // namespace ridgeline::checkpoint

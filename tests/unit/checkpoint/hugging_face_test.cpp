#include "ridgeline/checkpoint/hugging_face.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "ridgeline/base/error.h"
#include "support.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// NOLINTBEGIN(readability-identifier-naming): sizes have the letters of HACKING.md
// The sizes of the reference models.
struct Sizes {
  int64_t C, H, D, F, V = 331, T = 32, L = 3;
};
constexpr Sizes kGpt2{48, 4, 12, 192};

std::vector<TensorSpec> gpt2_tensors(const Sizes& s) {
  std::vector<TensorSpec> tensors{{"wte", DType::f32, {s.V, s.C}}, {"wpe", DType::f32, {s.T, s.C}}};
  for (int64_t i = 0; i < s.L; ++i) {
    const auto add = [&](const char* name, Shape shape) {
      tensors.push_back({fmt::format("block.{}.{}", i, name), DType::f32, std::move(shape)});
    };
    add("norm1.weight", {s.C});
    add("norm1.bias", {s.C});
    add("qkv.weight", {3, s.H, s.D, s.C});
    add("qkv.bias", {3, s.H, s.D});
    add("out.weight", {s.H, s.D, s.C});
    add("out.bias", {s.C});
    add("norm2.weight", {s.C});
    add("norm2.bias", {s.C});
    add("fc.weight", {s.F, s.C});
    add("fc.bias", {s.F});
    add("proj.weight", {s.F, s.C});
    add("proj.bias", {s.C});
  }
  tensors.push_back({"final.weight", DType::f32, {s.C}});
  tensors.push_back({"final.bias", DType::f32, {s.C}});
  return tensors;
}

NameTable gpt2_table(const Sizes& s = kGpt2) {
  const std::vector<Rule> rules = {{"wte", {"transformer.wte.weight"}, Form::matrix},
                                   {"wpe", {"transformer.wpe.weight"}, Form::matrix},
                                   {"block.{i}.norm1.weight", {"transformer.h.{i}.ln_1.weight"}, Form::vector},
                                   {"block.{i}.norm1.bias", {"transformer.h.{i}.ln_1.bias"}, Form::vector},
                                   {"block.{i}.qkv.weight", {"transformer.h.{i}.attn.c_attn.weight"}, Form::transposed},
                                   {"block.{i}.qkv.bias", {"transformer.h.{i}.attn.c_attn.bias"}, Form::vector},
                                   {"block.{i}.out.weight", {"transformer.h.{i}.attn.c_proj.weight"}, Form::matrix},
                                   {"block.{i}.out.bias", {"transformer.h.{i}.attn.c_proj.bias"}, Form::vector},
                                   {"block.{i}.norm2.weight", {"transformer.h.{i}.ln_2.weight"}, Form::vector},
                                   {"block.{i}.norm2.bias", {"transformer.h.{i}.ln_2.bias"}, Form::vector},
                                   {"block.{i}.fc.weight", {"transformer.h.{i}.mlp.c_fc.weight"}, Form::transposed},
                                   {"block.{i}.fc.bias", {"transformer.h.{i}.mlp.c_fc.bias"}, Form::vector},
                                   {"block.{i}.proj.weight", {"transformer.h.{i}.mlp.c_proj.weight"}, Form::matrix},
                                   {"block.{i}.proj.bias", {"transformer.h.{i}.mlp.c_proj.bias"}, Form::vector},
                                   {"final.weight", {"transformer.ln_f.weight"}, Form::vector},
                                   {"final.bias", {"transformer.ln_f.bias"}, Form::vector}};
  NameTable table;
  table.tensors = expand(rules, gpt2_tensors(s));
  table.optional_prefix = "transformer.";
  table.ignored = {"lm_head.weight", "h.*.attn.bias", "h.*.attn.masked_bias"};
  return table;
}

std::vector<float> whole(const HuggingFaceModel& model, const Mapping& mapping) {
  std::vector<float> values(static_cast<size_t>(element_count(mapping.shape)));
  model.read_range(mapping.name, 0, static_cast<int64_t>(values.size()), values.data());
  return values;
}

std::vector<float> theirs(const TensorFolder& files, std::string_view name) {
  std::vector<float> values(static_cast<size_t>(files.at(name).tensor->count));
  files.read_range(name, 0, static_cast<int64_t>(values.size()), values.data());
  return values;
}

TensorSource source_of(const HuggingFaceModel& model) {
  return [&](std::string_view name, int64_t first, int64_t count, Ref destination) {
    model.read_range(name, first, count, destination);
  };
}

const Mapping& mapping_of(const NameTable& table, std::string_view name) {
  for (const Mapping& mapping : table.tensors) {
    if (mapping.name == name) return mapping;
  }
  throw Error("no such mapping");
}

TEST(StridedReads, TileEveryRangeOfEveryForm) {
  std::mt19937 random(3);
  const std::vector<Mapping> mappings = {
      mapping_of(gpt2_table({6, 2, 3, 8, 11, 5, 1}), "block.0.qkv.weight"),
      {"per head", {3, 2, 4, 5}, {{"x", {24, 5}, {2, 3, 4, 5}, 0, 0, -1, {1, 0, 2, 3}}}},
      {"apart", {3, 2, 4, 5}, {{"q", {8, 5}}, {"k", {8, 5}}, {"v", {8, 5}}}},
      {"slice", {4, 5}, {{"fused", {12, 5}, {}, 0, 3, 7}}},
      {"columns", {5, 4}, {{"fused", {12, 5}, {}, 0, 3, 7, {1, 0}}}},
      // Rotary halves against pairs: [H][D/2][2][C] from [H][2][D/2][C].
      {"rotary", {2, 6, 5}, {{"x", {12, 5}, {2, 2, 3, 5}, 0, 0, -1, {0, 2, 1, 3}}}},
      {"scalar", {}, {{"x", {}}}},
  };
  for (const Mapping& mapping : mappings) {
    const int64_t count = element_count(mapping.shape);
    // All places, element by element, from the definition: the whole in one go is checked below against values.
    std::vector<std::pair<int, int64_t>> places;
    for (const StridedRead& read : strided_reads(mapping, 0, count)) {
      ASSERT_EQ(read.ours, static_cast<int64_t>(places.size()));
      for (int64_t r = 0; r < read.rows; ++r) {
        for (int64_t c = 0; c < read.columns; ++c) {
          places.emplace_back(read.block, read.start + r * read.row_stride + c * read.column_stride);
        }
      }
    }
    ASSERT_EQ(static_cast<int64_t>(places.size()), count) << mapping.name;
    auto sorted = places;
    std::sort(sorted.begin(), sorted.end());
    ASSERT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end()) << mapping.name;
    for (int64_t first = 0; first <= count; ++first) {
      for (int64_t last = first; last <= count; ++last) {
        int64_t next = first;
        for (const StridedRead& read : strided_reads(mapping, first, last - first)) {
          ASSERT_EQ(read.ours, next);
          for (int64_t i = 0; i < read.rows * read.columns; ++i, ++next) {
            const int64_t at = read.start + i / read.columns * read.row_stride + i % read.columns * read.column_stride;
            ASSERT_EQ((std::pair<int, int64_t>(read.block, at)), places[static_cast<size_t>(next)]) << mapping.name;
          }
        }
        ASSERT_EQ(next, last);
      }
    }
  }
}

TEST(HuggingFace, Gpt2MatricesLieAsDeclared) {
  const HuggingFaceModel model(kReference / "gpt2", gpt2_table());
  const auto [C, H, D, F, V, T, L] = kGpt2;
  // ours[q|k|v][h][d][c] = theirs[c][q|k|v, h, d]
  const auto qkv = whole(model, mapping_of(model.table(), "block.1.qkv.weight"));
  const auto c_attn = theirs(model.files(), "transformer.h.1.attn.c_attn.weight");
  for (int64_t row = 0; row < 3 * C; ++row) {
    for (int64_t c = 0; c < C; ++c) ASSERT_EQ(qkv[row * C + c], c_attn[c * 3 * C + row]);
  }
  const auto fc = whole(model, mapping_of(model.table(), "block.2.fc.weight"));
  const auto c_fc = theirs(model.files(), "transformer.h.2.mlp.c_fc.weight");
  for (int64_t f = 0; f < F; ++f) {
    for (int64_t c = 0; c < C; ++c) ASSERT_EQ(fc[f * C + c], c_fc[c * F + f]);
  }
  EXPECT_EQ(whole(model, mapping_of(model.table(), "block.0.out.weight")),
            theirs(model.files(), "transformer.h.0.attn.c_proj.weight"));
  EXPECT_EQ(whole(model, mapping_of(model.table(), "block.0.proj.weight")),
            theirs(model.files(), "transformer.h.0.mlp.c_proj.weight"));
  EXPECT_EQ(whole(model, mapping_of(model.table(), "wte")), theirs(model.files(), "transformer.wte.weight"));
}

TEST(HuggingFace, ShardsEqualPartsOfTheWhole) {
  const HuggingFaceModel model(kReference / "gpt2", gpt2_table());
  std::mt19937 random(5);
  for (const Mapping& mapping : model.table().tensors) {
    const std::vector<float> all = whole(model, mapping);
    const auto count = static_cast<int64_t>(all.size());
    for (int trial = 0; trial < 20; ++trial) {
      const int64_t first = static_cast<int64_t>(random() % static_cast<uint64_t>(count));
      const int64_t length = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(count - first));
      std::vector<float> part(static_cast<size_t>(length));
      model.read_range(mapping.name, first, length, part.data());
      ASSERT_EQ(std::memcmp(part.data(), all.data() + first, static_cast<size_t>(length) * 4), 0) << mapping.name;
      std::vector<bf16> narrow(static_cast<size_t>(length));
      model.read_range(mapping.name, first, length, narrow.data());
      for (size_t i = 0; i < part.size(); ++i) ASSERT_EQ(narrow[i].bits, bf16(part[i]).bits);
    }
  }
}

TEST(HuggingFace, ImportExportImportIsBitwise) {
  const TemporaryFolder folder;
  const HuggingFaceModel original(kReference / "gpt2", gpt2_table());
  ExportOptions options;
  options.config = read_config(kReference / "gpt2");
  int64_t done = 0, total = -1;
  export_hugging_face(folder.path(), gpt2_table(), source_of(original), options, [&](int64_t d, int64_t t) {
    EXPECT_GT(d, done);
    done = d;
    total = t;
  });
  EXPECT_EQ(done, total);
  const HuggingFaceModel again(folder.path(), gpt2_table());
  for (const Mapping& mapping : again.table().tensors) {
    EXPECT_EQ(std::memcmp(whole(original, mapping).data(), whole(again, mapping).data(),
                          static_cast<size_t>(element_count(mapping.shape)) * 4),
              0)
        << mapping.name;
  }
  // And against the file of others, tensor by tensor.
  ASSERT_EQ(original.files().tensors().size(), again.files().tensors().size());
  for (const TensorFolder::Place& place : original.files().tensors()) {
    const TensorFolder::Place mine = again.files().at(place.tensor->name);
    EXPECT_EQ(mine.tensor->shape, place.tensor->shape);
    const auto a = place.file->bytes(*place.tensor), b = mine.file->bytes(*mine.tensor);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << place.tensor->name;
  }
  nlohmann::json marked = read_config(kReference / "gpt2");
  marked["written_by"] = "ridgeline";
  EXPECT_EQ(read_config(folder.path()), marked);
  // What it wrote may be replaced, what others wrote may not.
  EXPECT_TRUE(is_own_export(folder.path()));
  EXPECT_NO_THROW(require_replaceable_export(folder.path(), {}));
  EXPECT_THROW(require_replaceable_export(folder.path(), std::vector<fs::path>{folder.path() / "."}), Error);
  EXPECT_FALSE(is_own_export(kReference / "gpt2"));
  EXPECT_THROW(require_replaceable_export(kReference / "gpt2", {}), Error);
  EXPECT_EQ(nlohmann::json::parse(read_text(folder.path() / "generation_config.json")).at("eos_token_id"), 50256);

  // Again in parts, over the first: no file of the first is left to be taken for part of it.
  options.max_file_bytes = 100'000;
  options.dtype = DType::bf16;
  export_hugging_face(folder.path(), gpt2_table(), source_of(original), options);
  EXPECT_FALSE(fs::exists(folder.path() / "model.safetensors"));
  EXPECT_TRUE(fs::exists(folder.path() / "model.safetensors.index.json"));
  const HuggingFaceModel parts(folder.path(), gpt2_table());
  EXPECT_EQ(parts.files().at("transformer.wte.weight").tensor->type, "BF16");
  const auto wide = whole(original, mapping_of(gpt2_table(), "block.1.qkv.weight"));
  const auto narrow = whole(parts, mapping_of(gpt2_table(), "block.1.qkv.weight"));
  for (size_t i = 0; i < wide.size(); ++i) ASSERT_EQ(narrow[i], static_cast<float>(bf16(wide[i])));
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path())) {
    EXPECT_THAT(entry.path().string(), Not(HasSubstr(".tmp")));
  }
  options.max_file_bytes = 5'000'000'000;
  export_hugging_face(folder.path(), gpt2_table(), source_of(original), options);
  EXPECT_FALSE(fs::exists(folder.path() / "model.safetensors.index.json"));
  EXPECT_EQ(HuggingFaceModel(folder.path(), gpt2_table()).files().tensors().size(), parts.files().tensors().size());
}

// A file with the reference's tensors under changed names and with more of them.
void rewrite(const fs::path& path, const std::function<std::string(std::string)>& rename,
             const std::vector<TensorSpec>& more = {}) {
  const TensorFolder original = TensorFolder::open_hugging_face(kReference / "gpt2");
  std::vector<TensorSpec> specs;
  std::vector<const TensorFolder::Place*> places;
  for (const TensorFolder::Place& place : original.tensors()) {
    const std::string name = rename(place.tensor->name);
    if (name.empty()) continue;
    specs.push_back({name, DType::f32, place.tensor->shape});
    places.push_back(&place);
  }
  specs.insert(specs.end(), more.begin(), more.end());
  const FileLayout layout = plan_layout(specs);
  File file(path, File::Mode::create);
  file.resize(layout.files[0].size);
  file.write_at(0, bytes_of(std::string_view(layout.files[0].head)));
  for (size_t i = 0; i < places.size(); ++i) {
    const auto bytes = places[i]->file->bytes(*places[i]->tensor);
    write_range(layout, file, static_cast<int>(i), 0, places[i]->tensor->count, ConstRef(bytes.data(), DType::f32));
  }
}

std::string refusal(const fs::path& path) {
  try {
    const HuggingFaceModel model(path, gpt2_table());
  } catch (const Error& error) {
    return error.message();
  }
  return "accepted";
}

TEST(HuggingFace, NamesMatchWithoutPrefixAndBuffersAreIgnored) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model.safetensors";
  rewrite(path, [](const std::string& name) { return name.substr(12); },
          {{"h.0.attn.bias", DType::u8, {1, 1, 32, 32}},
           {"h.2.attn.masked_bias", DType::f32, {}},
           {"lm_head.weight", DType::f32, {331, 48}}});
  const HuggingFaceModel plain(path, gpt2_table());
  const HuggingFaceModel original(kReference / "gpt2", gpt2_table());
  for (const Mapping& mapping : plain.table().tensors) EXPECT_EQ(whole(plain, mapping), whole(original, mapping));
}

TEST(HuggingFace, ListsMissingUnknownAndDifferentTensors) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model.safetensors";
  rewrite(path, [](const std::string& name) { return name.find("ln_f") != std::string::npos ? "" : name; },
          {{"transformer.h.0.adapter.weight", DType::f32, {3}}});
  EXPECT_THAT(refusal(path), AllOf(HasSubstr(path.string()), HasSubstr("missing: transformer.ln_f.weight, "),
                                   HasSubstr("unknown: transformer.h.0.adapter.weight")));
  rewrite(path, [](const std::string& name) { return name == "transformer.wpe.weight" ? "" : name; },
          {{"transformer.wpe.weight", DType::f32, {48, 32}}});
  EXPECT_THAT(refusal(path), HasSubstr("transformer.wpe.weight is [48, 32], expected [32, 48]"));
  rewrite(path, [](const std::string& name) { return name == "transformer.wpe.weight" ? "" : name; },
          {{"transformer.wpe.weight", DType::i32, {32, 48}}});
  EXPECT_THAT(refusal(path), HasSubstr("I32"));
  rewrite(path, [](const std::string& name) { return name; }, {{"wpe.weight", DType::f32, {32, 48}}});
  EXPECT_THAT(refusal(path), HasSubstr("both"));
  // Many are cut short.
  rewrite(path, [](const std::string& name) { return "x." + name; });
  EXPECT_THAT(refusal(path), HasSubstr("more"));
}

TEST(HuggingFace, OtherFamiliesFitTheSameTable) {
  // LLaMA: q, k, v and gate, up apart; Linear matrices [out, in] against our [in][out].
  const int64_t C = 64, D = 16, F = 176;
  std::vector<TensorSpec> ours;
  for (int i = 0; i < 3; ++i) {
    ours.push_back({fmt::format("block.{}.gate_up", i), DType::f32, {2, F, C}});
    ours.push_back({fmt::format("block.{}.down", i), DType::f32, {F, C}});
    ours.push_back({fmt::format("block.{}.kv", i), DType::f32, {2, 1, D, C}});
  }
  const std::vector<Rule> rules = {
      {"block.{i}.gate_up",
       {"model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight"},
       Form::matrix},
      {"block.{i}.down", {"model.layers.{i}.mlp.down_proj.weight"}, Form::transposed},
      {"block.{i}.kv",
       {"model.layers.{i}.self_attn.k_proj.weight", "model.layers.{i}.self_attn.v_proj.weight"},
       Form::matrix}};
  NameTable table{expand(rules, ours), "", {"*norm.weight", "*q_proj.weight", "*o_proj.weight", "lm_head*", "*embed*"}};
  const HuggingFaceModel llama(kReference / "llama", table);
  const auto gate_up = whole(llama, mapping_of(table, "block.1.gate_up"));
  const auto up = theirs(llama.files(), "model.layers.1.mlp.up_proj.weight");
  EXPECT_TRUE(std::equal(up.begin(), up.end(), gate_up.begin() + F * C));
  const auto down = whole(llama, mapping_of(table, "block.2.down"));
  const auto down_proj = theirs(llama.files(), "model.layers.2.mlp.down_proj.weight");
  for (int64_t f = 0; f < F; ++f) {
    for (int64_t c = 0; c < C; ++c) ASSERT_EQ(down[f * C + c], down_proj[c * F + f]);
  }

  // GPT-NeoX: query_key_value [head][q, k, v][d] against ours [q, k, v][head][d]; and back.
  const auto config = read_config(kReference / "gpt_neox");
  const int64_t H = config.at("num_attention_heads"), E = config.at("hidden_size").get<int64_t>() / H;
  const std::vector<Rule> neox = {
      {"b{i}.w", {"gpt_neox.layers.{i}.attention.query_key_value.weight"}, Form::per_head_matrix},
      {"b{i}.b", {"gpt_neox.layers.{i}.attention.query_key_value.bias"}, Form::per_head_vector}};
  const std::vector<TensorSpec> parts{{"b1.w", DType::f32, {3, H, E, H * E}}, {"b1.b", DType::f32, {3, H, E}}};
  NameTable fused{expand(neox, parts), "gpt_neox.", {"*"}};
  const HuggingFaceModel model(kReference / "gpt_neox", fused);
  const auto bias = whole(model, fused.tensors[1]);
  const auto their_bias = theirs(model.files(), "gpt_neox.layers.1.attention.query_key_value.bias");
  for (int64_t p = 0; p < 3; ++p) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t d = 0; d < E; ++d) ASSERT_EQ(bias[(p * H + h) * E + d], their_bias[(h * 3 + p) * E + d]);
    }
  }
  const TemporaryFolder folder;
  ExportOptions options;
  options.config = config;
  export_hugging_face(folder.path(), fused, source_of(model), options);
  const TensorFolder back = TensorFolder::open_hugging_face(folder.path());
  for (const char* name : {"weight", "bias"}) {
    const std::string full = fmt::format("gpt_neox.layers.1.attention.query_key_value.{}", name);
    EXPECT_EQ(theirs(back, full), theirs(model.files(), full));
  }
}

TEST(HuggingFace, OneOfTheirsCanFeedSeveralOfOurs) {
  // Ours keeps queries apart from keys and values; theirs is one [3HD, C].
  const int64_t C = 48;
  NameTable table;
  table.tensors = {{"q", {C, C}, {{"transformer.h.0.attn.c_attn.weight", {C, 3 * C}, {}, 1, 0, C, {1, 0}}}},
                   {"kv", {2, C, C}, {{"transformer.h.0.attn.c_attn.weight", {C, 3 * C}, {}, 1, C, 3 * C, {1, 0}}}}};
  table.ignored = {"*"};
  const HuggingFaceModel model(kReference / "gpt2", table);
  const auto kv = whole(model, table.tensors[1]);
  const auto c_attn = theirs(model.files(), "transformer.h.0.attn.c_attn.weight");
  for (int64_t r = 0; r < 2 * C; ++r) {
    for (int64_t c = 0; c < C; ++c) ASSERT_EQ(kv[r * C + c], c_attn[c * 3 * C + C + r]);
  }
  const TemporaryFolder folder;
  ExportOptions options;
  options.config = nlohmann::json::object();
  export_hugging_face(folder.path(), table, source_of(model), options);
  EXPECT_EQ(theirs(TensorFolder::open_hugging_face(folder.path()), "transformer.h.0.attn.c_attn.weight"), c_attn);
}

TEST(HuggingFace, ABadConfigurationNamesItsFile) {
  const TemporaryFolder folder;
  EXPECT_THROW(read_config(folder.path()), Error);
  for (const std::string text : {"", "[]", "{\"a\":", "nonsense"}) {
    write_atomically(folder.path() / "config.json", text);
    try {
      read_config(folder.path());
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.message(), HasSubstr("config.json"));
    }
  }
}
// NOLINTEND(readability-identifier-naming)

}  // namespace
}  // namespace ridgeline::checkpoint

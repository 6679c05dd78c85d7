#include "ridgeline/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <numeric>
#include <vector>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "support.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

std::string file_text(std::string_view header, size_t data_bytes) {
  std::string text(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(text.data(), &length, 8);
  text += header;
  text.append(data_bytes, '\x01');
  return text;
}

Header parse(std::string_view text) {
  return parse_header(bytes_of(text), static_cast<int64_t>(text.size()), "some.safetensors");
}

std::string safetensors_refusal(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    return error.message();
  }
  return "accepted";
}

TEST(SafetensorsHeader, ReadsTensorsInAnyOrderOfNames) {
  const Header header = parse(file_text(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[2,26]},)"
      R"("a":{"shape":[],"data_offsets":[0,2],"dtype":"BF16"},"empty":{"dtype":"I8","shape":[0,9],"data_offsets":[26,26]}}  )",
      26));
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].count, 1);
  EXPECT_EQ(header.tensors[0].dtype, DType::bf16);
  EXPECT_EQ(header.tensors[1].name, "b");
  EXPECT_EQ(header.tensors[1].shape, (Shape{2, 3}));
  EXPECT_EQ(header.tensors[1].begin, header.data_begin + 2);
  EXPECT_EQ(header.tensors[2].count, 0);
  EXPECT_FALSE(header.tensors[2].dtype.has_value());
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(SafetensorsHeader, RefusesWhatIsNotSoundAndNamesTheFile) {
  const auto tensor = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"x":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
  };
  ASSERT_EQ(safetensors_refusal(file_text(tensor("F32", "[2]", "[0,8]"), 8)), "accepted");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "fewer than the 8"},
      {"1234567", "fewer than the 8"},
      {file_text("", 8), "does not begin"},
      {file_text("[]", 0), "does not begin"},
      {file_text(" {}", 0), "does not begin"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}"), "at most 100000000"},
      {std::string("\x40\0\0\0\0\0\0\0{}", 10), "the file ends after 2"},
      {file_text("{", 0), "no JSON"},
      {file_text("{}{}", 0), "no JSON"},
      {file_text("{\"\xff\":1}", 0), "no JSON"},
      {file_text("{\"x\":1}", 0), "number 1"},
      {file_text("{\"x\":[[[[[[", 0), "a list"},
      {file_text("{\"x\":{\"dtype\":{", 0), "an object"},
      {file_text("{\"x\":{}}", 0), "not fully described"},
      {file_text("{\"x\":null}", 0), "null"},
      {file_text("{\"__metadata__\":{\"a\":1}}", 0), "number 1"},
      {file_text(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"},
      {file_text(tensor("F31", "[2]", "[0,8]"), 8), "F31"},
      {file_text(tensor("F32", "[-2]", "[0,8]"), 8), "-2"},
      {file_text(tensor("F32", "[2.0]", "[0,8]"), 8), "integer"},
      {file_text(tensor("F32", "[2]", "[0,8,8]"), 8), "more than two"},
      {file_text(tensor("F32", "[2]", "[0]"), 8), "not fully described"},
      {file_text(tensor("F32", "[2]", "[8,0]"), 8), "lies at bytes"},
      {file_text(tensor("F32", "[2]", "[0,12]"), 8), "lies at bytes"},
      {file_text(tensor("F32", "[2]", "[0,12]"), 12), "needs 8 bytes but has 12"},
      {file_text(tensor("F32", "[2]", "[4,12]"), 12), "after a hole"},
      {file_text(tensor("F32", "[2]", "[0,8]"), 12), "end at byte 8"},
      {file_text(tensor("F32", "[4611686018427387904]", "[0,0]"), 0), "impossible shape"},
      {file_text(tensor("F32", "[18446744073709551615]", "[0,0]"), 0), "too large"},
      {file_text(tensor("F32", "[99999999999999999999999]", "[0,0]"), 0), "integer"},
      {file_text(
           R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
           6),
       "inside another"},
      {file_text(
           R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"x":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           8),
       "stands twice"},
      {file_text(R"({"x":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4), "twice"},
      {file_text(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":1}})", 4), "unknown field 'more'"},
  };
  for (const auto& [text, reason] : cases) {
    EXPECT_THAT(safetensors_refusal(text), AllOf(HasSubstr("some.safetensors"), HasSubstr(reason))) << text;
  }
}

TEST(SafetensorsHeader, EveryTruncationIsRefused) {
  const FileLayout layout = plan_layout({{"weight", DType::f32, {3, 5}}, {"steps", DType::i64, {}}});
  std::string text = layout.files[0].head;
  text.resize(static_cast<size_t>(layout.files[0].size), 'x');
  ASSERT_EQ(safetensors_refusal(text), "accepted");
  for (size_t size = 0; size < text.size(); ++size) {
    ASSERT_THAT(safetensors_refusal(std::string_view(text).substr(0, size)), HasSubstr("some.safetensors")) << size;
  }
  ASSERT_NE(safetensors_refusal(text + "x"), "accepted");
}

TEST(Safetensors, ReadsFilesOfOthers) {
  // Written by Hugging Face transformers.
  const TensorFolder folder = TensorFolder::open_hugging_face(kReference / "gpt2");
  const auto place = folder.at("transformer.h.0.attn.c_attn.weight");
  EXPECT_EQ(place.tensor->shape, (Shape{48, 144}));
  EXPECT_EQ(place.tensor->type, "F32");
  EXPECT_EQ(place.file->metadata().at("format"), "pt");
  std::vector<float> norm(48);
  folder.read_range("transformer.ln_f.weight", 0, 48, norm.data());
  for (const float value : norm) EXPECT_NEAR(value, 1.0F, 0.5F);
  // A range is the same as that part of the whole.
  std::vector<float> whole(48 * 144), part(1000);
  folder.read_range("transformer.h.0.attn.c_attn.weight", 0, 48 * 144, whole.data());
  folder.read_range("transformer.h.0.attn.c_attn.weight", 777, 1000, part.data());
  EXPECT_EQ(std::memcmp(part.data(), whole.data() + 777, 4000), 0);
  std::vector<double> wide(10);
  folder.read_range("transformer.h.0.attn.c_attn.weight", 777, 10, wide.data());
  EXPECT_EQ(wide[3], static_cast<double>(part[3]));
}

TEST(Safetensors, NamesTheNearestTensorAndRefusesOutsideRanges) {
  const TensorFolder folder = TensorFolder::open_hugging_face(kReference / "llama");
  try {
    folder.at("model.norm.weigth");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.next_step(), HasSubstr("model.norm.weight"));
  }
  float value = 0;
  EXPECT_THROW(folder.read_range("model.norm.weight", 64, 1, &value), Error);
  EXPECT_THROW(folder.read_range("model.norm.weight", -1, 1, &value), Error);
  EXPECT_THROW(folder.read_range("model.norm.weight", 1, INT64_MAX, &value), Error);
  int64_t integer = 0;
  EXPECT_THROW(folder.read_range("model.norm.weight", 0, 1, &integer), Error);
}

TEST(SafetensorsLayout, IsAlignedSplitAndDescribesItself) {
  LayoutOptions options;
  options.max_file_bytes = 100;
  options.metadata = {{"format", "pt"}};
  const FileLayout layout = plan_layout({{"a", DType::u8, {3}},
                                         {"b \"quoted\"\n", DType::f32, {2, 2}},
                                         {"c", DType::f64, {5}},
                                         {"large", DType::bf16, {100}},
                                         {"scalar", DType::i64, {}}},
                                        options);
  ASSERT_EQ(layout.files.size(), 3U);
  EXPECT_EQ(layout.files[1].name, "model-00002-of-00003.safetensors");
  EXPECT_EQ(layout.data_bytes(), 3 + 16 + 40 + 200 + 8);
  for (const auto& file : layout.files) {
    EXPECT_EQ(file.head.size() % 64, 0U);
    const Header header = parse_header(bytes_of(std::string_view(file.head)), file.size, file.name);
    EXPECT_EQ(header.metadata.at("format"), "pt");
    ASSERT_EQ(header.tensors.size(), file.tensors.size());
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      const auto& plan = layout.tensors[file.tensors[i]];
      EXPECT_EQ(header.tensors[i].name, plan.spec.name);
      EXPECT_EQ(header.tensors[i].shape, plan.spec.shape);
      EXPECT_EQ(header.tensors[i].dtype, plan.spec.dtype);
      EXPECT_EQ(header.tensors[i].begin, plan.offset);
      EXPECT_EQ(plan.offset % size_of(plan.spec.dtype), 0);
    }
  }
  EXPECT_EQ(layout.find("large"), 3);
  EXPECT_EQ(layout.find("none"), -1);
  // The same input gives the same bytes: every rank computes the layout for itself.
  const FileLayout again = plan_layout({{"a", DType::u8, {3}}, {"b", DType::f16, {7}}});
  const FileLayout same = plan_layout({{"a", DType::u8, {3}}, {"b", DType::f16, {7}}});
  EXPECT_EQ(again.files[0].head, same.files[0].head);
}

TEST(SafetensorsLayout, WritesByRangesInAnyOrderAndConverts) {
  const TemporaryFolder folder;
  const FileLayout layout =
      plan_layout({{"odd", DType::u8, {5}}, {"half", DType::bf16, {300}}, {"full", DType::f32, {200000}}});
  const fs::path path = folder.path() / layout.files[0].name;
  std::vector<float> values(200000);
  std::iota(values.begin(), values.end(), 0.25F);
  const std::vector<uint8_t> bytes{9, 8, 7, 6, 5};
  {
    File file(path, File::Mode::create);
    file.resize(layout.files[0].size);
    file.write_at(0, bytes_of(std::string_view(layout.files[0].head)));
    const uint32_t second = write_range(layout, file, 2, 70000, 130000, ConstRef(values.data() + 70000));
    EXPECT_EQ(second, crc32c(std::as_bytes(std::span(values).subspan(70000))));
    write_range(layout, file, 2, 0, 70000, ConstRef(values.data()));
    write_range(layout, file, 0, 0, 5, ConstRef(bytes.data()));
    write_range(layout, file, 1, 0, 300, ConstRef(values.data()));
  }
  const TensorFolder read = TensorFolder::open_file(path);
  std::vector<float> back(200000);
  read.read_range("full", 0, 200000, back.data());
  EXPECT_EQ(back, values);
  back.resize(300);
  read.read_range("half", 0, 300, back.data());
  for (size_t i = 0; i < 300; ++i) EXPECT_EQ(back[i], static_cast<float>(bf16(values[i])));
  std::vector<uint8_t> small(5);
  read.read_range("odd", 0, 5, small.data());
  EXPECT_EQ(small, bytes);
}

TEST(SafetensorsIndex, FindsTensorsOverSeveralFilesAndRefusesALyingIndex) {
  const TemporaryFolder folder;
  LayoutOptions options;
  options.max_file_bytes = 16;
  const FileLayout layout = plan_layout({{"a", DType::f32, {4}}, {"b", DType::f32, {4}}}, options);
  const std::vector<float> values{1, 2, 3, 4};
  for (int i = 0; i < 2; ++i) {
    File file(folder.path() / layout.files[i].name, File::Mode::create);
    file.write_at(0, bytes_of(std::string_view(layout.files[i].head)));
    write_range(layout, file, i, 0, 4, ConstRef(values.data()));
  }
  EXPECT_THROW(TensorFolder::open_hugging_face(folder.path()), Error);  // neither a model nor an index
  const fs::path index = folder.path() / "model.safetensors.index.json";
  write_atomically(index, index_json(layout));
  const TensorFolder read = TensorFolder::open_hugging_face(folder.path());
  float value = 0;
  read.read_range("b", 2, 1, &value);
  EXPECT_EQ(value, 3.0F);
  EXPECT_EQ(read.tensors().size(), 2U);

  for (const std::string text :
       {R"({"weight_map":{"a":"model-00002-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})",
        R"({"weight_map":{"a":"../../etc/passwd"}})", R"({"weight_map":{"a":1}})", R"({"weight_map":1})", "{}", "[",
        ""}) {
    write_atomically(index, text);
    EXPECT_THROW(TensorFolder::open_hugging_face(folder.path()), Error) << text;
  }
  EXPECT_THROW(TensorFolder::open_files({folder.path() / layout.files[0].name, folder.path() / layout.files[0].name}),
               Error);

  // A single file is read first, as transformers does, and what an index beside it says otherwise is told.
  const FileLayout single = plan_layout({{"a", DType::f32, {4}}});
  {
    File file(folder.path() / "model.safetensors", File::Mode::create);
    file.write_at(0, bytes_of(std::string_view(single.files[0].head)));
    write_range(single, file, 0, 0, 4, ConstRef(values.data()));
  }
  for (const auto& [text, says] :
       {std::pair{index_json(layout), std::string("names other files ('model-00001-of-00002.safetensors')")},
        {R"({"weight_map":{"a":"model.safetensors","b":"model.safetensors"}})", "that is not in it ('b')"},
        {"[", "no sound index"}}) {
    write_atomically(index, text);
    const TensorFolder both = TensorFolder::open_hugging_face(folder.path());
    EXPECT_EQ(both.tensors().size(), 1U);
    ASSERT_EQ(both.notes().size(), 1U) << text;
    EXPECT_NE(both.notes()[0].find(says), std::string::npos) << both.notes()[0];
  }
  write_atomically(index, R"({"weight_map":{"a":"model.safetensors"}})");
  EXPECT_TRUE(TensorFolder::open_hugging_face(folder.path()).notes().empty());
}

TEST(HuggingFaceFiles, OtherFormsOfWeightsAreRefusedWithTheirConversion) {
  for (const auto& [name, says] :
       {std::pair{"pytorch_model.bin", "from transformers import AutoModelForCausalLM"},
        {"pytorch_model.bin.index.json", "from transformers import AutoModelForCausalLM"},
        {"pytorch_model-00001-of-00002.bin", "from transformers import AutoModelForCausalLM"},
        {"llama-Q4_K.gguf", "gguf_file=f"},
        {"adapter_model.safetensors", "merge_and_unload"},
        {"consolidated.00.pth", "the tool that wrote them"}}) {
    const TemporaryFolder folder;
    write_atomically(folder.path() / name, "");
    try {
      TensorFolder::open_hugging_face(folder.path());
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(name), std::string::npos) << error.message();
      EXPECT_NE(error.next_step().find(says), std::string::npos) << error.next_step();
    }
  }
}

}  // namespace
}  // namespace ridgeline::checkpoint

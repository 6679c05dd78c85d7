#include "ridgeline/checkpoint/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "ridgeline/base/file.h"
#include "support.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string npy(std::string_view dictionary, size_t data_bytes, char version = 1) {
  std::string text = "\x93NUMPY";
  text += version;
  text += '\0';
  const auto length = static_cast<uint32_t>(dictionary.size());
  text.append(reinterpret_cast<const char*>(&length), version == 1 ? 2 : 4);
  text += dictionary;
  text.append(data_bytes, '\x01');
  return text;
}

std::string npy_refusal(std::string_view text) {
  try {
    parse_npy_header(bytes_of(text), "some.npy");
  } catch (const Error& error) {
    return error.message();
  }
  return "accepted";
}

TEST(Npy, ReadsArraysOfNumPy) {
  const NpyArray tokens(kReference / "gpt2" / "tokens.npy");
  EXPECT_EQ(tokens.shape(), (Shape{10, 8, 25}));
  for (const int32_t token : tokens.values<int32_t>()) {
    ASSERT_GE(token, 0);
    ASSERT_LT(token, 331);
  }
  const NpyArray valid(kReference / "gpt2" / "valid.npy");
  EXPECT_EQ(valid.shape(), (Shape{10, 8, 24}));
  int64_t first_step = 0;
  for (size_t i = 0; i < 8 * 24; ++i) first_step += valid.values<uint8_t>()[i];
  EXPECT_EQ(first_step, 166);  // "valid_tokens"[0] of reference.json
  const NpyArray logits(kReference / "gpt2" / "logits.npy");
  EXPECT_EQ(logits.count(), 8 * 24 * 331);
  EXPECT_THROW(logits.values<double>(), Error);
  EXPECT_EQ(logits.values<float>().size(), 8U * 24 * 331);
}

TEST(Npy, ReadsAllVersionsAndShapes) {
  EXPECT_EQ(npy_refusal(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", 8)), "accepted");
  EXPECT_EQ(npy_refusal(npy("{'shape': (3,), 'descr': '<i8', 'fortran_order': False}   \n", 24, 2)), "accepted");
  EXPECT_EQ(npy_refusal(npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 0), }\n", 0, 3)), "accepted");
}

TEST(Npy, RefusesEverythingElseByName) {
  const std::string good = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 24);
  ASSERT_EQ(npy_refusal(good), "accepted");
  for (size_t size = 0; size < good.size(); ++size) {
    ASSERT_THAT(npy_refusal(std::string_view(good).substr(0, size)), testing::HasSubstr("some.npy")) << size;
  }
  for (const std::string& text :
       {good + "x", npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4),
        npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", 4),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", 0),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 0),
        npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4),
        npy("{'descr': '<f4', 'fortran_order': False}", 4), npy("{'descr': '<f4', 'shape': (1,)", 4),
        npy("{'descr': '<f4", 4), npy("", 0), npy("{}", 0), npy("{'x': 1}", 0),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, 4)}) {
    EXPECT_THAT(npy_refusal(text), testing::HasSubstr("some.npy")) << text;
  }
}

}  // namespace
}  // namespace ridgeline::checkpoint

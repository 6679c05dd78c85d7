#include "ridgeline/model/declarations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "combinations.h"

namespace ridgeline::model {
namespace {

TEST(Declarations, UnitIndexSaysWhereDeclaredUnitsStand) {
  for (const TransformerConfig& config : option_combinations()) {
    const std::vector<Segment> units = declare(config);
    const UnitIndex index = unit_index(config);
    ASSERT_EQ(static_cast<int>(units.size()), index.count) << described(config);
    const auto kind = [&](int unit) { return units[static_cast<size_t>(unit)].kind; };
    EXPECT_EQ(kind(index.vocabulary), UnitKind::vocabulary);
    EXPECT_EQ(index.positions >= 0, config.positions == Positions::learned);
    EXPECT_TRUE(index.positions < 0 || kind(index.positions) == UnitKind::positions);
    for (int layer = 0; layer < config.layers; ++layer)
      EXPECT_EQ(units[static_cast<size_t>(index.first_block + layer)].layer, layer);
    EXPECT_EQ(kind(index.final_norm), UnitKind::final_norm);
    EXPECT_EQ(index.head >= 0, !config.tied || config.head_bias);
    EXPECT_TRUE(index.head < 0 || kind(index.head) == UnitKind::head);
  }
}

TEST(Declarations, EveryUnitIsReadByTheElementsThatAddToIt) {
  for (const TransformerConfig& config : option_combinations()) {
    const UnitIndex index = unit_index(config);
    std::vector<int> readers(static_cast<size_t>(index.count));
    for (int element = -1; element <= config.layers; ++element) {
      for (const int unit : units_of_element(config, element)) ++readers[static_cast<size_t>(unit)];
    }
    for (int unit = 0; unit < index.count; ++unit)
      EXPECT_EQ(readers[static_cast<size_t>(unit)], unit == index.vocabulary && config.tied ? 2 : 1);
  }
}

// Numbers that repeat, are negative and are not in order.
int odd_segmentation(const Tensor& tensor) {
  return static_cast<int>(tensor.name.size() % 3) * 5 - 7;
}

TEST(Declarations, ASegmentationCutsUnitsAndLosesNoTensor) {
  for (const TransformerConfig& config : option_combinations()) {
    const std::vector<Segment> whole = declare(config);
    for (const Segmentation segmentation : {&uncut_apart, &odd_segmentation}) {
      const std::vector<Segment> segments = declare(config, {segmentation});
      EXPECT_GT(segments.size(), whole.size());
      std::map<std::string, int> unit_of, found_in;
      for (const Segment& segment : whole) {
        for (const Tensor& tensor : segment.tensors) unit_of[tensor.name] = segment.unit;
      }
      int unit = 0;
      for (const Segment& segment : segments) {
        EXPECT_FALSE(segment.tensors.empty());
        EXPECT_TRUE(segment.unit == unit || segment.unit == unit + 1) << segment.name;
        unit = segment.unit;
        for (const Tensor& tensor : segment.tensors) {
          EXPECT_EQ(segmentation(tensor), segmentation(segment.tensors[0])) << tensor.name;
          EXPECT_TRUE(found_in.emplace(tensor.name, unit).second) << tensor.name << " is there twice";
        }
      }
      EXPECT_EQ(found_in, unit_of) << described(config);
      const ElementSegments elements(config, {segmentation});
      EXPECT_EQ(elements.last(), config.layers);
      for (int element = -1; element <= config.layers; ++element) {
        std::vector<int> units = units_of_element(config, element), read;
        for (const int number : elements.of(element)) read.push_back(segments[static_cast<size_t>(number)].unit);
        read.erase(std::unique(read.begin(), read.end()), read.end());
        EXPECT_EQ(read, units);
      }
      EXPECT_EQ(elements.of(-1, elements.last()).size(), segments.size());
    }
  }
}

TEST(Declarations, SplitAxesAreFirstOrSecondBehindAtMostThree) {
  for (const TransformerConfig& config : option_combinations()) {
    for (const Segment& unit : declare(config)) {
      int64_t end = 0;
      bool decaying = true;
      for (const Tensor& tensor : unit.tensors) {
        EXPECT_TRUE(tensor.split_axis < 1 || (tensor.split_axis == 1 && tensor.shape[0] <= 3)) << tensor.name;
        EXPECT_GE(tensor.offset, end) << tensor.name;
        EXPECT_EQ(tensor.offset % kTensorAlignment, 0) << tensor.name;
        EXPECT_TRUE(decaying || !tensor.decay) << tensor.name << " stands behind tensors without decay";
        decaying = tensor.decay;
        end = tensor.offset + tensor.count();
      }
      EXPECT_LE(end, unit.count);
    }
  }
}

TEST(Declarations, ParametersAreThoseOfThePublishedModels) {
  EXPECT_EQ(preset("gpt2").parameters(), 124'439'808);
  EXPECT_EQ(preset("gpt2-medium").parameters(), 354'823'168);
  EXPECT_EQ(preset("gpt2-large").parameters(), 774'030'080);
  EXPECT_EQ(preset("gpt2-xl").parameters(), 1'557'611'200);
  EXPECT_EQ(preset("gptj-6b").parameters(), 6'050'882'784);
  EXPECT_EQ(preset("llama3-8b").parameters(), 8'030'261'248);
  EXPECT_EQ(preset("gpt-neox-20b").parameters(), 20'554'567'680);
}

TEST(Declarations, FlopsCountEveryMatrixOncePerToken) {
  for (const TransformerConfig& config : option_combinations()) {
    // Matrices of products: everything that decays, but the embedding and the positions, which are looked up; the
    // vocabulary matrix when it serves as the head.
    double elements = 0;
    for (const Segment& unit : declare(config)) {
      if (unit.kind == UnitKind::positions || (unit.kind == UnitKind::vocabulary && !config.tied)) continue;
      for (const Tensor& tensor : unit.tensors) elements += tensor.decay ? static_cast<double>(tensor.count()) : 0.0;
    }
    const Flops flops = training_flops(config, 16);
    EXPECT_EQ(flops.products, 6 * elements) << described(config);
    // Pairs of a sequence: 16 x 17 / 2. Scores and sums of values, 2 D each; backward twice that.
    EXPECT_EQ(flops.attention * 16, 3.0 * 2 * 16 * 17 / 2 * 6 * 4 * static_cast<double>(config.head_width()));
  }
}

TEST(Declarations, InitialValuesOfMatricesIntoTheResidualStreamAreSmaller) {
  const TransformerConfig config = small_config();
  const Segment block = declare_block(config, 1);
  EXPECT_FLOAT_EQ(block.tensor("attention.out.weight").deviation, 0.1F);  // 0.2 / sqrt(2 x 2)
  EXPECT_FLOAT_EQ(block.tensor("mlp.down.weight").deviation, 0.1F);
  EXPECT_FLOAT_EQ(block.tensor("mlp.up.weight").deviation, 0.2F);
}

}  // namespace
}  // namespace ridgeline::model

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

// f(config, partition) for every number of slices that a model can be cut into.
template <typename F>
void for_each_partition(F&& f) {
  for (TransformerConfig config : option_combinations()) {
    config.ffn = 54;
    for (int count = 1; count <= static_cast<int>(config.heads); ++count) {
      if (unsliceable(config, count)) continue;
      for (const bool sequence : {false, true}) {
        for (const Segmentation segmentation : {Segmentation{nullptr}, Segmentation{&odd_segmentation}})
          f(config, Partition{segmentation, count, sequence});
      }
    }
  }
}

TEST(Declarations, SlicesHoldEveryElementOnceOrAsOftenAsTheirSegmentSays) {
  for_each_partition([](const TransformerConfig& config, const Partition& partition) {
    std::map<std::string, std::vector<int>> held;  // [element] of each tensor: by how many slices
    std::map<std::string, int> copies;
    for (int slice = 0; slice < partition.slices; ++slice) {
      for (const Segment& segment : declare(config, partition, slice)) {
        for (const Tensor& tensor : segment.tensors) {
          std::vector<int>& elements = held[tensor.name];
          elements.resize(static_cast<size_t>(element_count(tensor.shape)));
          copies[tensor.name] = segment.copies;
          EXPECT_LE(tensor.pieces(), 3) << tensor.name;
          int64_t local = 0;
          for_each_tensor_range(segment, tensor.offset, tensor.offset + tensor.count(),
                                [&](const Tensor& met, int64_t at, int64_t count, int64_t offset) {
                                  EXPECT_EQ(met.name, tensor.name);
                                  EXPECT_EQ(offset, tensor.offset + local);
                                  EXPECT_EQ(at, tensor.global(local));
                                  local += count;
                                  for (int64_t i = at; i < at + count; ++i) ++elements.at(static_cast<size_t>(i));
                                });
          EXPECT_EQ(local, tensor.count()) << tensor.name;
        }
      }
    }
    for (const Segment& unit : declare(config)) {
      for (const Tensor& tensor : unit.tensors) {
        const std::vector<int>& elements = held[tensor.name];
        EXPECT_EQ(std::count(elements.begin(), elements.end(), copies[tensor.name]), element_count(tensor.shape))
            << tensor.name << " in " << partition.slices << " slices of " << described(config);
        const bool cut = tensor.split != SplitBy::nothing && tensor.split != SplitBy::kv_heads;
        EXPECT_TRUE(!cut || copies[tensor.name] == 1) << tensor.name;
      }
    }
  });
}

TEST(Declarations, SlicesHaveTheSameSegmentsAndNeighboursTheSameCopies) {
  for_each_partition([](const TransformerConfig& config, const Partition& partition) {
    const std::vector<Segment> first = declare(config, partition, 0);
    std::vector<Segment> before;
    for (int slice = 0; slice < partition.slices; ++slice) {
      const std::vector<Segment> segments = declare(config, partition, slice);
      ASSERT_EQ(segments.size(), first.size());
      for (size_t i = 0; i < segments.size(); ++i) {
        const Segment &mine = segments[i], &theirs = first[i];
        EXPECT_EQ(mine.name, theirs.name);
        EXPECT_EQ(mine.unit, theirs.unit);
        EXPECT_EQ(mine.copies, theirs.copies);
        EXPECT_EQ(mine.partial, theirs.partial);
        EXPECT_EQ(partition.slices % mine.copies, 0);
        // A part of the gradient each: of a key head that several read, of what is computed by tokens.
        const bool by_tokens = mine.tensors[0].split == SplitBy::nothing && partition.sequence;
        EXPECT_EQ(mine.partial, mine.copies > 1 && (by_tokens || mine.tensors[0].split == SplitBy::kv_heads));
        ASSERT_EQ(mine.tensors.size(), theirs.tensors.size());
        for (size_t t = 0; t < mine.tensors.size(); ++t) {
          EXPECT_EQ(mine.tensors[t].name, theirs.tensors[t].name);
          if (slice % mine.copies == 0) continue;  // else the same as its neighbour's
          EXPECT_EQ(mine.tensors[t].kept.first, before[i].tensors[t].kept.first) << mine.tensors[t].name;
          EXPECT_EQ(mine.tensors[t].kept.count, before[i].tensors[t].kept.count) << mine.tensors[t].name;
        }
      }
      before = segments;
    }
  });
}

TEST(Declarations, SlicesDecayWhatTheWholeDecays) {
  for_each_partition([](const TransformerConfig& config, const Partition& partition) {
    double decayed = 0, whole = 0;  // elements, each copy as its share
    for (int slice = 0; slice < partition.slices; ++slice) {
      for (const Segment& segment : declare(config, partition, slice)) {
        int64_t end = 0;
        for (const Tensor& tensor : segment.tensors) {
          EXPECT_EQ(tensor.offset, end);
          EXPECT_EQ(tensor.decay, tensor.offset < segment.decayed) << tensor.name;
          end = tensor.offset + (tensor.count() + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
          EXPECT_TRUE(!tensor.decay || end <= segment.decayed) << tensor.name;
          if (tensor.decay) decayed += static_cast<double>(tensor.count()) / segment.copies;
        }
        EXPECT_EQ(end, segment.count) << segment.name;
      }
    }
    for (const Segment& unit : declare(config)) {
      for (const Tensor& tensor : unit.tensors) whole += tensor.decay ? static_cast<double>(tensor.count()) : 0.0;
    }
    EXPECT_NEAR(decayed, whole, 1e-9 * whole);  // thirds are no binary fractions
  });
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

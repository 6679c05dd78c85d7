// Tables of names and the arithmetic of strided views: pure functions.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/hugging_face.h"

namespace ridgeline::checkpoint {
namespace {

struct Axis {
  int64_t extent, stride;
};

// The block's axes in our order with strides in their tensor, extents of 1 dropped and axes that follow on each other
// joined; `start` is the block's first element.
std::vector<Axis> axes_of(const Block& block, int64_t& start) {
  const Shape& view = block.view.empty() ? block.shape : block.view;
  RL_CHECK(element_count(view), ==, element_count(block.shape));
  std::vector<Axis> view_axes(view.size());
  int64_t stride = 1;
  for (size_t i = view.size(); i-- > 0;) {
    view_axes[i] = {view[i], stride};
    stride *= view[i];
  }
  start = 0;
  if (block.slice_end >= 0 || block.slice_begin != 0) {
    Axis& axis = view_axes.at(static_cast<size_t>(block.slice_axis));
    const int64_t end = block.slice_end < 0 ? axis.extent : block.slice_end;
    RL_REQUIRE(block.slice_begin >= 0 && block.slice_begin <= end && end <= axis.extent, "slice {} to {} of {} in '{}'",
               block.slice_begin, end, axis.extent, block.name);
    start = block.slice_begin * axis.stride;
    axis.extent = end - block.slice_begin;
  }
  RL_REQUIRE(block.axes.empty() || block.axes.size() == view.size(), "{} axes for {} of '{}'", block.axes.size(),
             view.size(), block.name);
  std::vector<Axis> joined;
  for (size_t i = 0; i < view_axes.size(); ++i) {
    const Axis axis = block.axes.empty() ? view_axes[i] : view_axes.at(static_cast<size_t>(block.axes[i]));
    if (axis.extent == 1) continue;
    if (!joined.empty() && joined.back().stride == axis.extent * axis.stride) {
      joined.back() = {joined.back().extent * axis.extent, axis.stride};
    } else {
      joined.push_back(axis);
    }
  }
  return joined;
}

// Elements [first, last) of a block, `ours` being the place of element `first` in our tensor.
void read_block(std::vector<StridedRead>& reads, int index, const Block& block, int64_t first, int64_t last,
                int64_t ours) {
  int64_t start = 0;
  std::vector<Axis> axes = axes_of(block, start);
  while (axes.size() < 2) axes.insert(axes.begin(), Axis{1, 0});
  const Axis row = axes[axes.size() - 2], column = axes.back();
  axes.resize(axes.size() - 2);
  const int64_t plane = row.extent * column.extent;
  const auto add = [&](int64_t base, int64_t from_row, int64_t rows, int64_t from_column, int64_t columns) {
    if (rows <= 0 || columns <= 0) return;
    reads.push_back({index, ours, base + from_row * row.stride + from_column * column.stride, rows, columns, row.stride,
                     column.stride});
    ours += rows * columns;
  };
  for (int64_t number = first / plane; number * plane < last; ++number) {
    int64_t base = start;
    int64_t rest = number;
    for (size_t i = axes.size(); i-- > 0;) {
      base += rest % axes[i].extent * axes[i].stride;
      rest /= axes[i].extent;
    }
    const int64_t from = std::max(first - number * plane, int64_t{0});
    const int64_t to = std::min(last - number * plane, plane);
    const int64_t first_row = from / column.extent, last_row = to / column.extent;
    if (first_row == last_row) {  // inside one row
      add(base, first_row, 1, from % column.extent, to - from);
      continue;
    }
    const int64_t head = from % column.extent;
    if (head != 0) add(base, first_row, 1, head, column.extent - head);
    const int64_t whole = first_row + (head != 0 ? 1 : 0);
    add(base, whole, last_row - whole, 0, column.extent);
    add(base, last_row, 1, 0, to % column.extent);
  }
}

// Replaces "{i}" in `pattern` by what stands there in `name`; nullopt when the name is of another form.
std::optional<std::string> match(std::string_view pattern, std::string_view name) {
  const size_t mark = pattern.find("{i}");
  if (mark == std::string_view::npos) return pattern == name ? std::optional<std::string>("") : std::nullopt;
  const std::string_view before = pattern.substr(0, mark), after = pattern.substr(mark + 3);
  if (name.size() <= before.size() + after.size() || !name.starts_with(before) || !name.ends_with(after)) return {};
  const std::string_view number = name.substr(before.size(), name.size() - before.size() - after.size());
  if (number.find_first_not_of("0123456789") != std::string_view::npos) return {};
  return std::string(number);
}

std::string with_number(std::string text, const std::string& number) {
  const size_t mark = text.find("{i}");
  if (mark != std::string::npos) text.replace(mark, 3, number);
  return text;
}

// Their tensor for a part of ours of shape `part`.
Block block_of(std::string name, Form form, const Shape& part) {
  const int64_t count = element_count(part);
  const int64_t last = part.empty() ? 1 : part.back();
  const int64_t leading = last == 0 ? 0 : count / last;
  Block block;
  block.name = std::move(name);
  switch (form) {
    case Form::vector:
      block.shape = {count};
      break;
    case Form::matrix:
      block.shape = {leading, last};
      break;
    case Form::transposed:
      block.shape = {last, leading};
      block.axes = {1, 0};
      break;
    case Form::per_head_vector:
      RL_CHECK(part.size(), ==, 3U);
      block.shape = {count};
      block.view = {part[1], part[0], part[2]};
      block.axes = {1, 0, 2};
      break;
    case Form::per_head_matrix:
      RL_CHECK(part.size(), ==, 4U);
      block.shape = {leading, last};
      block.view = {part[1], part[0], part[2], part[3]};
      block.axes = {1, 0, 2, 3};
      break;
  }
  return block;
}

}  // namespace

int64_t Block::count() const {
  int64_t start = 0;
  int64_t total = 1;
  for (const Axis& axis : axes_of(*this, start)) total *= axis.extent;
  return total;
}

std::vector<StridedRead> strided_reads(const Mapping& mapping, int64_t first, int64_t count) {
  const int64_t total = element_count(mapping.shape);
  RL_REQUIRE(first >= 0 && count >= 0 && first <= total && count <= total - first, "{} elements from {} on of '{}' {}",
             count, first, mapping.name, to_string(mapping.shape));
  std::vector<StridedRead> reads;
  int64_t base = 0;
  for (size_t i = 0; i < mapping.blocks.size(); ++i) {
    const int64_t size = mapping.blocks[i].count();
    const int64_t from = std::max(first, base), to = std::min(first + count, base + size);
    if (from < to) read_block(reads, static_cast<int>(i), mapping.blocks[i], from - base, to - base, from);
    base += size;
  }
  RL_REQUIRE(base == total, "the blocks of '{}' hold {} elements, its shape {}", mapping.name, base,
             to_string(mapping.shape));
  return reads;
}

std::vector<Mapping> expand(std::span<const Rule> rules, std::span<const TensorSpec> ours) {
  std::vector<Mapping> mappings;
  for (const TensorSpec& tensor : ours) {
    Mapping mapping{tensor.name, tensor.shape, {}};
    for (const Rule& rule : rules) {
      const std::optional<std::string> number = match(rule.ours, tensor.name);
      if (!number.has_value()) continue;
      Shape part = tensor.shape;
      const auto parts = static_cast<int64_t>(rule.theirs.size());
      if (parts > 1) {
        RL_REQUIRE(!part.empty() && part[0] % parts == 0, "'{}' {} cannot be cut into {}", tensor.name,
                   to_string(tensor.shape), parts);
        part[0] /= parts;
      }
      for (const std::string& name : rule.theirs) {
        mapping.blocks.push_back(block_of(with_number(name, *number), rule.form, part));
      }
      break;
    }
    RL_REQUIRE(!mapping.blocks.empty(), "no rule names '{}'", tensor.name);
    mappings.push_back(std::move(mapping));
  }
  return mappings;
}

}  // namespace ridgeline::checkpoint

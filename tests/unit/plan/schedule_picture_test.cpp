#include "ridgeline/plan/schedule_picture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string_view>
#include <vector>

namespace ridgeline::plan {
namespace {

using parallel::Cost;
using parallel::PipelineShape;
using parallel::ScheduleKind;

std::vector<Cost> alike(const PipelineShape& shape, const Cost& cost = {}) {
  return std::vector<Cost>(static_cast<size_t>(shape.virtual_stages()), cost);
}
std::string text(const PipelineShape& shape, int width, const Cost& cost = {}) {
  return schedule_text(shape, alike(shape, cost), width);
}
std::string svg(const PipelineShape& shape, const Cost& cost = {}) {
  return schedule_svg(shape, alike(shape, cost));
}

TEST(ScheduleText, Shows1F1BAsThePaperDoes) {
  EXPECT_EQ(text({ScheduleKind::one_f_one_b, 4, 8, 1}, 80),
            "1f1b: 4 stages, 8 micro-batches, 1 chunk per stage, bubble 27.3 %\n"
            "stage 0  F0F1F2F3............B0bbF4B1bbF5B2bbF6B3bbF7B4bb..B5bb..B6bb..B7bb\n"
            "stage 1  ..F0F1F2........B0bbF3B1bbF4B2bbF5B3bbF6B4bbF7B5bb..B6bb..B7bb....\n"
            "stage 2  ....F0F1....B0bbF2B1bbF3B2bbF4B3bbF5B4bbF6B5bbF7B6bb..B7bb........\n"
            "stage 3  ......F0B0bbF1B1bbF2B2bbF3B3bbF4B4bbF5B5bbF6B6bbF7B7bb............\n"
            "F forward  B backward  . idle\n");
}

TEST(ScheduleText, ShowsZeroBubble) {
  EXPECT_EQ(text({ScheduleKind::zero_bubble, 4, 8, 1}, 200),
            "zero-bubble: 4 stages, 8 micro-batches, 1 chunk per stage, bubble 11.1 %\n"
            "stage 0  F0F1F2F3......B0W0F4B1W1F5B2W2F6B3W3F7B4W4B5W5B6W6B7W7\n"
            "stage 1  ..F0F1F2....B0F3B1W0F4B2W1F5B3W2F6B4W3F7B5W4B6W5B7W6W7\n"
            "stage 2  ....F0F1..B0F2B1F3B2W0F4B3W1F5B4W2F6B5W3F7B6W4B7W5W6W7\n"
            "stage 3  ......F0B0F1B1F2B2F3B3W0F4B4W1F5B5W2F6B6W3F7B7W4W5W6W7\n"
            "F forward  B backward, input  W backward, weights  . idle\n");
}

TEST(ScheduleText, FitsItsWidth) {
  // One column for the shortest box: numbers in the longer ones.
  EXPECT_EQ(text({ScheduleKind::one_f_one_b, 2, 3, 1}, 30),
            "1f1b: 2 stages, 3 micro-batches, 1 chunk per stage, bubble 25.0 %\n"
            "stage 0  FF..B0FB1.B2\n"
            "stage 1  .FB0FB1FB2..\n"
            "F forward  B backward  . idle\n");
  // Fewer columns than boxes: what takes most of each.
  EXPECT_EQ(text({ScheduleKind::gpipe, 2, 8, 1}, 18),
            "gpipe: 2 stages, 8 micro-batches, 1 chunk per stage, bubble 11.1 %\n"
            "stage 0  FFF.BBBBB\n"
            "stage 1  FFFBBBBB.\n"
            "F forward  B backward  . idle\n");
  for (const int width : {1, 10, 40, 79, 133}) {
    for (const PipelineShape& shape :
         {PipelineShape{ScheduleKind::interleaved, 8, 32, 4}, PipelineShape{ScheduleKind::gpipe, 12, 1, 1}}) {
      std::istringstream lines(text(shape, width, {.forward = 0.37, .backward_weight = 0.9, .transfer = 0.01}));
      std::string line;
      std::getline(lines, line);
      for (int stage = 0; stage < shape.stages; ++stage) {
        ASSERT_TRUE(std::getline(lines, line));
        EXPECT_LE(line.size(), static_cast<size_t>(std::max(width, 11))) << line;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- svg

// Elements, where every element that begins also ends, inside the one it began in; -1 where not.
int elements_of(std::string_view document) {
  std::vector<std::string> open;
  int elements = 0;
  size_t at = 0;
  while ((at = document.find('<', at)) != std::string_view::npos) {
    const size_t end = document.find('>', at);
    if (end == std::string_view::npos) return -1;
    const std::string_view tag = document.substr(at + 1, end - at - 1);
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0 || tag.find('<') != std::string_view::npos) return -1;
    const std::string name(tag.substr(0, tag.find_first_of(" /", 1)));
    if (tag.front() == '/') {
      if (open.empty() || "/" + open.back() != std::string(tag)) return -1;
      open.pop_back();
      if (open.empty() && document.find('<', end) != std::string_view::npos) return -1;
    } else {
      ++elements;
      if (tag.back() != '/') open.push_back(name);
    }
    at = end;
  }
  return open.empty() ? elements : -1;
}
int count_of(std::string_view document, std::string_view what) {
  int count = 0;
  for (size_t at = document.find(what); at != std::string_view::npos; at = document.find(what, at + 1)) ++count;
  return count;
}
// From the group of this name to the next.
std::string group(const std::string& document, const std::string& name, const std::string& next) {
  const size_t begin = document.find("<g id=\"" + name + "\"");
  const size_t end = next.empty() ? document.size() : document.find("<g id=\"" + next + "\"");
  return begin < end && end != std::string::npos ? document.substr(begin, end - begin) : "";
}

TEST(ScheduleSvg, IsWellFormedAndHasABoxForEveryComputation) {
  for (const PipelineShape& shape :
       {PipelineShape{ScheduleKind::gpipe, 4, 8, 1}, PipelineShape{ScheduleKind::one_f_one_b, 4, 8, 1},
        PipelineShape{ScheduleKind::interleaved, 4, 8, 3}, PipelineShape{ScheduleKind::zero_bubble, 4, 8, 1},
        PipelineShape{ScheduleKind::one_f_one_b, 1, 2, 1}, PipelineShape{ScheduleKind::one_f_one_b, 16, 128, 1}}) {
    const std::string document = svg(shape);
    const int works = shape.kind == ScheduleKind::zero_bubble ? 3 : 2;
    const int boxes = works * shape.virtual_stages() * shape.micro_batches;
    EXPECT_GT(elements_of(document), boxes);
    EXPECT_EQ(count_of(group(document, "boxes", "numbers"), "<rect "), boxes);
    EXPECT_EQ(count_of(group(document, "numbers", ""), "<text "), shape.micro_batches > 100 ? 0 : boxes);
    EXPECT_EQ(count_of(group(document, "stages", "boxes"), "<rect "), shape.stages);
    EXPECT_EQ(count_of(group(document, "legend", "stages"), "<rect "), works + 1);
    EXPECT_EQ(count_of(document, "per stage, bubble "), 2);  // seen, and the document's own title
  }
  EXPECT_NE(svg({ScheduleKind::zero_bubble, 4, 8, 1})
                .find("zero-bubble: 4 stages, 8 micro-batches, 1 chunk per stage, bubble 11.1 %"),
            std::string::npos);
  // A loss that takes time is a box, too.
  const std::string with_loss = svg({ScheduleKind::one_f_one_b, 2, 3, 1}, {.loss = 0.5});
  EXPECT_EQ(count_of(group(with_loss, "boxes", "numbers"), "<rect "), 2 * 2 * 3 + 3);
}

TEST(ScheduleSvg, CheckNoticesWhatIsNotWellFormed) {
  EXPECT_EQ(elements_of("<a><b/><c>text</c></a>"), 3);
  for (const char* wrong : {"<a><b></a></b>", "<a>", "<a></a></a>", "<a b=\"></a>", "<a><b</a>", "<a></a><b/>"})
    EXPECT_EQ(elements_of(wrong), -1) << wrong;
}

}  // namespace
}  // namespace ridgeline::plan

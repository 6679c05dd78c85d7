// The normalizer, pre_tokenizer and decoder of a tokenizer.json: lists of steps, of which a model takes those that it
// can do exactly.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/data/tokenizer_json.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

using nlohmann::json;

constexpr int kDeepest = 16;

// The steps of a part of the file in order: itself, or the members of a Sequence, which may hold more of them.
void add_steps(const json* part, const char* members, std::string_view file, int depth, std::vector<const json*>& out) {
  if (part == nullptr) return;
  if (!part->is_object() || depth == kDeepest) malformed(file, fmt::format("a step of {} is no object", members));
  if (text_of(*part, "type") != "Sequence") return out.push_back(part);
  const json* list = member(*part, members);
  if (list == nullptr || !list->is_array()) malformed(file, fmt::format("a Sequence without {}", members));
  for (const json& step : *list) add_steps(&step, members, file, depth + 1, out);
}

std::vector<const json*> steps_of(const json& root, const char* part, const char* members, std::string_view file) {
  std::vector<const json*> steps;
  add_steps(member(root, part), members, file, 0, steps);
  return steps;
}

std::vector<const json*> pre_tokenizers(const json& root, std::string_view file) {
  return steps_of(root, "pre_tokenizer", "pretokenizers", file);
}
std::vector<const json*> normalizers(const json& root, std::string_view file) {
  return steps_of(root, "normalizer", "normalizers", file);
}

// The text of a pattern of one kind ("String", "Regex"); "" when it is of the other.
std::string pattern_text(const json& step, const char* kind) {
  const json* pattern = member(step, "pattern");
  return pattern == nullptr ? "" : text_of(*pattern, kind);
}

bool writes_marks(const json& step) {
  return text_of(step, "type") == "Replace" && pattern_text(step, "String") == " " &&
         text_of(step, "content") == kSpaceMark;
}

bool has_type(const std::vector<const json*>& steps, std::string_view type) {
  return std::any_of(steps.begin(), steps.end(), [&](const json* step) { return text_of(*step, "type") == type; });
}

Pattern regex_of(const std::string& expression, std::string_view what, std::string_view file) {
  try {
    return Pattern::regex(expression);
  } catch (const UnsupportedPattern& reason) {
    unsupported(file, fmt::format("the {} pattern '{}' (because of {})", what, expression, reason.message()));
  }
}

void require_mark(const json& step, std::string_view file) {
  const std::string mark = text_of(step, "replacement");
  if (mark != kSpaceMark) unsupported(file, fmt::format("Metaspace with the replacement '{}'", mark));
}

std::string prepend_scheme(const json& step) {
  std::string scheme = text_of(step, "prepend_scheme");
  if (!scheme.empty()) return scheme;
  return flag_of(step, "add_prefix_space", true) ? "always" : "never";
}

// ---------------------------------------------------------------------------------------------------- pre_tokenizer

class PreTokenizerReader {
 public:
  PreTokenizerReader(BpeModel& model, bool spaces_are_marks, std::string_view file)
      : model_(model), spaces_are_marks_(spaces_are_marks), file_(file) {}

  void read(const std::vector<const json*>& steps) {
    model_.pre_tokenizer = PreTokenizer::whole;
    for (const json* step : steps) {
      if (byte_level_) unsupported(file_, "a pre_tokenizer after ByteLevel");
      const std::string type = text_of(*step, "type");
      if (type == "Split") {
        split(*step);
      } else if (type == "Digits") {
        const bool each = flag_of(*step, "individual_digits", false);
        cut(Pattern::regex(R"(\p{N})"), each ? Cut::Behavior::isolated : Cut::Behavior::contiguous);
      } else if (type == "ByteLevel") {
        byte_level(*step);
      } else if (type == "Metaspace") {
        metaspace(*step);
      } else {
        unsupported(file_, fmt::format("pre_tokenizer '{}'", type));
      }
    }
    settle_known();
  }

 private:
  Cut::Behavior behavior_of(const json& step) {
    const std::string name = text_of(step, "behavior");
    if (name == "Isolated") return Cut::Behavior::isolated;
    if (name == "MergedWithPrevious") return Cut::Behavior::with_previous;
    if (name == "MergedWithNext") return Cut::Behavior::with_next;
    if (name == "Contiguous") return Cut::Behavior::contiguous;
    unsupported(file_, fmt::format("a pre_tokenizer with behavior '{}'", name));
  }

  void cut(Pattern pattern, Cut::Behavior behavior, bool inverted = false) {
    settle_known();
    model_.cuts.push_back({std::move(pattern), behavior, inverted});
  }

  // An expression that a scanner knows waits for what comes behind it: the scanner makes the last cut alone.
  void settle_known() {
    if (known_ == PreTokenizer::whole) return;
    const std::string expression(pattern_of(std::exchange(known_, PreTokenizer::whole)));
    model_.cuts.push_back({Pattern::regex(expression)});
  }

  // The kind whose scanner cuts by this expression; whole: none does.
  static PreTokenizer scanner_of(std::string_view expression) {
    for (const PreTokenizer kind : {PreTokenizer::gpt2, PreTokenizer::llama3, PreTokenizer::qwen2}) {
      if (expression == pattern_of(kind)) return kind;
    }
    return PreTokenizer::whole;
  }

  void split(const json& step) {
    const bool inverted = flag_of(step, "invert", false);
    if (const std::string text = pattern_text(step, "String"); !text.empty()) {
      const Cut::Behavior behavior = behavior_of(step);
      if (!spaces_are_marks_) return cut(Pattern::literal(text), behavior, inverted);
      // Of the marked text there is none with a space.
      if (text.find(' ') == std::string::npos) return cut(Pattern::literal(without_marks(text)), behavior, inverted);
      if (inverted) unsupported(file_, "an inverted Split at spaces, behind a normalizer that replaces them");
      return;
    }
    const std::string expression = pattern_text(step, "Regex");
    if (expression.empty()) malformed(file_, "a Split without a pattern");
    if (spaces_are_marks_) unsupported(file_, "a Split by Regex where '▁' stands for spaces");
    settle_known();
    const PreTokenizer scanner = scanner_of(expression);
    if (scanner == PreTokenizer::whole) {
      return cut(regex_of(expression, "pre_tokenizer", file_), behavior_of(step), inverted);
    }
    // These expressions take every character of every text: what they leave, which "Removed" removes when it is
    // inverted and "Isolated" keeps as pieces, is nothing.
    const bool removes_nothing = inverted && text_of(step, "behavior") == "Removed";
    const Cut::Behavior behavior = removes_nothing ? Cut::Behavior::isolated : behavior_of(step);
    if (behavior != Cut::Behavior::isolated) return cut(Pattern::regex(expression), behavior, inverted);
    known_ = scanner;
  }

  void byte_level(const json& step) {
    byte_level_ = true;
    const bool prefix = flag_of(step, "add_prefix_space", true), regex = flag_of(step, "use_regex", true);
    // Each part of an earlier cut gets its prefix before it is cut further.
    if (prefix || regex) settle_known();
    if (prefix) model_.prefix_space = PrefixSpace::each;
    model_.pre_tokenizer = regex ? PreTokenizer::gpt2 : std::exchange(known_, PreTokenizer::whole);
  }

  void metaspace(const json& step) {
    require_mark(step, file_);
    if (!model_.cuts.empty() || known_ != PreTokenizer::whole) unsupported(file_, "a pre_tokenizer before Metaspace");
    if (!std::exchange(spaces_are_marks_, true)) model_.word_normalizer.spaces_for_marks();
    const std::string scheme = prepend_scheme(step);
    // A part behind the first begins with a space, if it is cut here: the prefix may as well come after this.
    if (scheme == "always") {
      model_.prefix_space = PrefixSpace::each;
    } else if (scheme == "first") {
      model_.prefix_space = PrefixSpace::first;
    } else if (scheme != "never") {
      unsupported(file_, fmt::format("Metaspace with prepend_scheme '{}'", scheme));
    }
    if (flag_of(step, "split", true)) cut(Pattern::literal(" "), Cut::Behavior::with_next);
  }

  BpeModel& model_;
  bool spaces_are_marks_;
  std::string_view file_;
  bool byte_level_ = false;
  PreTokenizer known_ = PreTokenizer::whole;  // whole: none waits
};

// ------------------------------------------------------------------------------------------------------- normalizer

void read_replace(BpeModel& model, const json& step, bool& marked, std::string_view file) {
  const std::string with = text_of(step, "content"), text = pattern_text(step, "String"),
                    expression = pattern_text(step, "Regex");
  if (text.empty() && expression.empty()) malformed(file, "a Replace without a pattern");
  if (writes_marks(step)) {
    if (!std::exchange(marked, true)) model.normalizer.spaces_for_marks();
    return;
  }
  if (!marked) {
    model.normalizer.replace(text.empty() ? regex_of(expression, "normalizer", file) : Pattern::literal(text), with);
    return;
  }
  if (text.empty()) unsupported(file, "a Replace by Regex where '▁' stands for spaces");
  if (with.find(' ') != std::string::npos) unsupported(file, "a Replace that writes spaces where '▁' stands for them");
  if (text.find(' ') != std::string::npos) return;  // there are none
  model.normalizer.replace(Pattern::literal(without_marks(text)), without_marks(with));
}

// Whether spaces are marks from here on.
bool read_normalizer(BpeModel& model, const json& root, std::string_view file) {
  bool marked = false;
  for (const json* step : normalizers(root, file)) {
    const std::string type = text_of(*step, "type");
    if (type == "NFC") {
      model.normalizer.nfc();
    } else if (type == "NFKC") {
      model.normalizer.nfkc();
    } else if (type == "Prepend") {
      const std::string text = text_of(*step, "prepend");
      if (marked && text.find(' ') != std::string::npos) {
        unsupported(file, "a Prepend that writes spaces where '▁' stands for them");
      }
      model.normalizer.prepend(marked ? without_marks(text) : text);
    } else if (type == "Replace") {
      read_replace(model, *step, marked, file);
    } else {
      unsupported(file, fmt::format("normalizer '{}'", type));
    }
  }
  return marked;
}

// ---------------------------------------------------------------------------------------------------------- decoder

// What SentencePiece's models need: marks become spaces, bytes become characters, some spaces go at the begin.
void read_character_decoder(BpeModel& model, const json& root, std::string_view file) {
  bool spaces = false, bytes = false, fused = false;
  for (const json* step : steps_of(root, "decoder", "decoders", file)) {
    const std::string type = text_of(*step, "type");
    if (type == "Replace" && pattern_text(*step, "String") == kSpaceMark && text_of(*step, "content") == " ") {
      spaces = true;
    } else if (type == "ByteFallback") {
      bytes = true;
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip" && fused && text_of(*step, "content") == " ") {
      const json *start = member(*step, "start"), *stop = member(*step, "stop");
      if (stop != nullptr && *stop != 0) unsupported(file, "decoder 'Strip' at the end");
      if (start == nullptr || !start->is_number_unsigned()) malformed(file, "a Strip without a number 'start'");
      model.decode_start.spaces += start->get<size_t>();
    } else if (type == "Strip" && !fused) {
      unsupported(file, "decoder 'Strip' before 'Fuse', which takes spaces from every token,");
    } else if (type == "Metaspace") {
      require_mark(*step, file);
      spaces = true;
      if (prepend_scheme(*step) != "never") model.decode_start = {std::string::npos, DecodeStart::Of::first_token};
    } else {
      unsupported(file, fmt::format("decoder '{}' where '▁' stands for spaces", type));
    }
  }
  if (!spaces) unsupported(file, "a decoder that leaves '▁' in the text");
  if (!bytes && model.every_byte_has_id()) unsupported(file, "byte_fallback without the decoder ByteFallback");
}

void require_byte_level_decoder(const json& root, std::string_view file) {
  for (const json* step : steps_of(root, "decoder", "decoders", file)) {
    if (text_of(*step, "type") != "ByteLevel") {
      unsupported(file, fmt::format("decoder '{}'", text_of(*step, "type")));
    }
  }
}

}  // namespace

VocabularyForm vocabulary_form(const json& root, std::string_view file) {
  if (has_type(pre_tokenizers(root, file), "ByteLevel")) return VocabularyForm::bytes;
  const std::vector<const json*> steps = normalizers(root, file);
  const bool marks = has_type(pre_tokenizers(root, file), "Metaspace") ||
                     std::any_of(steps.begin(), steps.end(), [](const json* step) { return writes_marks(*step); });
  return marks ? VocabularyForm::characters : VocabularyForm::bytes;
}

bool read_pipeline(BpeModel& model, const json& root, VocabularyForm form, std::string_view file) {
  const bool marked = read_normalizer(model, root, file);
  if (form == VocabularyForm::bytes) {
    if (marked) unsupported(file, "a normalizer that writes '▁' before ByteLevel");
    require_byte_level_decoder(root, file);
  } else {
    read_character_decoder(model, root, file);
  }
  const std::vector<const json*> steps = pre_tokenizers(root, file);
  PreTokenizerReader(model, marked, file).read(steps);
  if (form == VocabularyForm::bytes && !has_type(steps, "ByteLevel")) {
    unsupported(file, steps.empty() ? "a missing pre_tokenizer" : "a pre_tokenizer without ByteLevel");
  }
  return marked;
}

}  // namespace ridgeline::data

#include "ridgeline/data/normalizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/data/normalize.h"
#include "ridgeline/data/sentencepiece_normalizer.h"

namespace ridgeline::data {

std::string without_marks(std::string_view text) {
  Normalizer normalizer;
  normalizer.spaces_for_marks();
  std::string buffer;
  return std::string(normalizer.apply(text, buffer));
}

void Normalizer::nfc() {
  steps_.emplace_back(Nfc{});
}

void Normalizer::nfkc() {
  steps_.emplace_back(Nfkc{});
}

void Normalizer::prepend(std::string text) {
  steps_.emplace_back(Prepend{std::move(text)});
}

void Normalizer::replace(Pattern pattern, std::string with) {
  steps_.emplace_back(Replace{std::move(pattern), std::move(with)});
}

void Normalizer::spaces_for_marks() {
  Step step = Replace{Pattern::literal(std::string(kSpaceMark)), " "};
  // Most texts have no mark, and are not copied for this step: what is put before them is better put there without.
  Prepend* const last = steps_.empty() ? nullptr : std::get_if<Prepend>(&steps_.back());
  if (last != nullptr) last->text = without_marks(last->text);
  steps_.insert(last != nullptr ? steps_.end() - 1 : steps_.end(), std::move(step));
}

void Normalizer::sentencepiece(std::shared_ptr<const SentencePieceNormalizer> normalizer) {
  steps_.emplace_back(std::move(normalizer));
}

std::string_view Normalizer::apply(const Step& step, std::string_view text, std::string& buffer) {
  if (std::holds_alternative<Nfc>(step)) return to_nfc(text, buffer);
  if (std::holds_alternative<Nfkc>(step)) return to_nfkc(text, buffer);
  buffer.clear();
  if (const auto* prepend = std::get_if<Prepend>(&step)) {
    if (text.empty()) return text;
    return buffer.append(prepend->text).append(text);
  }
  if (const auto* replace = std::get_if<Replace>(&step)) {
    Pattern::Search search(replace->pattern, text);
    size_t done = 0;
    bool any = false;
    while (const std::optional<Pattern::Match> match = search.next()) {
      buffer.append(text.substr(done, match->begin - done)).append(replace->with);
      done = match->end;
      any = true;
    }
    if (!any) return text;
    return buffer.append(text.substr(done));
  }
  std::get<std::shared_ptr<const SentencePieceNormalizer>>(step)->append(text, buffer);
  return buffer;
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  std::string other;
  for (const Step& step : steps_) {
    const std::string_view result = apply(step, text, other);
    if (result.data() == text.data() && result.size() == text.size()) continue;
    std::swap(buffer, other);
    text = buffer;
  }
  return text;
}

std::string Normalizer::description() const {
  std::string text;
  for (const Step& step : steps_) {
    if (std::holds_alternative<Nfc>(step)) {
      text += "nfc;";
    } else if (std::holds_alternative<Nfkc>(step)) {
      text += "nfkc;";
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      text += fmt::format("prepend {};", prepend->text);
    } else if (const auto* replace = std::get_if<Replace>(&step)) {
      text += fmt::format("replace {} {};", replace->pattern.name(), replace->with);
    } else {
      text += std::get<std::shared_ptr<const SentencePieceNormalizer>>(step)->description();
    }
  }
  return text;
}

bool Normalizer::only_nfc() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const Step& step) { return std::holds_alternative<Nfc>(step); });
}

}  // namespace ridgeline::data

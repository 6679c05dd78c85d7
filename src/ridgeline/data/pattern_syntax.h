// Regular expressions of Hugging Face tokenizers (Oniguruma, Ruby's syntax) as PCRE2 understands them. Internal to the
// room.
#pragma once

#include <string>
#include <string_view>

namespace ridgeline::data {

// An expression that PCRE2 10.42 or later, with UTF, UCP, MULTILINE and newline LF, gives the meaning that `expression`
// has in Oniguruma 6.9. What differs or is not known to be the same is refused: UnsupportedPattern with the feature.
//
// The same in both: literals, . ^ $ |, classes, greedy, lazy and possessive * + ?, {n} {n,} {n,m}, look-around, atomic
// groups, general categories, \s \d. Written anew: groups that capture (nothing asks for what they hold), \v, \uHHHH,
// scripts (PCRE2's \p{Han} also has characters that are used with Han), sets in sets (joined). Refused, as they mean
// something else: \w and \b (other characters), \h, {n,m}+ (a second repetition in Ruby), {n}?, {,n}, (?m) and isolated
// options, POSIX brackets, intersections of sets, and in (?i:) whatever folds to more than one character.
std::string to_pcre2(std::string_view expression);

}  // namespace ridgeline::data

#include "ridgeline/migrate/shell_script.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "ridgeline/base/error.h"
#include "ridgeline/migrate/shell_arithmetic.h"
#include "ridgeline/migrate/shell_text.h"
#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {
namespace {

// Values keep where each of their characters was written, so that a flag out of a variable has its own line.
struct Char {
  char c = 0;
  bool known = true;
  int64_t line = 0;
};
using Text = std::vector<Char>;

struct Value {
  std::vector<Text> items;  // of an array; otherwise one
  size_t index = 0;         // its last assignment among ShellScript::variables
};

// A here-document whose lines begin behind the current one.
struct Pending {
  std::string end, file;
  bool quoted = false, tabs = false;
};

constexpr size_t kMostCharacters = size_t{1} << 22;
constexpr std::array<std::string_view, 5> kDeclarations = {"export", "readonly", "declare", "local", "typeset"};
constexpr std::array<std::string_view, 6> kOpening = {"if", "for", "while", "until", "case", "{"};
constexpr std::array<std::string_view, 4> kClosing = {"fi", "done", "esac", "}"};
constexpr std::array<std::string_view, 7> kBetween = {"then", "else", "elif", "do", "!", "time", "exec"};

template <size_t N>
bool one_of(const std::array<std::string_view, N>& all, std::string_view word) {
  return std::find(all.begin(), all.end(), word) != all.end();
}

std::string plain(const Text& text) {
  std::string result;
  for (const Char& each : text) result += each.c;
  return result;
}

class ScriptReader : ShellText {
 public:
  using ShellText::ShellText;

  ShellScript run() && {
    while (at_ < text_.size()) command();
    read_documents();
    return std::move(script_);
  }

 private:
  void remark(int64_t line, std::string text) {
    const bool told = std::any_of(script_.remarks.begin(), script_.remarks.end(),
                                  [&](const ShellRemark& other) { return other.line == line && other.text == text; });
    if (!told) script_.remarks.push_back({line, std::move(text)});
  }

  // -------------------------------------------------------------------------------------------------------- commands
  void command() {
    std::vector<Word> words;
    const int64_t line = line_;
    first_assignment_ = script_.variables.size();
    for (;;) {
      blanks();
      if (ended()) break;
      const char c = peek();
      if (c == '#') {
        comment();
      } else if (redirection()) {
      } else if (c == '\n' || c == ';' || c == '&' || c == '|' || c == '(' || c == ')') {
        finish(words, line);
        separator(c);
        return;
      } else if ((words.empty() || one_of(kDeclarations, words.front().text)) && assignment(words)) {
      } else {
        if (!expand_word(words)) continue;
        if (words.size() == 1 && keyword(words.front())) words.clear();
      }
    }
    finish(words, line);
  }

  void separator(char c) {
    take();
    const bool twice = (c == '&' || c == '|') && !ended() && peek() == c;
    if (twice) take();
    conditional_ = twice;
    if (c == '\n') read_documents();
  }

  void finish(std::vector<Word>& words, int64_t line) {
    if (words.empty()) return;
    // NAME=value before a command is its environment.
    for (size_t at = first_assignment_; at < script_.variables.size(); ++at) script_.variables[at].used = true;
    const std::string& program = words.front().text;
    if (program == "source" || program == ".")
      remark(line, fmt::format("`{}{}`: not followed; variables that it sets are not known", program,
                               words.size() > 1 ? " " + words[1].text : ""));
    if (program == "unset") {
      for (size_t at = 1; at < words.size(); ++at) values_.erase(words[at].text);
    }
    if (one_of(kDeclarations, program)) {
      for (size_t at = 1; at < words.size(); ++at) mark_used(words[at].text);
      if (words.size() <= 1) return;
    }
    script_.commands.push_back({std::move(words), line});
  }

  // The words of control flow. What lies inside is read as if it ran, but variables set there are not known.
  bool keyword(const Word& word) {
    if (one_of(kBetween, word.text)) return true;
    if (one_of(kClosing, word.text)) {
      if (depth_ > 0) --depth_;
      return true;
    }
    if (!one_of(kOpening, word.text)) return false;
    if (depth_++ == 0 && word.text != "{")
      remark(word.line, fmt::format("`{}`: not decided here; variables that are set inside are not known", word.text));
    if (word.text == "for" || word.text == "case") {
      std::vector<Word> head;
      while (!ended() && peek() != '\n' && peek() != ';') {
        blanks();
        if (ended() || peek() == '\n' || peek() == ';' || !expand_word(head)) break;
        if (word.text == "for" && head.size() == 1)
          assign(head.front().text, {{Char{'?', false, word.line}}}, false, word.line);
      }
    }
    return true;
  }

  void comment() {
    const int64_t line = line_;
    const size_t end = std::min(text_.find('\n', at_), text_.size());
    const std::string_view body = std::string_view(text_).substr(at_, end - at_);
    const bool first = at_ == 0 || text_[at_ - 1] == '\n';
    at_ = end;
    if (!first || !body.starts_with("#SBATCH")) return;
    ShellCommand directive{{}, line};
    for (size_t at = 7; at < body.size();) {
      const size_t begin = body.find_first_not_of(" \t", at);
      if (begin == std::string_view::npos || body[begin] == '#') break;
      at = std::min(body.find_first_of(" \t", begin), body.size());
      directive.words.push_back({std::string(body.substr(begin, at - begin)), line});
    }
    if (!directive.words.empty()) script_.directives.push_back(std::move(directive));
  }

  // > file, 2>&1, <<END and the like; their words are no arguments.
  bool redirection() {
    size_t at = at_;
    while (at < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at])) != 0) ++at;
    if (text_.compare(at, 2, "&>") == 0) ++at;
    if (at >= text_.size() || (text_[at] != '>' && text_[at] != '<')) return false;
    skip(at - at_);
    const char direction = take();
    if (direction == '<' && next_is("<<")) {
      skip(2);
    } else if (direction == '<' && next_is("<")) {
      take();
      open_document();
      return true;
    }
    while (!ended() && (peek() == '>' || peek() == '&' || peek() == '|')) take();
    blanks();
    if (ended() || peek() == '\n') return true;
    if (peek() == '(') {
      bracketed('(', ')');
      return true;
    }
    std::vector<Word> target;
    expand_word(target);
    if (direction == '>' && !target.empty()) {
      output_ = target.front().text;
      if (!pending_.empty()) pending_.back().file = output_;
    }
    return true;
  }

  // --------------------------------------------------------------------------------------------------- here-documents
  void open_document() {
    Pending document;
    document.tabs = !ended() && peek() == '-';
    if (document.tabs) take();
    blanks();
    const int64_t line = line_;
    while (!ended() && !is_blank(peek()) && std::string_view("\n;&|<>()").find(peek()) == std::string_view::npos) {
      const char c = take();
      if (c == '\'' || c == '"' || c == '\\') {
        document.quoted = true;
      } else {
        document.end += c;
      }
    }
    if (document.end.empty()) fail(line, "`<<` without the word that ends the text");
    document.file = output_;
    pending_.push_back(std::move(document));
  }

  void read_documents() {
    output_.clear();
    const std::vector<Pending> pending = std::move(pending_);
    pending_.clear();
    for (const Pending& document : pending) {
      const int64_t first = line_ - 1;
      std::string body;
      for (;;) {
        if (at_ >= text_.size()) fail(first, fmt::format("the text up to '{}' never ends", document.end));
        const size_t end = std::min(text_.find('\n', at_), text_.size());
        std::string_view row = std::string_view(text_).substr(at_, end - at_);
        while (document.tabs && row.starts_with('\t')) row.remove_prefix(1);
        if (row == document.end) {
          at_ = end;
          if (at_ < text_.size()) take_raw();
          break;
        }
        body += document.quoted ? std::string(row) : expanded_row(row);
        body += '\n';
        grow(row.size());
        at_ = end;
        if (at_ < text_.size()) take_raw();
      }
      if (!document.file.empty()) script_.documents[std::string(file_name(document.file))] = body;
    }
  }

  // Variables of a line of a here-document; quotes mean nothing there.
  std::string expanded_row(std::string_view row) {
    const size_t stop = std::min(text_.find('\n', at_), text_.size());
    at_ = stop - row.size();
    std::string result;
    while (at_ < stop) {
      if (text_[at_] == '\\' && at_ + 1 < stop && (text_[at_ + 1] == '$' || text_[at_ + 1] == '`')) {
        result += text_[at_ + 1];
        at_ += 2;
      } else if (text_[at_] == '$') {
        std::vector<Text> pieces;
        dollar(pieces);
        for (const Text& piece : pieces) result += plain(piece);
      } else {
        result += text_[at_++];
      }
    }
    return result;
  }

  // ------------------------------------------------------------------------------------------------------ assignments
  bool assignment(const std::vector<Word>& words) {
    if (!starts_name(peek())) return false;
    size_t at = at_;
    while (at < text_.size() && continues_name(text_[at])) ++at;
    const std::string name = text_.substr(at_, at - at_);
    const bool append = text_.compare(at, 2, "+=") == 0;
    if (!append && (at >= text_.size() || text_[at] != '=')) return false;
    const int64_t line = line_;
    skip(at - at_ + (append ? 2 : 1));
    std::vector<Text> items;
    if (!ended() && peek() == '(') {
      items = array_items();
    } else {
      Text whole;
      one_word(&whole, nullptr);
      items.push_back(std::move(whole));
    }
    assign(name, std::move(items), append, line);
    if (!words.empty()) mark_used(name);
    return true;
  }

  void assign(const std::string& name, std::vector<Text> items, bool append, int64_t line) {
    const bool perhaps = depth_ > 0 || conditional_;
    if (perhaps) {
      mark_used(name);
      for (Text& item : items) {
        if (item.empty()) item.push_back({'?', false, line});
        for (Char& each : item) each.known = false;
      }
    }
    const auto before = values_.find(name);
    if (append && before != values_.end()) {
      std::vector<Text> joined = before->second.items;
      if (before->second.items.size() == 1 && items.size() == 1) {
        joined.front().insert(joined.front().end(), items.front().begin(), items.front().end());
      } else {
        joined.insert(joined.end(), items.begin(), items.end());
      }
      items = std::move(joined);
      script_.variables[before->second.index].used = true;
    }
    std::string text;
    for (const Text& item : items) {
      text += (text.empty() ? "" : " ") + plain(item);
      grow(item.size());
    }
    script_.variables.push_back({name, text, line, perhaps});
    values_[name] = {std::move(items), script_.variables.size() - 1};
  }

  void mark_used(const std::string& name) {
    const auto found = values_.find(name);
    if (found != values_.end()) script_.variables[found->second.index].used = true;
  }

  std::vector<Text> array_items() {
    const int64_t line = line_;
    take();
    std::vector<Text> items;
    for (;;) {
      while (!ended() && (is_blank(peek()) || peek() == '\n')) take();
      if (ended()) fail(line, "the list opened here is never closed");
      if (peek() == ')') break;
      if (peek() == '#') {
        comment();
        continue;
      }
      const size_t before = at_;
      one_word(nullptr, &items);
      if (at_ == before) fail(line_, fmt::format("'{}' in a list", peek()));
    }
    take();
    return items;
  }

  // ------------------------------------------------------------------------------------------------------------ words
  // Appends the words that one word of the script becomes: none, one, or several out of a variable. False, with one
  // character skipped, where no word begins.
  bool expand_word(std::vector<Word>& words) {
    const size_t before = at_;
    std::vector<Text> fields;
    one_word(nullptr, &fields);
    for (const Text& field : fields) {
      Word word{plain(field), field.empty() ? line_ : field.front().line};
      word.known = std::all_of(field.begin(), field.end(), [](const Char& each) { return each.known; });
      words.push_back(std::move(word));
    }
    if (at_ == before && !ended()) take();
    return !fields.empty();
  }

  // Reads up to the end of a word: into `whole`, or split at blanks of unquoted variables into `fields`.
  void one_word(Text* whole, std::vector<Text>* fields) {
    Text current;
    bool any = false;
    const auto put = [&](const Text& piece) {
      current.insert(current.end(), piece.begin(), piece.end());
      grow(piece.size());
      any = any || !piece.empty();
    };
    const auto cut = [&] {
      if (any && fields != nullptr) fields->push_back(std::move(current));
      if (fields != nullptr) current.clear(), any = false;
    };
    const auto unquoted = [&](const std::vector<Text>& pieces) {
      for (size_t each = 0; each < pieces.size(); ++each) {
        if (each > 0) fields == nullptr ? put({Char{' ', true, line_}}) : cut();
        for (const Char& c : pieces[each]) {
          const bool splits = c.known && (is_blank(c.c) || c.c == '\n');
          splits&& fields != nullptr ? cut() : put({c});
        }
      }
    };
    while (!ended()) {
      const char c = peek();
      if (is_blank(c) || std::string_view("\n;&|<>()").find(c) != std::string_view::npos) break;
      if (c == '\'') {
        put(single_quoted());
        any = true;
      } else if (c == '"') {
        const std::vector<Text> pieces = double_quoted();
        for (size_t each = 0; each < pieces.size(); ++each) {
          if (each > 0) fields == nullptr ? put({Char{' ', true, line_}}) : cut();
          put(pieces[each]);
          any = true;
        }
      } else if (c == '\\') {
        take();
        if (!ended()) put({Char{take(), true, line_}});
      } else if (c == '$') {
        std::vector<Text> pieces;
        dollar(pieces);
        unquoted(pieces);
      } else if (c == '`') {
        put(backquoted());
      } else {
        const int64_t line = line_;
        put({Char{take(), true, line}});
      }
    }
    if (whole != nullptr) {
      *whole = std::move(current);
    } else if (any) {
      fields->push_back(std::move(current));
    }
  }

  Text single_quoted() {
    const int64_t line = line_;
    take();
    Text text;
    while (at_ < text_.size() && text_[at_] != '\'') {
      const int64_t here = line_;
      text.push_back({take_raw(), true, here});
    }
    if (at_ >= text_.size()) fail(line, "the quote opened here is never closed");
    take_raw();
    return text;
  }

  // One piece; more only where "${list[@]}" stands in it.
  std::vector<Text> double_quoted() {
    const int64_t line = line_;
    take();
    std::vector<Text> pieces(1);
    while (!ended() && peek() != '"') {
      const char c = peek();
      if (c == '$') {
        std::vector<Text> inner;
        dollar(inner);
        for (size_t each = 0; each < inner.size(); ++each) {
          if (each > 0) pieces.emplace_back();
          pieces.back().insert(pieces.back().end(), inner[each].begin(), inner[each].end());
        }
      } else if (c == '`') {
        const Text inner = backquoted();
        pieces.back().insert(pieces.back().end(), inner.begin(), inner.end());
      } else {
        const bool escape = c == '\\' && at_ + 1 < text_.size() &&
                            std::string_view("$`\"\\").find(text_[at_ + 1]) != std::string_view::npos;
        if (escape) take();
        const int64_t here = line_;
        pieces.back().push_back({escape ? take_raw() : take(), true, here});
      }
    }
    if (ended()) fail(line, "the quote opened here is never closed");
    take();
    return pieces;
  }

  Text backquoted() {
    const size_t begin = at_;
    const int64_t line = line_;
    take();
    while (at_ < text_.size() && text_[at_] != '`') take_raw();
    if (at_ >= text_.size()) fail(line, "the quote opened here is never closed");
    take_raw();
    return unevaluated(begin, line);
  }

  // ------------------------------------------------------------------------------------------------------- expansions
  Text literal(std::string_view text, int64_t line, bool known) {
    Text result;
    for (const char c : text) result.push_back({c, known, line});
    return result;
  }
  Text unevaluated(size_t begin, int64_t line) {
    const std::string text = text_.substr(begin, at_ - begin);
    return literal(text, line, false);
  }

  // At a '$': the pieces that it becomes, of which only a list has several.
  void dollar(std::vector<Text>& pieces) {
    const size_t begin = at_;
    const int64_t line = line_;
    take();
    const char c = ended() ? '\0' : peek();
    if (next_is("((")) {
      pieces.push_back(arithmetic(begin, line));
    } else if (c == '(') {
      bracketed('(', ')');
      pieces.push_back(unevaluated(begin, line));
    } else if (c == '{') {
      braces(begin, line, pieces);
    } else if (starts_name(c)) {
      const size_t first = at_;
      while (at_ < text_.size() && continues_name(text_[at_])) ++at_;
      named(text_.substr(first, at_ - first), begin, line, pieces);
    } else if (std::isdigit(static_cast<unsigned char>(c)) != 0 ||
               (c != '\0' && std::string_view("@*#?$!-").find(c) != std::string_view::npos)) {
      take();
      pieces.push_back(unevaluated(begin, line));
    } else {
      pieces.push_back(literal("$", line, true));
    }
  }

  // $NAME, ${NAME}
  void named(const std::string& name, size_t begin, int64_t line, std::vector<Text>& pieces) {
    const auto found = values_.find(name);
    if (found != values_.end()) {
      mark_used(name);
      pieces.push_back(found->second.items.empty() ? Text{} : found->second.items.front());
    } else if (const std::optional<int64_t> count = of_slurm(name)) {
      pieces.push_back(literal(std::to_string(*count), line, true));
    } else {
      pieces.push_back(unevaluated(begin, line));
    }
  }

  void braces(size_t begin, int64_t line, std::vector<Text>& pieces) {
    bracketed('{', '}');
    const std::string body = text_.substr(begin + 2, at_ - begin - 3);
    size_t end = 0;
    while (end < body.size() && continues_name(body[end])) ++end;
    const std::string name = body.substr(0, end), rest = body.substr(end);
    const auto found = values_.find(name);
    if (rest.empty() && !name.empty()) return named(name, begin, line, pieces);
    if (found != values_.end() && (rest == "[@]" || rest == "[*]")) {
      mark_used(name);
      pieces.insert(pieces.end(), found->second.items.begin(), found->second.items.end());
      return;
    }
    const bool otherwise = rest.starts_with(":-") || rest.starts_with(":=");
    if (otherwise && found != values_.end()) return named(name, begin, line, pieces);
    const std::string fallback = otherwise ? rest.substr(2) : "";
    if (otherwise && fallback.find_first_of("$`\"'\\") == std::string::npos) {
      remark(line, fmt::format("`${{{}}}`: taken as '{}'; the environment may say otherwise", body, fallback));
      pieces.push_back(literal(fallback, line, true));
      return;
    }
    pieces.push_back(unevaluated(begin, line));
  }

  Text arithmetic(size_t begin, int64_t line) {
    bracketed('(', ')');
    const std::string_view body = std::string_view(text_).substr(begin + 3, at_ - begin - 5);
    const auto number_of = [&](std::string_view name) -> std::optional<int64_t> {
      const auto found = values_.find(std::string(name));
      if (found == values_.end()) return of_slurm(name);
      mark_used(std::string(name));
      if (found->second.items.empty()) return {};
      const Text& text = found->second.items.front();
      const bool known = std::all_of(text.begin(), text.end(), [](const Char& each) { return each.known; });
      int64_t value = 0;
      return known && read_whole(plain(text), value) ? std::optional(value) : std::nullopt;
    };
    if (const std::optional<int64_t> value = shell_arithmetic(body, number_of))
      return literal(std::to_string(*value), line, true);
    return unevaluated(begin, line);
  }

  // What Slurm puts into the environment, as far as #SBATCH lines say it.
  std::optional<int64_t> of_slurm(std::string_view name) const {
    std::vector<std::string_view> options;
    if (name == "SLURM_NNODES" || name == "SLURM_JOB_NUM_NODES") options = {"-N", "--nodes"};
    if (name == "SLURM_NTASKS" || name == "SLURM_NPROCS") options = {"-n", "--ntasks"};
    if (name == "SLURM_NTASKS_PER_NODE") options = {"--ntasks-per-node"};
    std::optional<int64_t> result;
    for (const std::string_view option : options) {
      for (const ShellCommand& directive : script_.directives) {
        for (size_t at = 0; at < directive.words.size(); ++at) {
          const std::string_view word = directive.words[at].text;
          std::string_view text;
          if (word == option && at + 1 < directive.words.size()) text = directive.words[at + 1].text;
          if (word.starts_with(option) && word.size() > option.size())
            text = word.substr(option.size() + (word[option.size()] == '=' ? 1 : 0));
          int64_t value = 0;
          if (read_whole(text, value)) result = value;
        }
      }
    }
    return result;
  }

  void grow(size_t characters) {
    characters_ += characters;
    if (characters_ <= kMostCharacters) return;
    throw Error(fmt::format("{}:{}: the script's variables grow past {} characters", name_, line_, kMostCharacters),
                "Give `ridgeline migrate` the command line alone, in a file.");
  }

  int depth_ = 0;                // of if, for, … that are open
  bool conditional_ = false;     // behind && or ||
  size_t first_assignment_ = 0;  // of the current command
  size_t characters_ = 0;
  std::string output_;  // the file that the current command writes to
  std::vector<Pending> pending_;
  std::map<std::string, Value> values_;
  ShellScript script_;
};

}  // namespace

ShellScript read_shell_script(std::string_view text, std::string_view name) {
  return ScriptReader(text, name).run();
}

}  // namespace ridgeline::migrate

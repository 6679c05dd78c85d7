// Launch scripts, read without being run: variables, quotes, arrays, arithmetic, continued lines, #SBATCH lines and
// here-documents. What only a running shell can know (output of commands, branches, the environment) is left as it is
// written, and marked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::migrate {

struct Word {
  std::string text;
  int64_t line = 0;   // where its first character stands: for one out of a variable, where that was set
  bool known = true;  // false: `text` holds something that could not be evaluated, as it is written
};

struct ShellCommand {
  std::vector<Word> words;  // at least one
  int64_t line = 0;
};

struct ShellVariable {
  std::string name, value;
  int64_t line = 0;
  bool used = false;  // expanded later, or handed on by `export`
};

struct ShellRemark {
  int64_t line = 0;
  std::string text;
};

struct ShellScript {
  std::vector<ShellCommand> commands;            // in the order of the text; those inside `if` and loops too
  std::vector<ShellCommand> directives;          // the words behind #SBATCH
  std::vector<ShellVariable> variables;          // one for every assignment
  std::map<std::string, std::string> documents;  // file name -> text of a here-document that is written to it
  std::vector<ShellRemark> remarks;              // what was not evaluated
};

// Error that names `name` and the line for a quote, bracket or here-document that is never closed, and for a script
// whose variables grow without bound.
ShellScript read_shell_script(std::string_view text, std::string_view name);

}  // namespace ridgeline::migrate

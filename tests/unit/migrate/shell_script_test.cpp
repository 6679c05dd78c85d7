// The part of the shell's language that launch scripts use.
#include "ridgeline/migrate/shell_script.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"

namespace ridgeline::migrate {
namespace {

using testing::ElementsAre;

std::vector<std::string> words_of_last(const std::string& text) {
  std::vector<std::string> words;
  const ShellScript script = read_shell_script(text, "x.sh");
  if (script.commands.empty()) return words;
  for (const Word& word : script.commands.back().words) words.push_back(word.known ? word.text : "?" + word.text);
  return words;
}

TEST(ShellScript, ExpandsVariablesAsTheShellDoes) {
  EXPECT_THAT(words_of_last("A=1\nB=\"x $A\"\nrun $B \"$B\" '$B' ${A}b \\$A"),
              ElementsAre("run", "x", "1", "x 1", "$B", "1b", "$A"));
  EXPECT_THAT(words_of_last("A='--x 1 --y \"2\"'; run $A"), ElementsAre("run", "--x", "1", "--y", "\"2\""));
  EXPECT_THAT(words_of_last("A=\"--x\"\nA+=\" 1\"\nrun $A"), ElementsAre("run", "--x", "1"));
  EXPECT_THAT(words_of_last("A=\nrun $A \"$A\" b"), ElementsAre("run", "", "b"));
  EXPECT_THAT(words_of_last("export A=3 B=4\nrun $A$B"), ElementsAre("run", "34"));
}

TEST(ShellScript, JoinsContinuedLinesAndKeepsWhereAWordStands) {
  const ShellScript script = read_shell_script("A=\"--x 1 \\\n  --y 2\"\n\nrun \\\n  a \\\n  $A\n", "x.sh");
  ASSERT_EQ(script.commands.size(), 1U);
  std::vector<std::pair<std::string, int64_t>> words;
  for (const Word& word : script.commands[0].words) words.emplace_back(word.text, word.line);
  using Pair = std::pair<std::string, int64_t>;
  EXPECT_THAT(words,
              ElementsAre(Pair("run", 4), Pair("a", 5), Pair("--x", 1), Pair("1", 1), Pair("--y", 2), Pair("2", 2)));
}

TEST(ShellScript, ComputesWithWholeNumbers) {
  EXPECT_THAT(words_of_last("A=3\nB=$((A * 4 + 2))\nrun $B $(( (B - 2) / $A )) $((${A}%2)) $((-A))"),
              ElementsAre("run", "14", "4", "1", "-3"));
  // What is no number, or none that 64 bits hold, is left as it is written.
  EXPECT_THAT(words_of_last("run $((1/0)) $((9223372036854775807+1)) $((2**3))"),
              ElementsAre("run", "?$((1/0))", "?$((9223372036854775807+1))", "?$((2**3))"));
}

TEST(ShellScript, KnowsArrays) {
  EXPECT_THAT(words_of_last("A=(--x 1 # one\n '2 3')\nA+=(4)\nrun \"${A[@]}\" end"),
              ElementsAre("run", "--x", "1", "2 3", "4", "end"));
  EXPECT_THAT(words_of_last("A=(--x '2 3')\nrun ${A[@]} $A"), ElementsAre("run", "--x", "2", "3", "--x"));
}

TEST(ShellScript, LeavesWhatOnlyARunningShellKnows) {
  EXPECT_THAT(words_of_last("run $(hostname -i) `date` $HOME a"),
              ElementsAre("run", "?$(hostname -i)", "?`date`", "?$HOME", "a"));
  EXPECT_THAT(words_of_last("A=1\nif [ -n \"$X\" ]; then\n  A=2\nfi\nrun $A"), ElementsAre("run", "?2"));
  EXPECT_THAT(words_of_last("A=1\n[ -n \"$X\" ] && A=2\nrun $A"), ElementsAre("run", "?2"));
  const ShellScript script = read_shell_script("if true; then\n  source env.sh\nfi\nrun ${A:-4}\n", "x.sh");
  ASSERT_EQ(script.remarks.size(), 3U);
  EXPECT_EQ(script.remarks[0].line, 1);
  EXPECT_THAT(script.remarks[1].text, testing::HasSubstr("source env.sh"));
  EXPECT_THAT(script.remarks[2].text, testing::HasSubstr("taken as '4'"));
}

TEST(ShellScript, TellsCommandsCommentsAndRedirectionsApart) {
  EXPECT_THAT(words_of_last("one; run a#b 'c' > out.txt 2>&1 # comment\n"), ElementsAre("run", "a#b", "c"));
  EXPECT_EQ(read_shell_script("a | b && c &\nd\r\n", "x.sh").commands.size(), 4U);
  const ShellScript script = read_shell_script("#SBATCH -N 4 --ntasks-per-node=8 # both\n#SBATCH -n 32\n", "x.sh");
  ASSERT_EQ(script.directives.size(), 2U);
  EXPECT_EQ(script.directives[0].words.size(), 3U);
  EXPECT_THAT(words_of_last("#SBATCH -N 4\nrun $((SLURM_NNODES * 8))"), ElementsAre("run", "32"));
}

TEST(ShellScript, KeepsFilesThatItWrites) {
  const ShellScript script = read_shell_script("M=4\ncat <<EOF > conf/ds.json\n{\"micro\": $M}\nEOF\nrun\n", "x.sh");
  EXPECT_EQ(script.documents.at("ds.json"), "{\"micro\": 4}\n");
  EXPECT_EQ(script.commands.back().words.front().text, "run");
  EXPECT_EQ(script.commands.back().line, 5);
}

TEST(ShellScript, KnowsWhichVariablesAreUsed) {
  const ShellScript script = read_shell_script("A=1\nB=2\nexport C=3\nrun $A\n", "x.sh");
  ASSERT_EQ(script.variables.size(), 3U);
  EXPECT_TRUE(script.variables[0].used);
  EXPECT_FALSE(script.variables[1].used);
  EXPECT_TRUE(script.variables[2].used);
  EXPECT_TRUE(read_shell_script("A=1 run\n", "x.sh").variables[0].used);
  // What a branch may replace, and what it may set, is not called unused.
  for (const ShellVariable& variable : read_shell_script("A=1\nif x; then A=2; fi\nrun $A\n", "x.sh").variables)
    EXPECT_TRUE(variable.used);
}

TEST(ShellScript, NamesTheLineOfWhatIsNeverClosed) {
  for (const auto& [text, line] : {std::pair{"a\nrun 'x\n", 2},
                                   {"run \"x\n\n", 1},
                                   {"A=(1 2\n", 1},
                                   {"\n\nrun ${A\n", 3},
                                   {"cat <<EOF\nx\n", 1},
                                   {"run $(x\n", 1}}) {
    try {
      read_shell_script(text, "x.sh");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_TRUE(error.message().starts_with("x.sh:" + std::to_string(line) + ":")) << error.message();
    }
  }
}

TEST(ShellScript, BoundsWhatVariablesGrowTo) {
  std::string text = "A=xxxxxxxxxxxxxxxx\n";
  for (int doubling = 0; doubling < 40; ++doubling) text += "A=$A$A\n";
  EXPECT_THROW(read_shell_script(text, "x.sh"), Error);
}

}  // namespace
}  // namespace ridgeline::migrate

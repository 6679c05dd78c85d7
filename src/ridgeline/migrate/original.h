// What all translations share: the sources of one run, and the parts of it that DeepSpeed's JSON decides.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/migrate/arguments.h"
#include "ridgeline/migrate/deepspeed_json.h"
#include "ridgeline/migrate/draft.h"
#include "ridgeline/migrate/python_script.h"

namespace ridgeline::migrate {

struct Original {
  Arguments flags;
  DeepSpeedJson* json = nullptr;         // null: DeepSpeed takes no part
  const PythonScript* python = nullptr;  // null: not among the sources
  std::string script;                    // of the command, "pretrain_gpt.py"
  std::string model;                     // what the user says it is; "" for nothing
  int64_t world = 0;                     // ranks; 0: not said
  char joint = '_';                      // between the words of a flag: "--min-lr", "--max_steps"

  // As the original's users write it.
  std::string spelled(std::string_view flag) const;
  // Where a flag's value comes from: "`--min-lr 0` (launch.sh:31)"; of one that was not given, or is not known,
  // "Megatron's default of --min-lr", by whose it is. Counts as reading it.
  std::string where(std::string_view flag, std::string_view default_of);
};
inline constexpr std::string_view kMegatrons = "Megatron's", kTrainers = "The Trainer's";

// How a flag becomes a key, a row for each that needs no other. Flags that are read together with others have a row too
// (`combined`), so that a table is the list of all names that are known.
enum class Translation : uint8_t { whole, number, text, combined, nothing };
struct FlagRow {
  std::string_view name;
  Translation translation;
  std::string_view target;    // the key; of `nothing`: why
  std::string_view fallback;  // the original's default in TOML's spelling, where it differs from Ridgeline's; or ""
};
// Applies the rows but `combined`. `default_of`: whose defaults they are ("Megatron's").
void translate_rows(std::span<const FlagRow> rows, std::string_view default_of, Original& original, Draft& draft);
// Flags whose name is the beginning of a single row's: argparse completes them.
void complete_abbreviations(std::span<const FlagRow> rows, Original& original, Draft& draft);
// Repeated, unevaluated, combined but unread, and unknown flags.
void report_flags(std::span<const FlagRow> rows, const Original& original, Draft& draft);

// What ZeRO cuts: the stage, offloading, groups. `data_parallel`: ranks that it can cut over.
void translate_zero(Original& original, int64_t data_parallel, Draft& draft);
// 0 when the JSON names none.
int64_t zero_stage(DeepSpeedJson& json);
// fp16's loss scale, by DeepSpeed's rules from the JSON, or by Megatron's from --fp16 and its flags.
void translate_loss_scale(Original& original, Draft& draft);
void translate_megatron_loss_scale(Original& original, Draft& draft);
// The optimizer's and the scheduler's blocks, where DeepSpeed makes both. `steps`: the run's, 0 when not known.
void translate_optimizer_block(Original& original, Draft& draft);
bool translate_scheduler_block(Original& original, int64_t steps, Draft& draft);
// Whatever else the JSON holds: known without an equivalent, or unknown.
void report_json(Original& original, Draft& draft);

// Datasets, splits, and how documents are kept apart, out of Megatron's flags.
void translate_megatron_data(Original& original, Draft& draft);

// The three kinds of original.
bool is_megatron(const Arguments& flags);
void translate_megatron(Original& original, Draft& draft);
void translate_hugging_face(Original& original, Draft& draft);
void translate_deepspeed_alone(Original& original, Draft& draft);

// "gpt-j-6B", "models/gpt2-xl" -> the preset of that model, or "".
std::string preset_of(std::string_view name);
// [model] out of a name: a preset, or a folder to start from. `from` says where it was named.
void set_model(const std::string& name, const std::string& from, Draft& draft);

}  // namespace ridgeline::migrate

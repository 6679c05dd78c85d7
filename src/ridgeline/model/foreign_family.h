// Models of other families, as far as a refusal can say what they would need. Internal to the room.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::model {

// What the model of a config.json has that no block here has: what its model_type is known for, then what its keys say
// ("sliding-window attention (sliding_window = 4096)"). Empty when neither tells.
std::vector<std::string> missing_features(const nlohmann::json& config);

// Error with the model_type, the families there are and the missing features.
[[noreturn]] void refuse_foreign_family(const nlohmann::json& config, std::string_view where);

// Error for a model, of whatever family, whose weights are stored quantized.
void require_float_weights(const nlohmann::json& config, std::string_view where);

}  // namespace ridgeline::model

// SPDX-License-Identifier: Apache-2.0
#include "verify_reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <optional>
#include <sstream>

#include "base/json.h"
#include "base/mapped_file.h"
#include "engine/generator.h"
#include "model/safetensors.h"
#include "program.h"

namespace rill::apps {
namespace {

/// What reference.json and reference.safetensors say.
struct Reference {
  std::vector<int32_t> prompt, greedy, kept;
  std::vector<double> logits;  // [kept][vocabulary]
  double float32_max_error = 0, bfloat16_rms_error = 0;
};

std::vector<int32_t> ids_of(const JsonObject& object, const char* key, size_t vocabulary) {
  const Json* list = object.find(key);
  if (list == nullptr || !list->is_array() || list->empty())
    object.wrong(key, "a list of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : *list) {
    const bool good =
        id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<uint64_t>() < vocabulary;
    if (!good) object.wrong(key, "ids from 0 to " + std::to_string(vocabulary - 1));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

const TensorInfo& tensor_of(const std::vector<TensorInfo>& tensors, const std::string& name,
                            DType dtype, const std::string& file) {
  for (const TensorInfo& tensor : tensors) {
    if (tensor.name != name) continue;
    if (tensor.dtype != dtype) {
      fail(file, ": ", name, " is of type ", dtype_name(tensor.dtype), ", expected ",
           dtype_name(dtype), "; write the reference again");
    }
    return tensor;
  }
  fail(file, " has no tensor ", name, "; write the reference again");
}

template <class T>
std::vector<T> values(const TensorInfo& tensor) {
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  std::memcpy(out.data(), tensor.bytes.data(), out.size() * sizeof(T));
  return out;
}

Reference load_reference(const std::filesystem::path& folder, const ModelConfig& config) {
  const std::string json_name = (folder / "reference.json").string();
  const Json json = load_json(json_name);
  const JsonObject object(json, json_name, "", "write the reference again");
  Reference reference;
  reference.prompt = ids_of(object, "prompt", config.vocab_size);
  reference.greedy = ids_of(object, "greedy", config.vocab_size);
  reference.float32_max_error = object.number("transformers_float32_max_error");
  reference.bfloat16_rms_error = object.number("transformers_bfloat16_rms_error");

  const MappedFile file = MappedFile::open(folder / "reference.safetensors");
  const std::vector<TensorInfo> tensors = parse_safetensors(file.bytes(), file.name());
  const TensorInfo& kept = tensor_of(tensors, "kept", DType::I32, file.name());
  const TensorInfo& logits = tensor_of(tensors, "logits_f64", DType::F64, file.name());
  reference.kept = values<int32_t>(kept);
  reference.logits = values<double>(logits);
  const std::vector<size_t> shape = {reference.kept.size(), config.vocab_size};
  if (logits.shape != shape) {
    fail(file.name(), ": logits_f64 is ", shape_text(logits.shape), ", expected ",
         shape_text(shape), "; is it the reference of this model?");
  }
  for (const int32_t position : reference.kept) {
    if (position < 0 || static_cast<size_t>(position) >= reference.prompt.size()) {
      fail(file.name(), ": kept holds ", position, ", expected places from 0 to ",
           reference.prompt.size() - 1, "; write the reference again");
    }
  }
  return reference;
}

struct Errors {
  double largest = 0, rms = 0;
};

Errors errors(const std::vector<float>& logits, const Reference& reference, size_t vocabulary) {
  Errors found;
  for (size_t row = 0; row < reference.kept.size(); ++row) {
    const float* ours = logits.data() + static_cast<size_t>(reference.kept[row]) * vocabulary;
    const double* theirs = reference.logits.data() + row * vocabulary;
    for (size_t i = 0; i < vocabulary; ++i) {
      const double error = ours[i] - theirs[i];
      found.largest = std::max(found.largest, std::abs(error));
      found.rms += error * error;
    }
  }
  found.rms = std::sqrt(found.rms / static_cast<double>(reference.logits.size()));
  return found;
}

class Comparison {
 public:
  Comparison(const CommonOptions& common, const Reference& reference)
      : common_(common), reference_(reference) {}

  bool compute(ComputeType type) {
    LoadOptions load = common_.load_options();
    load.arithmetic.compute = type;
    load.session.context = reference_.prompt.size() + reference_.greedy.size();
    load.session.chunk = std::min(load.session.chunk, reference_.prompt.size());
    load.session.logits = load.session.chunk;
    const auto model = LoadedModel::load(common_.model, load);
    bool good = true;
    for (const AttentionType attention : {AttentionType::STANDARD, AttentionType::STREAMING})
      good = run(*model, attention, type) && good;
    return good;
  }

 private:
  bool run(LoadedModel& model, AttentionType attention, ComputeType type) {
    Arithmetic arithmetic = model.arithmetic;
    arithmetic.attention_type = attention;
    Session session(model, arithmetic, model.runtime(), model.session);
    const Errors found =
        errors(session.logits(reference_.prompt), reference_, model.config.vocab_size);
    GenerateOptions options;
    options.sampling.greedy = true;
    options.ignore_end_of_text = true;
    options.max_tokens = reference_.greedy.size();
    Generator generator(model, session, nullptr);
    const std::vector<int32_t> tokens = generator.generate(reference_.prompt, options).tokens;
    size_t equal = 0;
    while (equal < tokens.size() && tokens[equal] == reference_.greedy[equal]) ++equal;

    print(describe(arithmetic) + "; isa " + model.kernels.name + "\n");
    if (type == ComputeType::F32) {
      const bool near = row("largest error of the logits", found.largest,
                            4 * std::max(reference_.float32_max_error, 2e-6));
      const bool same = equal == reference_.greedy.size();
      line("greedy tokens that agree",
           std::to_string(equal) + " of " + std::to_string(reference_.greedy.size()), "all", same);
      return near && same;
    }
    print("  (greedy tokens that agree: " + std::to_string(equal) + " of " +
          std::to_string(reference_.greedy.size()) + ", largest error " + number(found.largest) +
          ")\n");
    return row("rms error of the logits", found.rms, 0.75 * reference_.bfloat16_rms_error);
  }

  static std::string number(double value) {
    std::ostringstream text;
    text << std::setprecision(3) << value;
    return text.str();
  }
  static void line(const std::string& what, const std::string& found, const std::string& allowed,
                   bool good) {
    std::ostringstream text;
    text << "  " << std::left << std::setw(30) << what << "found " << std::setw(12) << found
         << "allowed " << std::setw(12) << allowed << (good ? "PASS" : "FAIL") << "\n";
    print(text.str());
  }
  /// One value against its limit; a NaN fails.
  static bool row(const std::string& what, double found, double allowed) {
    const bool good = found <= allowed;
    line(what, number(found), number(allowed), good);
    return good;
  }

  const CommonOptions& common_;
  const Reference& reference_;
};

}  // namespace

int verify_reference(const CommonOptions& common, const std::string& folder) {
  const WeightType weights = common.arithmetic.weights;
  if (weights == WeightType::INT8 || weights == WeightType::INT4) {
    throw UsageError(std::string("--reference says how near unquantised weights must come, so "
                                 "--weights ") +
                     to_string(weights) + " cannot be judged; leave it out");
  }
  if (common.arithmetic.kv == KvType::INT8)
    throw UsageError(
        "--reference says how near an unquantised cache must come, so --kv int8 "
        "cannot be judged; leave it out");
  const std::filesystem::path path(folder);
  const Reference reference =
      load_reference(std::filesystem::is_regular_file(path) ? path.parent_path() : path,
                     ModelConfig::load(common.model));
  print(common.model + ": " + std::to_string(reference.prompt.size()) +
        " tokens of prompt, logits compared at " + std::to_string(reference.kept.size()) +
        " of them\n");
  std::vector<ComputeType> computes = {ComputeType::F32, ComputeType::BF16, ComputeType::BF16X32};
  if (common.arithmetic.compute != ComputeType::AUTO) computes = {common.arithmetic.compute};
  Comparison comparison(common, reference);
  bool good = true;
  for (const ComputeType compute : computes) good = comparison.compute(compute) && good;
  print(good ? "PASS\n" : "FAIL\n");
  return good ? 0 : 1;
}

}  // namespace rill::apps

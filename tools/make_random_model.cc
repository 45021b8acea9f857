// SPDX-License-Identifier: Apache-2.0
// rill-make-model: writes a Qwen3 checkpoint of a published or any other size with random weights,
// so that loading, speed and memory can be tried at full size without a download.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/fixed_math.h"
#include "base/half.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "mistake.h"
#include "model/checkpoint.h"

extern char** environ;

namespace rill {
namespace {

namespace fs = std::filesystem;

struct Options {
  fs::path out;
  std::string shape = "qwen3-0.6b";
  fs::path config;
  std::map<std::string, size_t> sizes;  // config.json's key -> value
  std::optional<bool> tied;
  std::string dtype = "bf16";
  size_t shards = 1;
  bool redundant_head = false;
  uint64_t seed = 1;
  fs::path tokenizer;
};

// ---- random numbers -------------------------------------------------------------------------

/// The normal distribution's quantile function, by P. J. Acklam's rational approximation (relative
/// error below 1.2e-9). 0 < p < 1.
double normal_quantile(double p) {
  constexpr std::array a{-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                         1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr std::array b{-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                         6.680131188771972e+01, -1.328068155288572e+01};
  constexpr std::array c{-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                         -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr std::array d{7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                         3.754408661907416e+00};
  constexpr double kTail = 0.02425;
  if (p > 0.5) return -normal_quantile(1 - p);
  if (p < kTail) {
    const double q = std::sqrt(-2 * fixed::log(p));
    return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
  }
  const double q = p - 0.5, r = q * q;
  return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
         (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

constexpr size_t kQuantiles = 65536;

std::vector<double> normal_quantiles() {
  std::vector<double> table(kQuantiles);
  for (size_t i = 0; i < kQuantiles; ++i) {
    table[i] = normal_quantile((static_cast<double>(i) + 0.5) / kQuantiles);
  }
  return table;
}

/// SplitMix64 (Steele, Lea, Flood 2014): word `counter` of the stream `key`.
uint64_t random_word(uint64_t key, uint64_t counter) {
  uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// A stream of its own for each tensor, so that its weights do not depend on its neighbours.
uint64_t stream_key(uint64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return random_word(seed, hash);
}

// ---- weights --------------------------------------------------------------------------------

struct Distribution {
  double mean, deviation;
};

/// Chosen so that activations and logits stay of the size of a trained model's.
Distribution distribution_of(const TensorSpec& tensor) {
  const std::string& name = tensor.name;
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("q_norm") || has("k_norm")) return {1.6, 0.4};
  if (has("norm.weight")) return {1, 0.25};
  if (name.ends_with(".bias")) return {0, 0.1};
  return {0,
          (has("embed_tokens") ? 1.0 : 1.3) / std::sqrt(static_cast<double>(tensor.shape.back()))};
}

/// Streams one tensor: sixteen random bits choose one of 65,536 quantiles, already scaled and
/// rounded to the tensor's type. Element is uint16_t (BF16, F16) or float.
template <class Element>
void write_values(SafetensorsWriter& writer, const std::vector<Element>& table, size_t count,
                  uint64_t key) {
  constexpr size_t kChunk = size_t{1} << 18;
  std::vector<Element> chunk(kChunk);
  for (size_t done = 0; done < count; done += kChunk) {
    for (size_t i = 0; i < kChunk; i += 4) {
      const uint64_t word = random_word(key, (done + i) / 4);
      for (size_t part = 0; part < 4; ++part) {
        chunk[i + part] = table[(word >> (16 * part)) & 0xffff];
      }
    }
    writer.write(std::as_bytes(std::span(chunk).first(std::min(kChunk, count - done))));
  }
}

void write_tensor(SafetensorsWriter& writer, const TensorSpec& tensor,
                  const std::vector<double>& quantiles, uint64_t key) {
  const Distribution to = distribution_of(tensor);
  std::vector<float> values(kQuantiles);
  std::transform(quantiles.begin(), quantiles.end(), values.begin(),
                 [&](double z) { return static_cast<float>(to.mean + to.deviation * z); });
  const size_t count = tensor.byte_size() * 8 / dtype_bits(tensor.dtype);
  if (tensor.dtype == DType::F32) return write_values(writer, values, count, key);
  std::vector<uint16_t> halves(kQuantiles);
  const auto convert = tensor.dtype == DType::BF16 ? float_to_bf16 : float_to_f16;
  std::transform(values.begin(), values.end(), halves.begin(), convert);
  write_values(writer, halves, count, key);
}

// ---- the folder -----------------------------------------------------------------------------

void write_text(const fs::path& path, std::string_view text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

DType dtype_of(const std::string& name) {
  return name == "bf16" ? DType::BF16 : name == "f16" ? DType::F16 : DType::F32;
}

/// The text of config.json: a published one, or a given file, with the sizes of the command line.
std::string config_text(const Options& options) {
  const std::string base = options.config.empty()
                               ? published_model(options.shape).config_json()
                               : std::string(MappedFile::open(options.config).text());
  const bool changed = !options.sizes.empty() || options.tied || options.dtype != "bf16";
  if (!changed) return base;
  parse_json(base, options.config.string());  // its errors name the file
  auto config = nlohmann::ordered_json::parse(base);
  for (const auto& [key, value] : options.sizes) config[key] = value;
  if (options.tied) config["tie_word_embeddings"] = *options.tied;
  if (options.sizes.contains("num_hidden_layers")) {
    config["max_window_layers"] = config["num_hidden_layers"];
  }
  if (options.sizes.contains("vocab_size")) {  // the published ids lie beyond a smaller vocabulary
    config["eos_token_id"] = options.sizes.at("vocab_size") - 1;
    config["bos_token_id"] = nullptr;
  }
  const char* name = options.dtype == "f16"   ? "float16"
                     : options.dtype == "f32" ? "float32"
                                              : "bfloat16";
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  return config.dump(2) + "\n";
}

std::string generation_config_text(const ModelConfig& config) {
  std::vector<int32_t> eos = config.eos_token_ids;
  if (eos == std::vector<int32_t>{151645}) eos.push_back(151643);
  nlohmann::ordered_json json;
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  json["do_sample"] = true;
  json["eos_token_id"] = eos;
  if (config.bos_token_id) json["pad_token_id"] = *config.bos_token_id;
  json["temperature"] = 0.6;
  json["top_k"] = 20;
  json["top_p"] = 0.95;
  json["transformers_version"] = "4.51.0";
  return json.dump(2) + "\n";
}

/// Runs of tensors of about the same number of bytes.
std::vector<std::vector<TensorSpec>> split(const std::vector<TensorSpec>& tensors, size_t shards) {
  if (shards > tensors.size()) {
    fail("--shards is ", shards, ", expected at most ", tensors.size(),
         ", the number of tensors; give fewer");
  }
  size_t total = 0, before = 0;
  for (const TensorSpec& tensor : tensors) total += tensor.byte_size();
  std::vector<std::vector<TensorSpec>> parts(shards);
  for (size_t i = 0, part = 0; i < tensors.size(); ++i) {
    const bool due = before >= total / shards * (part + 1);
    const bool needed = tensors.size() - i < shards - part;  // one tensor each is left
    if (part + 1 < shards && !parts[part].empty() && (due || needed)) ++part;
    parts[part].push_back(tensors[i]);
    before += tensors[i].byte_size();
  }
  return parts;
}

void write_weights(const fs::path& folder, const Options& options, const ModelConfig& config) {
  std::vector<TensorSpec> tensors = model_tensors(config, dtype_of(options.dtype));
  if (options.redundant_head && config.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", tensors[0].dtype, tensors[0].shape});
  }
  const std::vector<double> quantiles = normal_quantiles();
  const auto parts = split(tensors, options.shards);
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = size_t{0};
  for (size_t i = 0; i < parts.size(); ++i) {
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", i + 1,
                  parts.size());
    const fs::path file = parts.size() == 1 ? "model.safetensors" : name.data();
    SafetensorsWriter writer(folder / file, parts[i], {{"format", "pt"}});
    for (const TensorSpec& tensor : parts[i]) {
      const bool copy = config.tie_word_embeddings && tensor.name == "lm_head.weight";
      TensorSpec source = tensor;
      if (copy) source.name = "model.embed_tokens.weight";
      write_tensor(writer, source, quantiles, stream_key(options.seed, source.name));
      index["weight_map"][tensor.name] = file.string();
      index["metadata"]["total_size"] =
          index["metadata"]["total_size"].get<size_t>() + tensor.byte_size();
    }
    writer.commit();
  }
  if (parts.size() > 1) write_text(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

/// Runs `xz -dc from` with its output in `to`.
void decompress(const fs::path& from, const fs::path& to) {
  const std::string input = from.string(), output = to.string();
  std::string program = "xz", flags = "-dc", end_of_flags = "--", file = input;
  std::array<char*, 5> arguments{program.data(), flags.data(), end_of_flags.data(), file.data(),
                                 nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output.c_str(),
                                     O_WRONLY | O_CREAT | O_EXCL, 0666);
  pid_t child = 0;
  const int error =
      ::posix_spawnp(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (error != 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status) ||
      WEXITSTATUS(status) != 0) {
    fail("cannot decompress ", input, error != 0 ? " (xz cannot be run)" : " (xz failed)",
         ", expected an .xz file and the program xz; install xz-utils or decompress it yourself");
  }
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  std::error_code error;
  const bool packed = !fs::exists(from / "tokenizer.json", error);
  if (packed && !fs::exists(from / "tokenizer.json.xz", error)) {
    fail("--tokenizer: ", from.string(), " holds no tokenizer.json and no tokenizer.json.xz, ",
         "expected one of them; give the folder of a Qwen3 tokenizer");
  }
  if (packed) decompress(from / "tokenizer.json.xz", to / "tokenizer.json");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                           "vocab.json", "merges.txt"}) {
    if (!fs::exists(from / name, error)) continue;
    write_text(to / name, MappedFile::open(from / name).text());
  }
}

/// A folder that is removed again unless it is renamed to its final name.
class OutputFolder {
 public:
  explicit OutputFolder(const fs::path& path) : path_(path) {
    std::error_code error;
    if (!path_.has_filename()) path_ = path_.parent_path();  // "folder/"
    if (path_.empty()) fail("--out is empty, expected the name of a new folder; give one");
    if (fs::exists(path_, error)) {
      fail("--out: ", path_.string(), " exists, expected a new name; choose another or remove it");
    }
    temporary_ = path_;
    temporary_ += "." + std::to_string(::getpid()) + ".partial";
    if (!fs::create_directories(temporary_, error)) {
      fail("--out: cannot create ", path_.string(), " (", error.message(),
           "), expected a folder that can be written; choose another path");
    }
  }
  ~OutputFolder() {
    std::error_code error;
    if (!temporary_.empty()) fs::remove_all(temporary_, error);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const fs::path& path() const { return temporary_; }
  void commit() {
    std::error_code error;
    fs::rename(temporary_, path_, error);
    if (error) fail("--out: cannot rename to ", path_.string(), " (", error.message(), ")");
    temporary_.clear();
  }

 private:
  fs::path path_, temporary_;
};

void make_model(const Options& options) {
  const std::string text = config_text(options);
  const std::string name = options.config.empty() ? options.shape : options.config.string();
  const ModelConfig config = ModelConfig::from_json(text, name);
  OutputFolder folder(options.out);
  if (!options.tokenizer.empty()) copy_tokenizer(options.tokenizer, folder.path());
  write_weights(folder.path(), options, config);
  write_text(folder.path() / "generation_config.json", generation_config_text(config));
  write_text(folder.path() / "config.json", text);
  Checkpoint::open(folder.path()).check(config);
  folder.commit();
  std::printf("%s: %zu parameters, %zu layers, %s, seed %llu\n", options.out.c_str(),
              config.parameter_count(), config.num_layers, options.dtype.c_str(),
              static_cast<unsigned long long>(options.seed));
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("FOLDER,--out", options.out, "folder to write; must not exist")->required();
  std::string names;
  for (const auto& model : published_models()) names += " " + std::string(model.name);
  auto* shape =
      app.add_option("--shape", options.shape, "published size:" + names)->capture_default_str();
  app.add_option("--config", options.config, "start from this config.json instead")
      ->excludes(shape);
  const std::map<std::string, std::string> keys = {
      {"--hidden", "hidden_size"},        {"--layers", "num_hidden_layers"},
      {"--heads", "num_attention_heads"}, {"--kv-heads", "num_key_value_heads"},
      {"--head-dim", "head_dim"},         {"--intermediate", "intermediate_size"},
      {"--vocab", "vocab_size"},          {"--positions", "max_position_embeddings"}};
  for (const auto& [flag, key] : keys) {
    app.add_option_function<size_t>(
        flag, [&options, key = key](size_t value) { options.sizes[key] = value; },
        "overrides " + key);
  }
  app.add_option("--tied", options.tied, "overrides tie_word_embeddings (true or false)");
  app.add_flag("--redundant-head", options.redundant_head,
               "write lm_head.weight beside a tied embedding, as Qwen3-0.6B has it");
  app.add_option("--dtype", options.dtype, "type of the weights: bf16, f16 or f32")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  app.add_option("--shards", options.shards, "number of safetensors files")
      ->check(CLI::Range(1, 99999))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "the same seed gives the same files")
      ->capture_default_str();
  app.add_option("--tokenizer", options.tokenizer,
                 "copy the tokenizer of this folder (tokenizer.json or tokenizer.json.xz)");
}

}  // namespace
}  // namespace rill

int main(int argc, char** argv) {
  CLI::App app{"Writes a Qwen3 checkpoint with random weights.", "rill-make-model"};
  app.footer("Example: rill-make-model /tmp/qwen3-0.6b --shape qwen3-0.6b --tokenizer FOLDER");
  rill::Options options;
  rill::add_options(app, options);
  const std::vector<std::string> words(argv + 1, argv + argc);
  std::string mistake;
  try {
    app.parse(argc, argv);
    mistake = rill::apps::overlooked_mistake(app, words);
  } catch (const CLI::ParseError& error) {
    mistake = rill::apps::explain_mistake(app, words, error);
    if (mistake.empty()) return app.exit(error);  // --help
  }
  if (!mistake.empty()) {
    std::fprintf(stderr, "rill-make-model: %s\n", mistake.c_str());
    return 2;
  }
  try {
    rill::make_model(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rill-make-model: %s\n", error.what());
    return 1;
  }
  return 0;
}

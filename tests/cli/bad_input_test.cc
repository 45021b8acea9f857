// SPDX-License-Identifier: Apache-2.0
// What a user can get wrong: each gets one sentence that names it, the right exit status, and
// leaves nothing half-written.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/output_file.h"
#include "base/topology.h"
#include "cli/process.h"
#include "model/test_folder.h"

namespace rill {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

const std::string kGolden = golden("tied-gqa-bf16");

/// Runs and expects `status`, nothing on standard output, and one sentence that holds all `words`.
void expect_refusal(const std::vector<std::string>& arguments, int status, const Words& words,
                    const std::string& input = "") {
  std::string line = "rill";
  for (const std::string& argument : arguments) line += " " + argument.substr(0, 60);
  SCOPED_TRACE(line);
  const Finished run = run_rill(arguments, input);
  EXPECT_EQ(run.status, status) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err.rfind("rill: ", 0), 0u) << run.err;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_LT(run.err.size(), 700u);
  for (const std::string& word : words)
    EXPECT_NE(run.err.find(word), std::string::npos) << "no '" << word << "' in: " << run.err;
}

/// A copy of a golden folder that may be spoilt.
class SpoiltFolder {
 public:
  explicit SpoiltFolder(const std::string& source = kGolden) {
    for (const auto& entry : std::filesystem::directory_iterator(source))
      std::filesystem::copy(entry.path(), folder_.path() / entry.path().filename());
  }
  std::string path() const { return folder_.path().string(); }
  std::string name() const { return folder_.path().filename().string(); }
  std::filesystem::path at(const std::string& name) const { return folder_.path() / name; }
  void write(const std::string& name, const std::string& content) { folder_.write(name, content); }
  void remove(const std::string& name) const { std::filesystem::remove(at(name)); }
  void config(const std::function<void(Json&)>& change) {
    Json json = Json::parse(read_text(at("config.json")));
    change(json);
    write("config.json", json.dump());
  }
  /// A safetensors file with this header and `bytes` behind it.
  void safetensors(const std::string& header, size_t bytes = 0, uint64_t length = 0) {
    if (length == 0) length = header.size();
    std::string file(8, '\0');
    std::memcpy(file.data(), &length, 8);
    write("model.safetensors", file + header + std::string(bytes, '\0'));
  }
  void refuses(const Words& words) const {
    expect_refusal({"logits", path(), "--ids", "1", "--out", path() + "/out"}, 1, words);
    EXPECT_FALSE(std::filesystem::exists(at("out")));
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
      EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
  }

 private:
  TestFolder folder_;
};

TEST(BadInput, CommandLine) {
  expect_refusal({}, 2, {"rill --help"});
  expect_refusal({"sing"}, 2, {"sing"});
  expect_refusal({"run"}, 2, {"MODEL", "rill run --help"});
  expect_refusal({"run", kDemo, "Hi", "--volume", "3"}, 2, {"--volume"});
  expect_refusal({"run", kDemo, "Hi", "there"}, 2, {"there"});
  expect_refusal({"run", kDemo, "Hi", "--threads", "0"}, 2, {"--threads"});
  expect_refusal({"run", kDemo, "Hi", "--threads", "many"}, 2, {"--threads", "many"});
  expect_refusal({"run", kDemo, "Hi", "--attention", "flash"}, 2,
                 {"--attention", "flash", "streaming"});
  expect_refusal({"run", kDemo, "Hi", "--block-size", "48"}, 2, {"--block-size", "48", "16"});
  expect_refusal({"run", kDemo, "Hi", "--block-size", "8"}, 2, {"--block-size", "8"});
  expect_refusal({"run", kDemo, "Hi", "--weights", "int2"}, 2, {"--weights", "int2", "int4"});
  expect_refusal({"run", kDemo, "Hi", "--compute", "f64"}, 2, {"--compute", "f64"});
  expect_refusal({"run", kDemo, "Hi", "--kv", "int4"}, 2, {"--kv", "int4"});
  expect_refusal({"run", kDemo, "Hi", "--isa", "neon"}, 2, {"--isa", "neon", "avx2"});
  expect_refusal({"run", kDemo, "Hi", "--chunk", "0"}, 2, {"--chunk"});
  expect_refusal({"run", kDemo, "Hi", "--temperature", "-1"}, 2, {"--temperature", "-1"});
  expect_refusal({"run", kDemo, "Hi", "--temperature", "nan"}, 2, {"--temperature"});
  expect_refusal({"run", kDemo, "Hi", "--top-p", "1.5"}, 2, {"--top-p", "1.5"});
  expect_refusal({"run", kDemo, "Hi", "--top-k", "-3"}, 2, {"--top-k"});
  expect_refusal({"run", kDemo, "Hi", "--min-p", "7"}, 2, {"--min-p", "7"});
  expect_refusal({"run", kDemo, "Hi", "--max-tokens", "0"}, 2, {"--max-tokens"});
  expect_refusal({"run", kDemo, "Hi", "--stop", ""}, 2, {"--stop"});
  expect_refusal({"run", kDemo, "Hi", "--think", "maybe"}, 2, {"--think", "maybe"});
  expect_refusal({"run", kDemo, "Hi", "--seed", "-1"}, 2, {"--seed"});
}

TEST(BadInput, ContradictoryOptions) {
  expect_refusal({"run", kDemo, "Hi", "--greedy", "--temperature", "1"}, 2,
                 {"--greedy", "--temperature"});
  expect_refusal({"run", kDemo, "Hi", "--raw", "--system", "x"}, 2, {"--raw", "--system"});
  expect_refusal({"logits", kDemo, "--ids", "1", "--ids-file", "x", "--out", "y"}, 2,
                 {"--ids", "--ids-file"});
  expect_refusal({"verify", kDemo, "--reference", kGolden, "--ids", "1"}, 2,
                 {"--reference", "--ids"});
  expect_refusal({"verify", kGolden, "--reference", kGolden, "--weights", "int4"}, 2,
                 {"--weights", "int4"});
  expect_refusal({"tokenize", kDemo, "Hi", "--jsonl"}, 2, {"--jsonl"});
  expect_refusal({"run", kDemo, "Hi", "--compute", "bf16", "--kv", "f32"}, 1,
                 {"--kv", "f32", "bf16"});
}

TEST(BadInput, Ids) {
  const std::string out = "/tmp/never-written";
  expect_refusal({"logits", kGolden, "--out", out}, 2, {"--ids"});
  expect_refusal({"logits", kGolden, "--ids", "1,2"}, 2, {"--out"});
  for (const char* ids : {"1,,2", "1,2,", "one", "1;2", "-1", "99999999999", "1.5", " "})
    expect_refusal({"logits", kGolden, "--ids", ids, "--out", out}, 2, {"--ids"});
  expect_refusal({"logits", kGolden, "--ids", "1,512", "--out", out}, 1, {"512", "511"});
  expect_refusal({"verify", kGolden, "--ids", "1,512"}, 1, {"512", "511"});
  expect_refusal({"logits", kGolden, "--ids-file", "/nowhere", "--out", out}, 1, {"/nowhere"});
  expect_refusal({"logits", kGolden, "--ids", "1,2,3", "--ctx", "2", "--out", out}, 1,
                 {"3", "2", "--ctx"});
  expect_refusal({"logits", kGolden, "--ids", "1", "--ctx", "5000", "--out", out}, 1,
                 {"5000", "4096"});
  expect_refusal({"detokenize", kDemo, "1,x"}, 2, {"x"});
  expect_refusal({"detokenize", kDemo, "123456"}, 1, {"123456"});
  expect_refusal({"detokenize", kDemo}, 1, {"standard input ends at byte 0, expected token ids"});
  expect_refusal({"detokenize", kDemo}, 1, {"standard input ends at byte 2"}, "1,");
  // A stranger's file must not steer the terminal.
  expect_refusal({"detokenize", kDemo}, 1, {R"(standard input holds "\u001b[2J" at byte 2)"},
                 "1,\x1b[2J");
  expect_refusal({"detokenize", kDemo}, 1, {R"(standard input holds "\u001b[2J" at byte 1)"},
                 "1\x1b[2J");
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(BadInput, Prompts) {
  expect_refusal({"run", kDemo, ""}, 1, {"prompt", "empty"});
  expect_refusal({"run", kDemo}, 1, {"prompt", "empty"});
  expect_refusal({"run", kDemo, "caf\xe9"}, 1, {"prompt", "UTF-8"});
  expect_refusal({"run", kDemo, "Hi", "--system", "\xff"}, 1, {"--system", "UTF-8"});
  expect_refusal({"tokenize", kDemo, "\xc0\x80"}, 1, {"UTF-8"});
  expect_refusal({"run", kGolden, "Hi"}, 1, {"tokenizer.json", kGolden});
  expect_refusal({"tokenize", kDemo, "--jsonl"}, 1, {"line 1"}, "{\"text\": 5}\n");
  expect_refusal({"tokenize", kDemo, "--jsonl"}, 1, {"line 1"}, "not json\n");
  expect_refusal({"detokenize", kDemo, "--jsonl"}, 1, {"line 1"}, "{\"ids\": [1, \"a\"]}\n");
  expect_refusal({"template", kDemo, "--jsonl"}, 1, {"line 1", "messages"}, "{\"tools\": []}\n");
  expect_refusal({"template", kDemo, "--jsonl"}, 1, {"line 1", "one with \"messages\""}, "[]\n");
  expect_refusal({"detokenize", kDemo, "--jsonl"}, 1, {"line 1", "one with \"ids\""}, "[]\n");
  expect_refusal({"template", kDemo, "--jsonl"}, 1, {"line 1"},
                 "{\"messages\": [{\"role\": \"user\", \"content\": 3}]}\n");
}

std::string repeated(const std::string& text, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

/// Of what passes the model's positions, with the advice to be longer nowhere.
void expect_too_long(const std::vector<std::string>& arguments, const Words& words,
                     const std::string& input = "") {
  expect_refusal(arguments, 1, words, input);
  EXPECT_EQ(run_rill(arguments, input).err.find("--ctx"), std::string::npos);
}

// The built-in model has 8192 positions.
TEST(BadInput, TooLongForTheModel) {
  const std::string text = repeated("Anna ", 9000), shorter = repeated("Anna ", 5000);
  const TestFolder folder;
  const std::string ids = folder.write("ids", repeated("1,", 8999) + "1").string();
  const std::string out = (folder.path() / "out").string();
  expect_too_long({"run", kDemo}, {"tokens", "8192 positions", "shorten it"}, text);
  expect_too_long({"run", kDemo, "--ctx", "8192"}, {"8192 positions", "shorten it"}, text);
  expect_refusal({"run", kDemo}, 1, {"holds 4096", "larger --ctx"}, shorter);
  expect_too_long({"logits", kDemo, "--ids-file", ids, "--out", out},
                  {"there are 9000 ids", "8192 positions", "give fewer"});
  expect_too_long({"logits", kDemo, "--ids-file", ids, "--out", out, "--ctx", "8192"},
                  {"there are 9000 ids", "8192 positions", "give fewer"});
  expect_too_long({"accuracy", kDemo, "--questions", "-"}, {"longest question", "8192 positions"},
                  R"({"messages":[{"role":"user","content":")" + text + R"("}],"answer":"y"})");
  for (const auto& [message, longer] : {std::pair{text, false}, std::pair{shorter, true}}) {
    const Finished chat = run_rill({"chat", kDemo}, message + "\n");
    EXPECT_EQ(chat.status, 1);
    EXPECT_NE(chat.err.find(longer ? "holds 4096" : "8192 positions"), std::string::npos)
        << chat.err;
    EXPECT_EQ(chat.err.find("--ctx") != std::string::npos, longer) << chat.err;
  }
}

TEST(BadInput, AFullContextIsToldWithWhatCanHelp) {
  SpoiltFolder folder(kDemo);
  folder.config([](Json& json) { json["max_position_embeddings"] = 8; });
  const std::vector<std::string> run = {"run", folder.path(), "Anna went", "--raw"};
  const std::string full = run_rill(run).err;
  EXPECT_NE(full.find("no more positions"), std::string::npos) << full;
  EXPECT_EQ(full.find("--ctx"), std::string::npos) << full;
  std::vector<std::string> shorter = run;
  shorter.insert(shorter.end(), {"--ctx", "7"});
  EXPECT_NE(run_rill(shorter).err.find("larger --ctx"), std::string::npos);
}

TEST(BadInput, RanksWithoutALauncher) {
  expect_refusal({"run", kDemo, "Hi", "--tp", "2"}, 2, {"--tp 1 --sp 1", "mpirun -n 2"});
  expect_refusal({"run", kDemo, "Hi", "--tp", "2", "--sp", "3"}, 2, {"mpirun -n 6"});
}

// Who measured the machine would think that it counts.
TEST(BadInput, ConstantsThatNothingGoesByAreNotIgnored) {
  for (const Words& ranks : {Words{}, {"--tp", "1"}, {"--tp", "1", "--sp", "1"}}) {
    Words run = {"run", kDemo, "Hi", "--constants", "/nowhere"};
    run.insert(run.end(), ranks.begin(), ranks.end());
    expect_refusal(run, 2, {"--constants", "neither is auto", "add --tp auto"});
  }
  expect_refusal({"verify", kGolden, "--reference", kGolden, "--constants", "/nowhere"}, 2,
                 {"--constants"});
  expect_refusal({"run", kDemo, "Hi", "--tp", "auto", "--constants", "/nowhere"}, 1, {"/nowhere"});
}

TEST(BadInput, OutputFiles) {
  expect_refusal({"logits", kGolden, "--ids", "1", "--out", "/nowhere/at/all"}, 1,
                 {"/nowhere/at/all"});
  expect_refusal({"logits", kGolden, "--ids", "1", "--out", "/tmp"}, 1, {"/tmp", "folder"});
  expect_refusal({"logits", kGolden, "--ids", "1", "--out", "/dev/null"}, 1, {"/dev/null"});
  expect_refusal({"logits", kGolden, "--ids", "1", "--out", ""}, 2, {"--out", "empty"});
}

// By whatever name: the model would be lost to the file that is computed from it.
TEST(BadInput, OutputOverTheModel) {
  const SpoiltFolder model(kDemo);
  const TestFolder elsewhere;
  const auto at = [&](const char* name) { return (elsewhere.path() / name).string(); };
  std::filesystem::create_symlink(model.at("config.json"), at("symbolic"));
  std::filesystem::create_hard_link(model.at("tokenizer.json"), at("hard"));
  // As in the cache of the hub, where a model's folder holds links.
  elsewhere.write("blob", read_text(model.at("generation_config.json")));
  model.remove("generation_config.json");
  std::filesystem::create_symlink(at("blob"), model.at("generation_config.json"));
  for (const std::string& out :
       {model.path() + "/model.safetensors", model.path() + "/../" + model.name() + "/config.json",
        model.path() + "/README.md", at("symbolic"), at("hard"), at("blob")}) {
    const std::string before = read_text(out);
    expect_refusal({"logits", model.path(), "--ids", "1", "--out", out}, 1,
                   {out, model.path(), "another path"});
    const Finished chat = run_rill({"chat", model.path()}, "/save " + out + "\n");
    EXPECT_EQ(chat.status, 1) << chat.err;
    EXPECT_NE(chat.err.find("cannot write " + out), std::string::npos) << chat.err;
    EXPECT_EQ(read_text(out), before) << out;
  }
  for (const std::string& out :
       {model.path() + "/new", at("new"), at("new")})  // also a second time
    EXPECT_EQ(run_rill({"logits", model.path(), "--ids", "1", "--out", out}).status, 0) << out;
}

// The list of ids would be gone, and so would what was measured.
TEST(BadInput, OutputOverAnInput) {
  const TestFolder folder;
  const std::string ids = folder.write("ids", "1,2,3").string();
  const std::string path = folder.path().string(), link = path + "/link", hard = path + "/hard";
  std::filesystem::create_symlink(ids, link);
  std::filesystem::create_hard_link(ids, hard);
  for (const std::string& out :
       {ids, path + "/./ids", path + "/../" + folder.path().filename().string() + "/ids", link,
        hard}) {
    expect_refusal({"logits", kGolden, "--ids-file", ids, "--out", out}, 1,
                   {"cannot write " + out, "--ids-file", "another path"});
    EXPECT_EQ(read_text(ids), "1,2,3");
  }
  expect_refusal({"logits", kGolden, "--ids-file", link, "--out", ids}, 1, {"--ids-file"});
  const Finished run =
      run_shell("cd '" + path + "' && rill logits '" + kGolden + "' --ids-file ids --out ids\n");
  EXPECT_EQ(run.status, 1) << run.err;
  EXPECT_EQ(read_text(ids), "1,2,3");

  const Finished measured = run_rill({"bench", "--comm", "-o", "json", "-t", "1"});
  const std::string constants = folder.write("constants", measured.out).string();
  const Words go_by = {"--tp", "auto", "--constants", constants};
  Words logits = {"logits", kGolden, "--ids", "1", "--out", constants};
  Words bench = {"bench", kGolden, "--roofline", constants};
  for (Words* words : {&logits, &bench}) {
    words->insert(words->end(), go_by.begin(), go_by.end());
    const Finished refused = run_rill(*words);
    EXPECT_EQ(refused.status, 1) << refused.err;
    EXPECT_NE(refused.err.find("cannot write " + constants), std::string::npos) << refused.err;
    EXPECT_EQ(read_text(constants), measured.out);
  }
  const SpoiltFolder model;
  expect_refusal({"bench", model.path(), "--roofline", model.path() + "/config.json"}, 1,
                 {"config.json", "file of the model"});
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  return names;
}

bool has_unnamed_files(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_TMPFILE | O_WRONLY, 0600);
  return descriptor >= 0 && ::close(descriptor) == 0;
}

TEST(BadInput, AnEndedProcessLeavesNoPartOfAFile) {
  const TestFolder folder;
  const bool unnamed = has_unnamed_files(folder.path());
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      OutputFile file(folder.path() / "out");
      file.write("a part");
      std::signal(signal, SIG_DFL);
      ::raise(signal);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status));
    const Words left = names_in(folder.path());
    EXPECT_EQ(std::count(left.begin(), left.end(), "out"), 0);
    if (unnamed) {
      EXPECT_EQ(left, Words{});
      continue;
    }
    // A file system without O_TMPFILE: the part has a name that tells what it is.
    for (const std::string& name : left) {
      EXPECT_TRUE(name.ends_with(".partial")) << name;
      std::filesystem::remove(folder.path() / name);
    }
  }
}

TEST(BadInput, AnOutputFileAppearsWholeAndAlone) {
  const TestFolder folder;
  const std::filesystem::path path = folder.path() / "out";
  for (const char* content : {"first", "second"}) {
    const std::string before = read_text(path);
    OutputFile file(path);
    file.write(content);
    EXPECT_EQ(read_text(path), before);
    file.commit();
    EXPECT_EQ(read_text(path), content);
    EXPECT_EQ(names_in(folder.path()), Words{"out"});
  }
  { OutputFile(path).write("third"); }
  EXPECT_EQ(read_text(path), "second");
  EXPECT_EQ(names_in(folder.path()), Words{"out"});
  // A name that leaves no room for a temporary one is told before the work.
  EXPECT_THROW(OutputFile(folder.path() / std::string(250, 'x')), Error);
}

// `ulimit -f`, or a quota: what does not fit is an error of write(), not the program's end.
TEST(BadInput, FileSizeLimit) {
  const Finished run = run_shell("ulimit -f 4\nrill logits '" + kDemo +
                                 "' --ids 1,2,3,4,5,6,7,8 --out logits\necho status $? $(ls -A)\n");
  EXPECT_EQ(run.out.rfind("status 1", 0), 0u) << run.out;
  EXPECT_EQ(run.out.find("logits"), std::string::npos) << "left " << run.out;
  EXPECT_NE(run.err.find("rill: cannot write logits (File too large)"), std::string::npos)
      << run.err;
}

TEST(BadInput, Folders) {
  expect_refusal({"info", "/nowhere"}, 1, {"/nowhere"});
  expect_refusal({"info", "Qwen/Qwen3-0.6B"}, 1, {"Qwen/Qwen3-0.6B"});
  expect_refusal({"info", kGolden + "/config.json"}, 1, {"config.json"});
  expect_refusal({"info", golden("moe-bf16")}, 1, {"qwen3_moe"});
  const TestFolder empty;
  expect_refusal({"info", empty.path().string()}, 1, {"config.json"});
  const TestFolder gguf;
  gguf.write("model.gguf", "GGUF");
  for (const Words& command : std::vector<Words>{
           {"info"}, {"tokenize"}, {"run"}, {"chat"}, {"accuracy", "--questions", "-"}}) {
    for (const TestFolder* folder : {&empty, &gguf}) {
      Words words = command;
      words.insert(words.begin() + 1, folder->path().string());
      expect_refusal(words, 1,
                     {"holds no config.json", folder == &gguf ? "does not read GGUF" : "expected"});
    }
  }
  expect_refusal({"template", "/nowhere", "x"}, 1, {"/nowhere"});
  if (::getuid() != 0) {
    ::chmod(empty.path().c_str(), 0);
    expect_refusal({"info", empty.path().string()}, 1, {empty.path().string()});
    ::chmod(empty.path().c_str(), 0700);
  }
}

TEST(BadInput, Configs) {
  struct Case {
    const char* key;
    Json value;
    Words words;
  };
  const std::vector<Case> cases = {
      {"hidden_size", -64, {"hidden_size", "-64"}},
      {"hidden_size", 0, {"hidden_size"}},
      {"hidden_size", 1e30, {"hidden_size"}},
      {"hidden_size", "64", {"hidden_size"}},
      {"num_hidden_layers", 4000000000000, {"num_hidden_layers"}},
      {"num_attention_heads", 3, {"num_key_value_heads"}},
      {"head_dim", 31, {"head_dim", "31"}},
      {"vocab_size", nullptr, {"vocab_size"}},
      {"rms_norm_eps", -1, {"rms_norm_eps"}},
      {"hidden_act", "gelu", {"hidden_act", "gelu"}},
      {"model_type", "llama", {"llama"}},
      {"use_sliding_window", true, {"use_sliding_window"}},
      {"quantization_config", {{"quant_method", "awq"}}, {"awq"}},
      {"rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 1e4}}, {"longrope"}},
      {"eos_token_id", 100000, {"eos_token_id", "100000"}},
      {"intermediate_size", 177, {"177"}},
      {"num_hidden_layers", 3, {"layers.2"}},
      {"num_hidden_layers", 1, {"layers.1"}},
      {"max_position_embeddings", 0, {"max_position_embeddings"}},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(std::string(one.key) + " " + one.value.dump());
    SpoiltFolder folder;
    folder.config([&](Json& json) {
      if (one.value.is_null()) {
        json.erase(one.key);
      } else {
        json[one.key] = one.value;
      }
    });
    folder.refuses(one.words);
  }
}

TEST(BadInput, BrokenJson) {
  for (const char* text : {"", "{", "[]", "{\"a\": 1,}", "\xff\xfe", "{\"a\":1}{"}) {
    SpoiltFolder folder;
    folder.write("config.json", text);
    folder.refuses({"config.json"});
  }
  SpoiltFolder deep;
  deep.write("config.json", std::string(100000, '['));
  deep.refuses({"config.json"});
  SpoiltFolder generation;
  generation.write("generation_config.json", "{\"temperature\": \"hot\"}");
  generation.refuses({"generation_config.json", "temperature"});
}

TEST(BadInput, Safetensors) {
  auto spoilt = [](const std::function<void(SpoiltFolder&)>& change, const Words& words) {
    SpoiltFolder folder;
    change(folder);
    folder.refuses(words);
  };
  const Words file = {"model.safetensors"};
  spoilt([](auto& f) { f.remove("model.safetensors"); }, file);
  spoilt([](auto& f) { f.write("model.safetensors", ""); }, file);
  spoilt([](auto& f) { f.write("model.safetensors", "1234567"); }, file);
  spoilt([](auto& f) { f.safetensors("{}", 0, uint64_t{1} << 60); }, file);
  spoilt([](auto& f) { f.safetensors("{}", 0, 3); }, file);
  spoilt([](auto& f) { f.safetensors("[]"); }, file);
  spoilt([](auto& f) { f.safetensors("{\"a\":"); }, file);
  spoilt(
      [](auto& f) {
        f.safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4);
      },
      {"a"});
  spoilt(
      [](auto& f) {
        f.safetensors(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4);
      },
      {"a"});
  spoilt(
      [](auto& f) {
        f.safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3);
      },
      file);
  spoilt(
      [](auto& f) {
        f.safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 9);
      },
      file);
  spoilt(
      [](auto& f) {
        f.safetensors(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4);
      },
      {"F99"});
  spoilt(
      [](auto& f) {
        f.safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                      4);
      },
      file);
  spoilt(
      [](auto& f) {
        f.safetensors(
            R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})");
      },
      {"a"});
  spoilt([](auto& f) { f.safetensors("{}"); }, {"embed_tokens"});
  spoilt(
      [](auto& f) {
        const std::string whole = read_text(f.at("model.safetensors"));
        f.write("model.safetensors", whole.substr(0, whole.size() / 2));
      },
      file);
}

TEST(BadInput, Shards) {
  const std::string source = golden("wide-heads-sharded-f16");
  SpoiltFolder missing(source);
  missing.remove("model-00002-of-00003.safetensors");
  missing.refuses({"model-00002-of-00003.safetensors"});
  SpoiltFolder index(source);
  index.write("model.safetensors.index.json", "{\"weight_map\": 7}");
  index.refuses({"model.safetensors.index.json", "weight_map"});
  SpoiltFolder outside(source);
  outside.write("model.safetensors.index.json",
                "{\"weight_map\": {\"model.norm.weight\": \"../../etc/passwd\"}}");
  outside.refuses({"passwd"});
}

TEST(BadInput, Tokenizers) {
  for (const char* text : {"", "{}", "{\"model\": {\"type\": \"Unigram\"}}", "[1"}) {
    SpoiltFolder folder(kDemo);
    folder.write("tokenizer.json", text);
    expect_refusal({"tokenize", folder.path(), "x"}, 1, {"tokenizer.json"});
  }
}

TEST(BadInput, References) {
  const TestFolder empty;
  expect_refusal({"verify", kGolden, "--reference", empty.path().string()}, 1, {"reference.json"});
  SpoiltFolder folder;
  folder.write("reference.json", "{\"prompt\": [1, 2, 99999]}");
  expect_refusal({"verify", kGolden, "--reference", folder.path()}, 1, {"prompt"});
  expect_refusal({"accuracy", kDemo, "--questions", "/nowhere"}, 1, {"/nowhere"});
  expect_refusal({"accuracy", kDemo, "--questions", "-"}, 1, {"no questions"}, "\n");
  expect_refusal({"accuracy", kDemo, "--questions", "-"}, 1, {"line 1", "answer"},
                 "{\"messages\": []}\n");
  const std::string good = R"({"messages":[{"role":"user","content":"x"}],"answer":"y"})"
                           "\n";
  const auto expect_line_2 = [&](const std::string& line, const Words& words) {
    expect_refusal({"accuracy", kDemo, "--questions", "-"}, 1, words, good + line + "\n");
  };
  expect_line_2("{", {"standard input, line 2", "not JSON", "mend the line"});
  expect_line_2("[]", {"standard input, line 2", "JSON object"});
  expect_line_2(R"({"answer":"y"})", {"standard input, line 2", "messages"});
  expect_line_2(R"({"messages":[],"answer":[1]})", {"standard input, line 2", "answer"});
}

TEST(BadInput, ATemplateOfAnotherKindIsWarnedOf) {
  SpoiltFolder folder(kDemo);
  folder.write("chat_template.jinja", "{{ messages[0].content }}");
  const Finished run = run_rill({"run", folder.path(), "Hi", "--max-tokens", "1"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.err.rfind("rill: warning: ", 0), 0u) << run.err;
}

TEST(BadInput, WhatDoesNotFitIsToldWithThePlan) {
  const Finished run = run_rill({"plan", golden("deep-bf16"), "--ctx", "4096", "--batch", "65536",
                                 "--compute", "f32"});  // 3.5 TiB
  EXPECT_EQ(run.status, 1);
  EXPECT_NE(run.out.find("it does not fit"), std::string::npos) << run.out;
  // A sequence of 8,192 tokens of the built-in model takes 20 MiB: twice what this machine has
  // left.
  const size_t batch = available_memory() / (size_t{10} << 20) + 1;
  const Finished big = run_rill(
      {"accuracy", kDemo, "--questions", "-", "--ctx", "8192", "--batch", std::to_string(batch)},
      [&] {
        std::string lines;
        for (size_t i = 0; i < batch; ++i)
          lines += "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"answer\":\"y\"}\n";
        return lines;
      }());
  EXPECT_EQ(big.status, 1) << big.out;
  EXPECT_NE(big.err.find("longest context that fits"), std::string::npos) << big.err;
}

}  // namespace
}  // namespace rill

// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/mapped_file.h"
#include "cli/process.h"
#include "model/safetensors.h"
#include "model/test_folder.h"

namespace rill {
namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Cli, HelpOfEveryCommandEndsWithAnExample) {
  const Finished all = run_rill({"--help"});
  EXPECT_EQ(all.status, 0);
  for (const char* command : {"run", "chat", "info", "plan", "logits", "verify", "tokenize",
                              "detokenize", "template", "accuracy", "bench"}) {
    EXPECT_TRUE(has(all.out, command)) << command;
    const Finished help = run_rill({command, "--help"});
    EXPECT_EQ(help.status, 0) << command;
    const size_t example = help.out.find("Example:\n  rill " + std::string(command));
    ASSERT_NE(example, std::string::npos) << help.out;
    EXPECT_LT(help.out.size() - example, 400u) << "the example should come last";
    EXPECT_EQ(help.err, "");
  }
  EXPECT_EQ(run_rill({"--version"}).out, "0.1.0\n");
}

TEST(Cli, RunAnswersAndReportsItself) {
  const Finished run = run_rill({"run", kDemo, "Where is the lamp?", "--max-tokens", "20"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_FALSE(run.out.empty());
  for (const char* part : {"prefill", "decode", "tokens/s", "isa", "thread", "attention streaming"})
    EXPECT_TRUE(has(run.err, part)) << run.err;
  EXPECT_EQ(run_rill({"run", kDemo, "--max-tokens", "20"}, "Where is the lamp?\n").out, run.out);
  EXPECT_EQ(run_rill({"run", kDemo, "-", "--max-tokens", "20"}, "Where is the lamp?").out, run.out);
}

TEST(Cli, EveryComputingOptionIsAcceptedAndReported) {
  const Finished run = run_rill(
      {"run",    kDemo,         "Hi",       "--max-tokens", "4",   "--threads", "1",   "--isa",
       "scalar", "--attention", "standard", "--block-size", "128", "--weights", "f32", "--compute",
       "f32",    "--kv",        "f16",      "--chunk",      "3",   "--ctx",     "100"});
  EXPECT_EQ(run.status, 0) << run.err;
  for (const char* part : {"weights f32", "compute f32", "kv f16", "attention standard",
                           "block 128", "isa scalar", "1 thread"})
    EXPECT_TRUE(has(run.err, part)) << part << " in " << run.err;
}

TEST(Cli, AnAutomaticBlockSizeIsReportedAndGivesTheSameWhenPassed) {
  const std::vector<std::string> base = {"run", kDemo, "Hi", "--max-tokens", "4", "--ctx", "100"};
  const auto with = [&](const char* size) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), {"--block-size", size});
    return run_rill(arguments);
  };
  const Finished chosen = with("auto");
  EXPECT_TRUE(has(chosen.err, "block 16")) << "a quarter of the context: " << chosen.err;
  EXPECT_EQ(with("16").out, chosen.out);
}

TEST(Cli, TheSameSeedGivesTheSameText) {
  const std::vector<std::string> base = {
      "run", kDemo, "Tell a story", "--temperature", "5", "--seed", "5", "--max-tokens", "30"};
  const std::string text = run_rill(base).out;
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--threads", "3"}, {"--isa", "scalar"}, {"--chunk", "2"}}) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), more.begin(), more.end());
    EXPECT_EQ(run_rill(arguments).out, text) << more[0];
  }
  std::vector<std::string> other = base;
  other[6] = "6";
  EXPECT_NE(run_rill(other).out, text);
}

TEST(Cli, RunStopsAtStringsAndAtTheContext) {
  // Hot enough to be no repetition, whatever the model has learned.
  std::vector<std::string> arguments = {"run",           kDemo, "Anna went", "--raw",
                                        "--temperature", "5",   "--seed",    "2",
                                        "--max-tokens",  "40"};
  const std::string raw = run_rill(arguments).out;
  ASSERT_GT(raw.size(), 30u);
  const std::string stop = raw.substr(20, 5);
  const std::string before = raw.substr(0, raw.find(stop));
  arguments.insert(arguments.end(), {"--stop", stop});
  const Finished cut = run_rill(arguments);
  EXPECT_EQ(cut.out, before.empty() || before.back() == '\n' ? before : before + "\n");
  EXPECT_TRUE(has(cut.err, "stop string")) << cut.err;
  const Finished full = run_rill({"run", kDemo, "Anna went", "--raw", "--ctx", "6"});
  EXPECT_EQ(full.status, 0);
  EXPECT_TRUE(has(full.err, "context of 6 tokens is full") || has(full.err, "end of text"));
}

TEST(Cli, ChatKeepsTheConversation) {
  const TestFolder folder;
  const std::string saved = (folder.path() / "saved.json").string();
  const Finished chat =
      run_rill({"chat", kDemo, "--max-tokens", "8", "--think", "off"},
               "The lamp is red.\nWhich colour?\n/system Be brief.\n/think on\n/help\n/save " +
                   saved + "\n/clear\nHi\n/exit\nnever read\n");
  EXPECT_EQ(chat.status, 0) << chat.err;
  EXPECT_TRUE(has(chat.err, "more stood in the KV cache")) << chat.err;
  EXPECT_TRUE(has(chat.err, "/clear")) << "help";
  const auto json = nlohmann::json::parse(read_text(saved));
  ASSERT_EQ(json["messages"].size(), 5u);
  EXPECT_EQ(json["messages"][0]["content"], "Be brief.");
  EXPECT_EQ(json["messages"][1]["content"], "The lamp is red.");
  EXPECT_EQ(json["enable_thinking"], true);
  const Finished rendered = run_rill({"template", kDemo, "--jsonl"}, read_text(saved));
  EXPECT_EQ(rendered.status, 0) << rendered.err;
}

TEST(Cli, TextThereAndBack) {
  const std::string text = "Anna's caf\xc3\xa9 <|im_end|>";
  const Finished ids = run_rill({"tokenize", kDemo, text});
  EXPECT_EQ(ids.status, 0) << ids.err;
  std::string list = ids.out;
  list.pop_back();
  EXPECT_EQ(run_rill({"detokenize", kDemo, list}).out, text + "\n");
  const Finished lines =
      run_rill({"tokenize", kDemo, "--jsonl"}, "{\"text\": \"a b\"}\n{\"text\": \"\"}\n");
  EXPECT_EQ(lines.status, 0) << lines.err;
  const auto first = nlohmann::json::parse(lines.out.substr(0, lines.out.find('\n')));
  EXPECT_EQ(first["decoded"], "a b");
  EXPECT_EQ(
      run_rill({"detokenize", kDemo, "--jsonl"}, "{\"ids\": " + first["ids"].dump() + "}\n").out,
      "{\"text\": \"a b\"}\n");
  EXPECT_EQ(run_rill({"template", kDemo, "Hi", "--system", "S", "--think", "off"}).out,
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

TEST(Cli, LogitsAreWrittenWhole) {
  const TestFolder folder;
  const std::string one = (folder.path() / "one").string(), two = (folder.path() / "two").string();
  const std::vector<std::string> base = {"logits", golden("tied-gqa-bf16"), "--hidden", "--ids"};
  auto run = [&](const std::string& ids, const std::string& out, const std::string& chunk) {
    std::vector<std::string> arguments = base;
    for (const std::string& more : {ids, std::string("--out"), out, std::string("--chunk"), chunk})
      arguments.push_back(more);
    return run_rill(arguments);
  };
  EXPECT_EQ(run("1, 2,3,4,5", one, "100").status, 0);
  EXPECT_EQ(run("1,2,3,4,5", two, "2").status, 0);
  EXPECT_EQ(read_text(one), read_text(two));
  const MappedFile file = MappedFile::open(one);
  const auto tensors = parse_safetensors(file.bytes(), one);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "logits");
  EXPECT_EQ(tensors[0].shape, (std::vector<size_t>{5, 512}));
  EXPECT_EQ(tensors[1].name, "hidden");
  EXPECT_EQ(tensors[1].shape, (std::vector<size_t>{3, 5, 64}));
}

TEST(Cli, InfoAndPlan) {
  const Finished info = run_rill({"info", golden("wide-heads-sharded-f16"), "--tensors"});
  EXPECT_EQ(info.status, 0) << info.err;
  for (const char* part : {"Qwen3ForCausalLM", "parameters", "lm_head.weight", "F16", "6 query"})
    EXPECT_TRUE(has(info.out, part)) << part;
  const Finished plan = run_rill({"plan", kDemo, "--ctx", "1000", "--batch", "3"});
  EXPECT_EQ(plan.status, 0) << plan.err;
  for (const char* part : {"weights", "KV cache", "1000 tokens x 3 sequences", "longest context"})
    EXPECT_TRUE(has(plan.out, part)) << plan.out;
}

TEST(Cli, AccuracyCountsByLengthAndThinking) {
  const TestFolder folder;
  const std::string answer =
      run_rill({"run", kDemo, "Where is Anna?", "--think", "off", "--greedy"}).out;
  nlohmann::json right = {{"messages", {{{"role", "user"}, {"content", "Where is Anna?"}}}},
                          {"answer", answer},
                          {"enable_thinking", false},
                          {"kind", "place"},
                          {"length_bucket", 128}};
  nlohmann::json wrong = right;
  wrong["answer"] = "surely not this";
  const std::string file =
      folder.write("questions", right.dump() + "\n" + wrong.dump() + "\n" + right.dump()).string();
  const Finished run = run_rill({"accuracy", kDemo, "--questions", file, "--batch", "2"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(has(run.out, "| 128 | 66.7 % (2/3) | - |")) << run.out;
  EXPECT_TRUE(has(run.out, "place: 66.7 % (2/3)")) << run.out;
}

TEST(Cli, LostOutputIsTold) {
  const Finished full = run_shell("rill tokenize '" + kDemo + "' hello >/dev/full\n");
  EXPECT_EQ(full.status, 1);
  EXPECT_TRUE(has(full.err, "cannot write to standard output")) << full.err;
  const Finished pipe = run_shell(
      "rill run '" + kDemo + "' 'tell me' --max-tokens 400 | head -c 1; echo ${PIPESTATUS[0]}\n");
  EXPECT_TRUE(has(pipe.out, "1\n") || has(pipe.err, "end of text")) << pipe.out << pipe.err;
}

TEST(Cli, CtrlCEndsTheAnswerAndReportsIt) {
  const Finished run =
      run_shell("set -m\nrill run '" + kDemo +
                "' 'tell' --temperature 2 --max-tokens 8000 --ctx 8192 --seed 1 & \n"
                "sleep 1.5; kill -INT %1; wait %1; echo status $?\n");
  EXPECT_TRUE(has(run.out, "status 130") || has(run.err, "end of text")) << run.out << run.err;
}

}  // namespace
}  // namespace rill

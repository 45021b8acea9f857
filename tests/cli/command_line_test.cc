// SPDX-License-Identifier: Apache-2.0
// The command line: what is wrong with it is told in sentences of ours, with exit status 2, and
// what its options do is what their help and the READMEs say.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/process.h"
#include "model/test_folder.h"

namespace rill {
namespace {

using Words = std::vector<std::string>;

const std::string kGolden = golden("tied-gqa-bf16");

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Finished run_benchmark(const std::string& arguments) {
  return run_shell("'" RILL_BIN_DIR "/benchmark_qwen3' " + arguments + "\n");
}

/// Expects exit status 2, nothing on standard output, and one sentence that begins as `sentence`.
void expect_mistake(const Finished& run, const std::string& sentence) {
  SCOPED_TRACE(sentence);
  EXPECT_EQ(run.status, 2) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  const size_t program = run.err.find(": ");
  EXPECT_EQ(run.err.substr(program + 2, sentence.size()), sentence) << run.err;
}

void expect_mistake(const Words& arguments, const std::string& sentence) {
  expect_mistake(run_rill(arguments), sentence);
}

TEST(CommandLine, UnknownOptionsAreNamedBeforeWhatTheyMakeOfTheRest) {
  expect_mistake({"run", "--max-token", "3", kDemo, "hi"},
                 "rill run has no option --max-token (did you mean --max-tokens?); see rill run");
  expect_mistake({"run", kDemo, "hi", "--temp=0.5"},
                 "rill run has no option --temp (did you mean --temperature?); see rill run");
  expect_mistake({"run", kDemo, "hi", "-q", "1"}, "rill run has no option -q; see rill run --help");
  expect_mistake({"info", "--frobnicate"}, "rill info has no option --frobnicate; see rill info");
  expect_mistake({"--hlp"}, "rill has no option --hlp (did you mean --help?); see rill --help");
  expect_mistake({"--threads", "1", "run", kDemo, "hi"},
                 "--threads stands before the command, expected behind it; see rill run --help");
}

TEST(CommandLine, UnknownCommandsAreNotHelpedWith) {
  expect_mistake({"chta", "--help"},
                 "there is no command 'chta' (did you mean chat?); see rill --help");
  expect_mistake({"chta", "--version"}, "there is no command 'chta'");
  expect_mistake({"chta", "run", kDemo, "hi"}, "there is no command 'chta'");
  expect_mistake(Words{}, "no command was given; see rill --help");
  EXPECT_TRUE(has(run_rill({"--help"}).out, "Usage: rill"));
  EXPECT_TRUE(has(run_rill({"chat", "--help"}).out, "Usage: rill chat"));
}

TEST(CommandLine, ArgumentsTooMany) {
  expect_mistake({"run", kDemo, "hi", "there", "you"},
                 "'there' is one argument too many, expected at most MODEL and PROMPT; put a text "
                 "of several words in quotes, or see rill run --help");
  expect_mistake({"info", kDemo, "hi"},
                 "'hi' is one argument too many, expected at most MODEL; see rill info --help");
  expect_mistake({"bench-attention", "hi"},
                 "'hi' is one argument too many, expected options alone; see rill bench-attention");
  expect_mistake({"run", kDemo, "--", "-a", "-b"}, "'-b' is one argument too many");
}

TEST(CommandLine, ValuesMissingTooManyOrWrong) {
  expect_mistake({"run", kDemo, "hi", "--max-tokens", "3", "--max-tokens", "4"},
                 "--max-tokens is given 2 times, expected once; see rill run --help");
  expect_mistake({"run", kDemo, "hi", "--max-tokens"},
                 "--max-tokens has no value, expected a whole number from 1 to 1073741824; see");
  expect_mistake({"run", kDemo, "hi", "--max-tokens", "x"},
                 "--max-tokens is 'x', expected a whole number from 1 to 1073741824; see rill run");
  expect_mistake({"run", kDemo, "hi", "--temperature", "abc"},
                 "--temperature is 'abc', expected a number; see rill run --help");
  expect_mistake({"run", kDemo, "hi", "--stop"}, "--stop has no value, expected a value (end the");
  expect_mistake({"bench", kDemo, "-p", "1", "-p", "2"}, "-p is given 2 times, expected once");
  expect_mistake({"run", kDemo, "hi", "--greedy", "--top-k", "3"},
                 "--top-k and --greedy exclude each other, expected one of them; see rill run");
  expect_mistake({"run"}, "MODEL is missing, expected a value (folder of a Qwen3 checkpoint");
  expect_mistake({"bench-attention", "--block-size", "0"},
                 "--block-size is \"0\"; use powers of two from 16 to 1024");
}

TEST(CommandLine, NumbersAreDecimal) {
  expect_mistake({"run", kDemo, "hi", "--ctx", "0100"},
                 "--ctx is '0100', expected a whole number from 1 to 1073741824 without a zero");
  expect_mistake({"run", kDemo, "hi", "--max-tokens", "0x10"}, "--max-tokens is '0x10', expected");
  expect_mistake({"run", kDemo, "hi", "-t", "+01"}, "-t is '+01', expected a whole number");
  EXPECT_EQ(run_rill({"run", kDemo, "hi", "--top-k", "0", "--max-tokens", "1"}).status, 0);
}

TEST(CommandLine, AutoIsOfferedWhereItIsKnown) {
  EXPECT_TRUE(has(run_rill({"run", "--help"}).out, "(tensor parallel), or auto"));
  EXPECT_FALSE(has(run_benchmark("--help").out, "or auto"));
  expect_mistake(run_benchmark("--tp auto --model '" + kGolden + "'"),
                 "this program knows no --tp auto and --sp auto; give numbers");
}

TEST(CommandLine, SwitchesTakeNoValue) {
  for (const char* value : {"=abc", "=3", "=1", "=true", "=false", "="})
    expect_mistake({"run", kDemo, "hi", std::string("--greedy") + value},
                   std::string("--greedy takes no value, expected it without '") + value +
                       "'; see rill run --help");
  expect_mistake({"run", kDemo, "hi", "--raw=3", "--stats"}, "--raw takes no value");
  expect_mistake({"run", kDemo, "--help=3"}, "--help takes no value, expected it without '=3'");
  expect_mistake({"--version=3"}, "--version takes no value");
  expect_mistake({"bench", kDemo, "--comm=3"}, "--comm takes no value");
  expect_mistake(run_benchmark("--profile-comm=3"), "--profile-comm takes no value");
  // What looks like one may be text.
  EXPECT_EQ(run_rill({"tokenize", kDemo, "--", "--jsonl=3"}).status, 0);
  EXPECT_EQ(run_rill({"template", kDemo, "hi", "--system=--jsonl=3"}).status, 0);
}

TEST(CommandLine, WrongValuesThatACommandFindsAreMistakesToo) {
  expect_mistake({"bench", "--shape", "foo"}, "there is no published size named 'foo', expected");
  expect_mistake({"plan", "--shape", "foo"}, "there is no published size named 'foo', expected");
  expect_mistake(run_benchmark("--shape foo"), "there is no published size named 'foo', expected");
  expect_mistake({"bench-attention", "--heads", "3", "--kv-heads", "2"},
                 "--heads is 3, expected a multiple of --kv-heads, which is 2; change one of them");
  expect_mistake({"bench-attention", "--head-dim", "63"},
                 "--head-dim is 63; use an even number from 2 to 1024");
  expect_mistake({"detokenize", kDemo, "abc"}, "the list of ids holds \"abc\" at byte 0, expected");
  EXPECT_EQ(run_rill({"detokenize", kDemo}, "abc").status, 1) << "not of the command line";
}

TEST(CommandLine, AShapeStandsInPlaceOfAModel) {
  const std::string names = "qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b, qwen3-32b";
  for (const char* command : {"plan", "bench"}) {
    expect_mistake({command}, "give either a MODEL folder or --shape NAME");
    expect_mistake({command, kDemo, "--shape", "qwen3-0.6b"},
                   "MODEL and --shape exclude each other, expected one of them; see rill");
    expect_mistake({command, "--shape", "foo"},
                   "there is no published size named 'foo', expected one of " + names);
    EXPECT_TRUE(has(run_rill({command, "--help"}).out, names));
  }
  expect_mistake(run_benchmark("--shape qwen3-0.6b --model '" + kDemo + "'"),
                 "--model and --shape exclude each other, expected one of them; see");
  EXPECT_TRUE(has(run_benchmark("--help").out, names));
}

TEST(CommandLine, WhatHasNoUseIsNotDropped) {
  expect_mistake({"bench", "--comm", "-p", "7"},
                 "--comm measures the ranks and no model, so -p,--n-prompt means nothing; leave");
  expect_mistake({"bench", "--comm", kDemo}, "--comm measures the ranks and no model, so MODEL");
  expect_mistake({"bench", "--comm", "--shape", "qwen3-0.6b"}, "--comm measures the ranks and no");
  expect_mistake({"bench", "--comm", "--tp", "1"}, "--comm measures the ranks and no");
  expect_mistake({"bench", "--comm", "--constants", "x"}, "--comm measures the ranks and no");
  expect_mistake({"bench", "--comm", "-t", "1,2"}, "--threads is \"1,2\", expected one number");
  expect_mistake({"verify", kGolden, "--reference", kGolden, "--gen-len", "4"},
                 "--reference brings its own prompt and answer, so --ids, --prompt, --gen-len");
  expect_mistake({"bench-attention", "--queries", "1-8"}, "--queries holds \"1-8\"; give all, or");
  expect_mistake({"bench-attention", "--queries", "all,x"}, "--queries holds \"x\"; give all, or");
  expect_mistake({"bench-attention", "--queries", "0"}, "--queries holds \"0\"; give all, or");
  expect_mistake({"bench-attention", "--ranks", "1,4"},
                 "--ranks is \"1,4\", but 1 rank runs; start 4 with mpirun -n 4, or");
}

TEST(CommandLine, EmptyValuesAreNotTakenForAbsentOnes) {
  for (const char* option : {"--ids", "--prompt", "--reference"})
    expect_mistake({"verify", kGolden, option, ""}, option + std::string(" is empty, expected"));
  expect_mistake({"bench", kGolden, "--roofline", ""}, "--roofline is empty, expected");
  expect_mistake({"bench", kGolden, "--shape", ""}, "--shape is empty, expected");
  expect_mistake({"bench-attention", "--threads", ""}, "--threads is empty, expected");
  expect_mistake({"plan", "", "--shape", "qwen3-0.6b"}, "MODEL is empty, expected");
  expect_mistake({"logits", kGolden, "--ids", "1", "--out", ""}, "--out is empty, expected");
  for (const char* option : {"--model", "--verify", "--phase", "--method"})
    expect_mistake(run_benchmark(std::string(option) + " ''"), option + std::string(" is empty"));
}

TEST(CommandLine, EmptyTextIsText) {
  EXPECT_EQ(run_rill({"tokenize", kDemo, ""}).out, "\n");
  const Finished run = run_rill({"run", kDemo, "hi", "--system", "", "--max-tokens", "1"});
  EXPECT_EQ(run.status, 0) << run.err;
}

TEST(CommandLine, TheMakerOfModelsRefusesBeforeItWrites) {
  const TestFolder folder;
  const std::string out = " '" + (folder.path() / "model").string() + "'";
  const auto make = [](const std::string& arguments) {
    return run_shell("'" RILL_BIN_DIR "/rill-make-model' " + arguments + "\n");
  };
  expect_mistake(make(out + " --seed -1"),
                 "--seed is '-1', expected a whole number without a sign");
  expect_mistake(make(out + " --layers -1"), "--layers is '-1', expected a whole number");
  expect_mistake(make(out + " --vocab x"), "--vocab is 'x', expected a whole number; see");
  expect_mistake(make(out + " --redundant-head=3"), "--redundant-head takes no value");
  expect_mistake(make(out + " --shpae x"),
                 "rill-make-model has no option --shpae (did you mean --shape?); see");
  expect_mistake(make(out + " x"), "'x' is one argument too many, expected at most FOLDER; see");
  expect_mistake(make(""), "--out is missing, expected a value (folder to write; must not exist)");
  const Finished empty = make("''");
  EXPECT_EQ(empty.status, 1);
  EXPECT_TRUE(has(empty.err, "--out is empty")) << empty.err;
  EXPECT_EQ(make(out + " --seed 18446744073709551615 --layers 1 --hidden 64 --vocab 64").status, 0);
}

TEST(CommandLine, HelpSaysWhichTextsAreFiles) {
  const std::string logits = run_rill({"logits", "--help"}).out;
  for (const char* option : {"--ids IDS", "--ids-file FILE", "--out FILE"})
    EXPECT_TRUE(has(logits, option)) << option;
  EXPECT_TRUE(has(run_rill({"accuracy", "--help"}).out, "--questions FILE"));
  EXPECT_TRUE(has(run_rill({"verify", "--help"}).out, "--reference FOLDER"));
}

TEST(CommandLine, ThreadsHaveAShortNameInEveryCommand) {
  const Finished run = run_rill({"run", kDemo, "hi", "-t", "1", "--max-tokens", "1"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(has(run.err, " 1 thread;")) << run.err;
  for (const char* command :
       {"run", "chat", "plan", "logits", "verify", "accuracy", "bench", "bench-attention"})
    EXPECT_TRUE(has(run_rill({command, "--help"}).out, "-t,--threads")) << command;
  EXPECT_TRUE(has(run_benchmark("--help").out, "-t,--threads"));
}

TEST(CommandLine, VerifyRunsBothAttentionsAndSaysSo) {
  const Finished run = run_rill({"verify", kGolden, "--ids", "1,2,3", "--gen-len", "1", "--quick"});
  EXPECT_EQ(run.status, 0) << run.out << run.err;
  EXPECT_TRUE(has(run.out.substr(0, run.out.find('\n')), ", both attentions, block")) << run.out;
  for (const char* attention : {"\nattention standard\n", "\nattention streaming\n"})
    EXPECT_TRUE(has(run.out, attention)) << run.out;
  expect_mistake({"verify", kGolden, "--attention", "standard"},
                 "rill verify has no option --attention");
}

/// The commands whose help lists `option`.
Words commands_with(const std::string& option) {
  Words commands;
  for (const char* command :
       {"run", "chat", "plan", "logits", "accuracy", "verify", "bench", "bench-attention"})
    if (has(run_rill({command, "--help"}).out, "--" + option + " ")) commands.push_back(command);
  if (has(run_benchmark("--help").out, "--" + option + " ")) commands.push_back("benchmark_qwen3");
  return commands;
}

// What the READMEs say of the options that not all commands have.
TEST(CommandLine, OptionsThatNotAllCommandsHave) {
  EXPECT_EQ(commands_with("ctx"), (Words{"run", "chat", "plan", "logits", "accuracy"}));
  EXPECT_EQ(commands_with("weights"), (Words{"run", "chat", "plan", "logits", "accuracy", "verify",
                                             "bench", "benchmark_qwen3"}));
  EXPECT_EQ(commands_with("attention"), (Words{"run", "chat", "plan", "logits", "accuracy", "bench",
                                               "bench-attention", "benchmark_qwen3"}));
  for (const char* option : {"compute", "kv", "numa", "threads", "chunk", "isa", "block-size"})
    EXPECT_EQ(commands_with(option).size(), 9u) << option;
  for (const char* name : {"/README.md", "/README.zh-CN.md"}) {
    const std::string text = read_text(std::string(RILL_SOURCE_DIR) + name);
    const size_t row = text.find("| `--ctx` |");
    ASSERT_NE(row, std::string::npos) << name;
    const std::string line = text.substr(row, text.find('\n', row) - row);
    for (const char* command : {"`run`", "`chat`", "`plan`", "`logits`", "`accuracy`"})
      EXPECT_TRUE(has(line, command)) << line;
  }
}

}  // namespace
}  // namespace rill

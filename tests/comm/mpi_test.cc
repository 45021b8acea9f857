// SPDX-License-Identifier: Apache-2.0
// The programs under mpirun: same files, one sentence for every refusal, no rank left behind.
#include <gtest/gtest.h>

#include <algorithm>

#include "comm/mpirun.h"
#include "model/test_folder.h"

namespace rill {
namespace {

TEST(Mpi, LogitsAreTheSameFile) {
  const TestFolder folder;
  const std::string ids = " --ids 5,1,7,3,9,11,2,8,6,5,4,3,2,1,9,8,7,1,2,3 --hidden --out " +
                          folder.path().string() + "/";
  for (const std::string model : {"tied-gqa-bf16", "bias-f32"}) {
    const std::string command = "rill logits " + golden(model) + ids;
    const Finished alone = run_shell(command + "one");
    ASSERT_EQ(alone.status, 0) << alone.err;
    for (const std::string shape : {"--tp 2", "--tp 3", "--sp 2", "--tp 2 --sp 2"}) {
      const int count = shape == "--tp 3" ? 3 : shape == "--tp 2 --sp 2" ? 4 : 2;
      const Finished ranks = under_mpirun(count, command + "ranks " + shape);
      ASSERT_EQ(ranks.status, 0) << ranks.err;
      EXPECT_EQ(read_text(folder.path() / "one"), read_text(folder.path() / "ranks"))
          << model << " " << shape;
    }
  }
}

// Ranks with instruction sets and threads of their own, eight ranks, and quantised weights.
TEST(Mpi, RanksOnUnlikeMachines) {
  const TestFolder folder;
  const auto logits = [&](const std::string& model, const std::string& file) {
    return "rill logits " + model + " --weights int8 --chunk 64 --ids-file " +
           (folder.path() / "ids").string() + " --out " + (folder.path() / file).string();
  };
  std::string ids = "1";
  for (int i = 0; i < 150; ++i) ids += "," + std::to_string(i * 37 % 250);
  folder.write("ids", ids);
  for (const std::string& model : {golden("head128-long-bf16"), kDemo}) {
    ASSERT_EQ(run_shell(logits(model, "one")).status, 0);
    const std::string command = logits(model, "ranks");
    const std::string four = command + " --tp 2 --sp 2";
    const Finished mixed =
        under_mpirun(1, four + " --isa scalar : -n 1 " + four + " --isa auto : -n 1 " + four +
                            " --threads 3 : -n 1 env RILL_ISA=scalar " + four);
    EXPECT_EQ(mixed.status, 0) << mixed.err;
    EXPECT_EQ(read_text(folder.path() / "one"), read_text(folder.path() / "ranks")) << model;
    const Finished eight = under_mpirun(8, command + " --tp 4 --sp 2 --attention streaming");
    EXPECT_EQ(eight.status, 0) << eight.err;
    EXPECT_EQ(read_text(folder.path() / "one"), read_text(folder.path() / "ranks")) << model;
  }
}

TEST(Mpi, RunSaysTheSameOnce) {
  const std::string command = "rill run " + kDemo + " --greedy --max-tokens 20";
  const Finished alone = run_shell("echo Who are you? | " + command);
  // Standard input reaches the first rank only.
  const Finished ranks = run_shell(kMpirunSetup + "echo Who are you? | mpirun -n 2 " + command);
  ASSERT_EQ(alone.status, 0) << alone.err;
  ASSERT_EQ(ranks.status, 0) << ranks.err;
  EXPECT_EQ(alone.out, ranks.out);
  EXPECT_NE(ranks.err.find("on each of 2 ranks (tp 2 x sp 1)"), std::string::npos) << ranks.err;
}

// A conversation over pipes: the first rank reads and writes, the others follow.
TEST(Mpi, ChatSaysTheSameOnce) {
  const TestFolder folder;
  const auto script = [&](const std::string& file) {
    folder.write("lines", "Who are you?\n/think off\n\n/system Be brief.\nTell me more.\n/save " +
                              (folder.path() / file).string() + "\n/clear\nWho are you?\n");
    return " <" + (folder.path() / "lines").string();
  };
  const std::string command = "rill chat " + kDemo + " --greedy --max-tokens 20";
  const Finished alone = run_shell(command + script("one"));
  ASSERT_EQ(alone.status, 0) << alone.err;
  for (const std::string shape : {"2 ", "3 --sp 3", "4 --tp 2 --sp 2"}) {
    const size_t count = shape.find(' ');
    const Finished ranks =
        under_mpirun(std::stoi(shape), command + shape.substr(count) + script("ranks"));
    EXPECT_EQ(ranks.status, 0) << ranks.err;
    EXPECT_EQ(ranks.out, alone.out) << shape;
    EXPECT_EQ(read_text(folder.path() / "one"), read_text(folder.path() / "ranks"));
  }
}

// All ranks leave together, and go on together after an error, also one that only the first has.
TEST(Mpi, ChatEndsOnAllRanks) {
  const TestFolder folder;
  const auto chat = [&](const std::string& lines) {
    folder.write("lines", lines);
    return under_mpirun(3, "rill chat " + kDemo + " --greedy --max-tokens 5 --sp 3 <" +
                               (folder.path() / "lines").string());
  };
  EXPECT_EQ(chat("/exit\nnot read\n").status, 0);
  const Finished wrong = chat("/nothing\nWho are you?\n");
  EXPECT_EQ(wrong.status, 1);
  EXPECT_NE(wrong.out, "");
  EXPECT_NE(wrong.err.find("there is no command \"/nothing\""), std::string::npos) << wrong.err;
  const Finished lost = chat("/save /nowhere/at/all\nWho are you?\n");
  EXPECT_EQ(lost.status, 1);
  EXPECT_EQ(lost.out, wrong.out);
  EXPECT_NE(lost.err.find("cannot create /nowhere/at/all"), std::string::npos) << lost.err;
}

// SIGINT to any one rank stops the answer of all, and the next line is answered.
TEST(Mpi, ChatIsStoppedOnAllRanks) {
  const Finished chat =
      run_shell(kMpirunSetup + "coproc job { mpirun -n 2 rill chat " + kDemo +
                " --temperature 90 --top-k 0 --top-p 1 --ctx 8192; }\n"
                "pid=$job_PID; echo 'Count to a million' >&${job[1]}\n"
                "head -c 1 <&${job[0]} >/dev/null\n"
                "under() { local child; for child in $(pgrep -P $1); do "
                "[ $(cat /proc/$child/comm) != rill ] || echo $child; under $child; done; }\n"
                "kill -INT $(under $pid | tail -1)\n"
                "echo '/system' >&${job[1]}; echo /exit >&${job[1]}\n"
                "cat <&${job[0]} >/dev/null; wait $pid\n");
  EXPECT_EQ(chat.status, 0) << chat.err;
  EXPECT_NE(chat.err.find("cancelled"), std::string::npos) << chat.err;
  EXPECT_NE(chat.err.find("There is no system message"), std::string::npos) << chat.err;
}

TEST(Mpi, FirstBenchmarkOnRanks) {
  const std::string command = "benchmark_qwen3 --model " + kDemo + " --iters 1 --prompt-len 8 ";
  const Finished tables =
      under_mpirun(3, command + "--method mpi+avx2 --parallel-strategy sequence");
  EXPECT_EQ(tables.status, 0) << tables.err;
  EXPECT_NE(tables.out.find("MPI+AVX2"), std::string::npos) << tables.out;
  EXPECT_NE(tables.out.find("on each of 3 ranks (tp 1 x sp 3)"), std::string::npos) << tables.out;
  const std::string verify = "benchmark_qwen3 --model " + kDemo + " --verify 3,5,9 --gen-len 4 ";
  EXPECT_EQ(under_mpirun(2, verify + "--parallel-strategy headwise --method mpi").out,
            run_shell(kMpirunSetup + verify).out);
  const Finished many = under_mpirun(9, command + "--parallel-strategy headwise");
  EXPECT_EQ(many.status, 2);
  EXPECT_NE(many.err.find("headwise takes 1 to 8 ranks, but 9 run; start fewer, or take --tp 1 "
                          "--sp 9, --tp 3 --sp 3"),
            std::string::npos)
      << many.err;
}

// Attention by itself on the first one and on all ranks: every case is told once.
TEST(Mpi, BenchAttentionOnRanks) {
  const std::string command =
      "rill bench-attention --tokens 300 --heads 2 --kv-heads 1 --head-dim 16 --isa auto -t 1 -r 1 "
      "-o csv --queries 1,40 --attention streaming --block-size 128 --ranks ";
  const Finished run = under_mpirun(3, command + "1,3");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1 + 2 * 2) << run.out;
  const Finished many = under_mpirun(3, command + "4");
  EXPECT_EQ(many.status, 2);
  EXPECT_NE(many.err.find("--ranks is \"4\", but 3 ranks run; start 4"), std::string::npos)
      << many.err;
}

TEST(Mpi, VerifyComparesWithOneProcess) {
  const Finished verified =
      under_mpirun(4, "rill verify " + golden("yarn-bf16") + " --quick --tp 2 --sp 2");
  EXPECT_EQ(verified.status, 0) << verified.out << verified.err;
  EXPECT_NE(verified.out.find("ranks against"), std::string::npos) << verified.out;
}

TEST(Mpi, RefusalsAreToldOnce) {
  const auto expect_refused = [](const Finished& finished, int status,
                                 const std::string& sentence) {
    EXPECT_EQ(finished.status, status) << finished.err;
    const size_t first = finished.err.find(sentence);
    ASSERT_NE(first, std::string::npos) << finished.err;
    EXPECT_EQ(finished.err.find(sentence, first + 1), std::string::npos) << finished.err;
  };
  const std::string model = golden("tied-gqa-bf16");
  expect_refused(
      under_mpirun(2, "rill logits " + model + " --ids 1 --out /dev/null --tp 3"), 2,
      "rill: --tp 3 --sp 1 makes 3 ranks where 2 run; take --tp 1 --sp 2, --tp 2 --sp 1");
  expect_refused(under_mpirun(3, "rill info " + model), 2, "rill info runs in one process");
  expect_refused(under_mpirun(3, "rill run /nowhere/at/all x"), 1,
                 "rank 0: there is no folder /nowhere/at/all");
  expect_refused(run_shell("rill logits " + model + " --ids 1 --out /dev/null --tp 2"), 2,
                 "rill: --tp 2 --sp 1 makes 2 ranks where 1 runs; take --tp 1 --sp 1");
}

}  // namespace
}  // namespace rill

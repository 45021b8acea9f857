// SPDX-License-Identifier: Apache-2.0
// The programs under mpirun: same files, one sentence for every refusal, no rank left behind.
#include <gtest/gtest.h>

#include "cli/process.h"
#include "model/test_folder.h"

namespace rill {
namespace {

// More ranks than cores, and as root where tests run so.
const std::string kMpirun =
    "export PATH=\"" RILL_BIN_DIR
    ":$PATH\" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
    "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0 "
    "OMP_NUM_THREADS=1; mpirun -n ";

Finished under_mpirun(int ranks, const std::string& command) {
  return run_shell(kMpirun + std::to_string(ranks) + " " + command);
}

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

TEST(Mpi, RunSaysTheSameOnce) {
  const std::string command = "rill run " + kDemo + " --greedy --max-tokens 20";
  const Finished alone = run_shell("echo Who are you? | " + command);
  // Standard input reaches the first rank only.
  const Finished ranks = run_shell(kMpirun.substr(0, kMpirun.find("mpirun")) +
                                   "echo Who are you? | mpirun -n 2 " + command);
  ASSERT_EQ(alone.status, 0) << alone.err;
  ASSERT_EQ(ranks.status, 0) << ranks.err;
  EXPECT_EQ(alone.out, ranks.out);
  EXPECT_NE(ranks.err.find("on each of 2 ranks (tp 2 x sp 1)"), std::string::npos) << ranks.err;
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

// A rank that is killed takes the job with it, soon and with a word about it.
TEST(Mpi, AKilledRankEndsTheJob) {
  const Finished finished =
      run_shell(kMpirun + "2 rill bench " + kDemo +
                " --tp 2 -p 256 -n 0 -r 10000 &\n"
                "job=$!\n"
                "for i in $(seq 100); do\n"
                "  ranks=$(pgrep -P $job -f 'rill bench'); [ $(wc -w <<<\"$ranks\") = 2 ] && "
                "break; sleep 0.1\n"
                "done\n"
                "sleep 1; kill -9 ${ranks##*$'\\n'}; start=$SECONDS\n"
                "wait $job; status=$?\n"
                "left() { ps -o stat= -p \"$(echo $ranks | tr ' ' ,)\" | grep -vc Z; }\n"
                "while [ $((SECONDS - start)) -lt 10 ] && [ $(left) != 0 ]; do sleep 0.1; done\n"
                "[ $(left) = 0 ] || echo still there >&2\n"
                "exit $status\n");
  EXPECT_NE(finished.status, 0) << finished.err;
  EXPECT_NE(finished.err.find("process rank 1"), std::string::npos) << finished.err;
  EXPECT_EQ(finished.err.find("still there"), std::string::npos) << finished.err;
}

TEST(Mpi, RanksMustAgree) {
  const TestFolder folder;
  const auto rank = [&](const std::string& model, const std::string& options) {
    return "rill logits " + golden(model) + " --ids 1,2 --out " + (folder.path() / "l").string() +
           " --tp 2 " + options;
  };
  const Finished model =
      under_mpirun(1, rank("tied-gqa-bf16", "") + " : -n 1 " + rank("yarn-bf16", ""));
  EXPECT_NE(model.status, 0);
  EXPECT_NE(model.err.find("rank 1 has another model"), std::string::npos) << model.err;
  const Finished options = under_mpirun(
      1, rank("tied-gqa-bf16", "") + " : -n 1 " + rank("tied-gqa-bf16", "--weights int8"));
  EXPECT_NE(options.status, 0);
  EXPECT_NE(options.err.find("rank 1 has other options"), std::string::npos) << options.err;
}

}  // namespace
}  // namespace rill

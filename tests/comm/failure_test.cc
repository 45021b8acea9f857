// SPDX-License-Identifier: Apache-2.0
// What may happen to a rank: the job ends soon, says why, and leaves nothing behind.
#include <gtest/gtest.h>

#include "comm/mpirun.h"
#include "model/test_folder.h"

namespace rill {
namespace {

// A rank that is killed takes the job with it, soon and with a word about it.
TEST(Failure, AKilledRankEndsTheJob) {
  const Finished finished =
      run_shell(kMpirunSetup + "mpirun -n 2 rill bench " + kDemo +
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

TEST(Failure, RanksMustAgree) {
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
  EXPECT_NE(options.err.find("rank 1 has \"--weights int8\" on its command line"),
            std::string::npos)
      << options.err;
}

}  // namespace
}  // namespace rill

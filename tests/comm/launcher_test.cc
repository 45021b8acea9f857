// SPDX-License-Identifier: Apache-2.0
// What programs make of the environment that launchers set, and a build without MPI. No MPI runs.
#include "comm/launcher.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "base/error.h"
#include "cli/process.h"

namespace rill {
namespace {

constexpr const char* kAllNames[] = {
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "PMI_FD",
    "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"};

/// The environment of a launcher, for as long as this stands.
class Launched {
 public:
  explicit Launched(std::initializer_list<std::pair<const char*, const char*>> variables) {
    clear();
    for (const auto& [name, value] : variables) ::setenv(name, value, 1);
  }
  ~Launched() { clear(); }

 private:
  static void clear() {
    for (const char* name : kAllNames) ::unsetenv(name);
  }
};

std::string sentence(int ranks) {
  try {
    check_launcher(ranks);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Launcher, NobodyStartedRanks) {
  const Launched shell({});
  EXPECT_FALSE(under_launcher());
  EXPECT_EQ(launched_ranks(), 0);
  EXPECT_EQ(sentence(1), "");
}

TEST(Launcher, ReadsEveryLauncher) {
  {
    const Launched open_mpi({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "3"}});
    EXPECT_TRUE(under_launcher());
    EXPECT_EQ(launched_ranks(), 4);
    EXPECT_EQ(launched_rank(), 3);
  }
  {
    const Launched hydra({{"PMI_SIZE", "6"}, {"PMI_RANK", "5"}, {"PMI_FD", "9"}});
    EXPECT_TRUE(under_launcher());
    EXPECT_EQ(launched_ranks(), 6);
    EXPECT_EQ(launched_rank(), 5);
  }
  const Launched srun({{"PMIX_RANK", "1"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_PROCID", "1"}});
  EXPECT_TRUE(under_launcher());
  EXPECT_EQ(launched_ranks(), 8);
  EXPECT_EQ(launched_rank(), 1);
  EXPECT_EQ(sentence(8), "");
}

// mpirun in a batch script starts one daemon per node with srun: its ranks are not srun's tasks.
TEST(Launcher, MpirunCountsBeforeSrun) {
  const Launched both({{"OMPI_COMM_WORLD_SIZE", "8"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  EXPECT_EQ(launched_ranks(), 8);
}

// One task of srun, as the shell of salloc is, runs by itself and needs no MPI.
TEST(Launcher, OneTaskOfSrunIsAProcess) {
  const Launched shell({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}});
  EXPECT_FALSE(under_launcher());
  EXPECT_EQ(sentence(1), "");
}

TEST(Launcher, TasksWithoutMpiAreRefused) {
  const Launched srun({{"SLURM_STEP_NUM_TASKS", "8"}});
  EXPECT_NE(sentence(1).find("srun started 8 tasks of this program without MPI"),
            std::string::npos);
}

TEST(Launcher, AnotherMpisRanksAreRefused) {
  const Launched hydra({{"PMI_SIZE", "2"}, {"PMI_RANK", "0"}});
  EXPECT_NE(sentence(1).find("the launcher started 2 ranks, but this program's MPI library sees"),
            std::string::npos);
}

constexpr const char* kInfo = " info " RILL_SOURCE_DIR "/models/rill-demo";

TEST(Launcher, ProgramsRefuseTasksWithoutMpi) {
  const Finished srun =
      run_shell("SLURM_STEP_NUM_TASKS=2 " RILL_BIN_DIR "/rill" + std::string(kInfo));
  EXPECT_EQ(srun.status, 1);
  EXPECT_NE(srun.err.find("rill: srun started 2 tasks"), std::string::npos) << srun.err;
}

TEST(WithoutMpi, RunsAlone) {
  const Finished info = run_shell(RILL_WITHOUT_MPI + std::string(kInfo));
  EXPECT_EQ(info.status, 0) << info.err;
  const Finished one = run_shell("OMPI_COMM_WORLD_SIZE=1 " RILL_WITHOUT_MPI + std::string(kInfo));
  EXPECT_EQ(one.out, info.out);
}

TEST(WithoutMpi, SaysSoWhenAskedForRanks) {
  const Finished ranks = run_shell("OMPI_COMM_WORLD_SIZE=2 " RILL_WITHOUT_MPI + std::string(kInfo));
  EXPECT_EQ(ranks.status, 1);
  EXPECT_EQ(ranks.err,
            "rill-without-mpi: this program was built without MPI, but a launcher started 2 ranks "
            "of it; build it with -DRILL_MPI=ON, or start it without mpirun or srun\n");
  const Finished shape =
      run_shell(RILL_WITHOUT_MPI " logits " RILL_SOURCE_DIR
                                 "/models/rill-demo --ids 1 --out /dev/null --sp 2");
  EXPECT_EQ(shape.status, 2);
  EXPECT_NE(shape.err.find("--tp 1 --sp 2 asks for ranks, but this program was built without MPI"),
            std::string::npos)
      << shape.err;
}

}  // namespace
}  // namespace rill

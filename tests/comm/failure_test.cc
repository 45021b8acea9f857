// SPDX-License-Identifier: Apache-2.0
// What may happen to a rank: the job ends within ten seconds with a sentence that names the rank
// and the cause, and leaves no process and no shared memory behind.
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

#include "comm/mpirun.h"
#include "model/test_folder.h"

namespace rill {
namespace {

namespace fs = std::filesystem;

// Starts a job of two ranks, waits until both have begun and for `$1` seconds more, does what `$2`
// says with $job (mpirun), $first and $last (the ranks), and tells on standard error if the job
// then takes longer than ten seconds, or leaves something.
const std::string kAfter = R"sh(
after() {
  mpirun -n 2 "${@:3}" & job=$!
  for i in $(seq 200); do
    ranks=$(pgrep -x rill -P "$job,$(pgrep -d, -P $job)"); [ "$(wc -w <<<"$ranks")" -ge 2 ] && break
    sleep 0.05
  done
  set -- "$1" "$2" $ranks
  first=$3 last=$4
  caught() { awk '/SigCgt/ { print substr($2, 13) }' /proc/$1/status; }
  for i in $(seq 100); do  # until it would say that it is ended (SIGTERM is caught)
    [ $((0x$(caught $first) & 0x4000)) = 0 ] && [ -e /proc/$first ] || break
    sleep 0.05
  done
  sleep "$1"
  [ -e /proc/$first/exe ] && [ -e /proc/$last/exe ] || echo "too late" >&2
  segments=$(grep -ho '/dev/shm/[^ ]*' /proc/$first/maps /proc/$last/maps | sort -u)
  eval "$2"
  start=$SECONDS
  wait $job; status=$?
  running() { ps -o stat= -p "$first,$last" | grep -vc Z; }
  while [ $((SECONDS - start)) -lt 10 ] && [ "$(running)" != 0 ]; do sleep 0.1; done
  [ $((SECONDS - start)) -lt 10 ] || echo "too slow" >&2
  [ "$(running)" = 0 ] || echo "still running" >&2
  for segment in $segments; do [ ! -e "$segment" ] || echo "left $segment" >&2; done
  exit $status
}
)sh";

Finished after(const std::string& seconds, const std::string& event, const std::string& command) {
  return run_shell(kMpirunSetup + kAfter + "after " + seconds + " '" + event + "' " + command);
}

// What launchers say of a rank that was killed: Open MPI, MPICH 3, and MPICH 4, which knows only
// the process.
std::string killed(int rank) {
  const std::string number = std::to_string(rank);
  return "process rank " + number + " with .*signal 9 .Killed.|RANK " + number +
         " PID[^]*KILLED BY SIGNAL: 9|PID [0-9]+ RUNNING AT [^]*Killed .signal 9.";
}

// `sentence`: a regular expression.
void expect_ended(const Finished& finished, const std::string& sentence) {
  EXPECT_NE(finished.status, 0);
  EXPECT_NE(finished.status, 124) << "it took longer than ten seconds";  // timeout's
  const std::regex words(sentence);
  const std::string said = finished.err + finished.out;  // MPICH's launcher speaks on the latter
  EXPECT_TRUE(std::regex_search(said, words)) << sentence << "\n" << said;
  for (const char* wrong : {"too late", "too slow", "still running", "left /"})
    EXPECT_EQ(finished.err.find(wrong), std::string::npos) << finished.err;
}

const std::string kLoad = "rill bench --shape qwen3-0.6b --tp 2 -p 16 -n 0";
const std::string kPrefill = "rill bench " + kDemo + " --tp 2 -p 4096 -n 0 -r 10000";
const std::string kDecode = "rill bench " + kDemo + " --sp 2 -p 0 -n 8000 -r 10000";

TEST(Failure, KilledInLoad) {
  expect_ended(after("0.3", "kill -9 $last", kLoad), killed(1));
}

TEST(Failure, KilledInPrefill) {
  expect_ended(after("2", "kill -9 $last", kPrefill), killed(1));
}

TEST(Failure, KilledInDecode) {
  expect_ended(after("2", "kill -9 $last", kDecode), killed(1));
  expect_ended(after("2", "kill -9 $first", kDecode), killed(0));
}

const std::string kInterrupted =
    "rank 0: (the launcher ended this job .SIGTERM.: it was|this job was) interrupted";

TEST(Failure, Interrupted) {
  expect_ended(after("2", "kill -INT $job", kDecode), kInterrupted);
}

// MPICH's launcher looks after the ranks in a process of its own.
TEST(Failure, InterruptedUnderALauncherThatComesLate) {
  expect_ended(after("2",
                     "kill -INT $job; sleep 0.1; launcher=$(pgrep -P $job hydra || echo $job); "
                     "kill -STOP $launcher; sleep 1.5; kill -CONT $launcher",
                     kDecode),
               kInterrupted);
}

// One rank with `first`, another one with `second`, both from a shell.
Finished two(const std::string& first, const std::string& second) {
  return run_shell(kMpirunSetup + "timeout 10 mpirun -n 1 " + first + " : -n 1 " + second);
}

TEST(Failure, NoModel) {
  const Finished finished = two("rill run " + kDemo + " hi", "rill run /nowhere/at/all hi");
  expect_ended(finished, "rill: rank 1: there is no folder /nowhere/at/all");
}

TEST(Failure, DamagedModel) {
  const TestFolder folder;
  fs::copy(kDemo, folder.path(), fs::copy_options::recursive);
  fs::resize_file(folder.path() / "model.safetensors", 100000);
  const Finished finished =
      two("rill run " + kDemo + " hi", "rill run " + folder.path().string() + " hi");
  expect_ended(finished, "rill: rank 1: " + folder.path().string());
}

TEST(Failure, NoMemory) {
  const Finished finished = two(kLoad, "bash -c 'ulimit -v 600000; exec " + kLoad + "'");
  expect_ended(finished, "rill: rank 1: cannot allocate");
}

TEST(Failure, AnotherProgram) {
  const TestFolder folder;
  const fs::path other = folder.path() / "rill";
  fs::copy_file(RILL_BIN_DIR "/rill", other);
  folder.write("tail", "another build");
  const Finished finished =
      run_shell(kMpirunSetup + "cat " + (folder.path() / "tail").string() + " >> " +
                other.string() + "\ntimeout 10 mpirun -n 1 rill run " + kDemo + " hi : -n 1 " +
                other.string() + " run " + kDemo + " hi");
  expect_ended(finished, "rank 1 has another program or build of Rill than rank 0");
}

TEST(Failure, AnotherModel) {
  const std::string options = " --ids 1,2 --out /tmp/never-written --tp 2";
  expect_ended(two("rill logits " + golden("tied-gqa-bf16") + options,
                   "rill logits " + golden("yarn-bf16") + options),
               "rank 1 has another model");
  // The same sizes, another byte at the end.
  const TestFolder folder;
  fs::copy(golden("tied-gqa-bf16"), folder.path(), fs::copy_options::recursive);
  std::string file = read_text(folder.path() / "model.safetensors");
  file.back() = static_cast<char>(file.back() ^ 1);
  folder.write("model.safetensors", file);
  expect_ended(two("rill logits " + golden("tied-gqa-bf16") + options,
                   "rill logits " + folder.path().string() + options),
               "rank 1 has another model");
}

TEST(Failure, OtherOptions) {
  const std::string run = "rill run " + kDemo + " hi --max-tokens 4 ";
  expect_ended(two(run, run + "--weights int8"), "rank 1 has \"--weights int8\"");
  expect_ended(two(run + "--tp 2", run + "--sp 2"),
               "rank 1 has \"--sp 2\" on its command line, unlike rank 0, which has \"--tp 2\"");
  expect_ended(two(run, run + "--no-such-option"),
               "rill: rank 1: rill run has no option --no-such-option");
  expect_ended(two(run, "rill logits " + kDemo + " --ids 1 --out x"), "rank 1 has \"logits\"");
  // Machines may differ.
  const Finished machines = two(run + "--isa scalar", run + "--threads 2");
  EXPECT_EQ(machines.status, 0) << machines.err;
}

TEST(Failure, FullDisk) {
  // A file system that fills up needs root's right to mount, or a namespace in which one has it.
  const std::string mount = "mount -t tmpfs -o size=64k none /mnt && ";
  std::string in_namespace = "unshare --mount bash -c '";
  if (run_shell(in_namespace + mount + "true'").status != 0)
    in_namespace = "unshare --mount --map-root-user bash -c '";
  if (run_shell(in_namespace + mount + "true'").status != 0)
    GTEST_SKIP() << "needs root or user namespaces, to mount a disk that fills up; a full disk is "
                    "an error of write() like the limit in cli_test's BadInput.FileSizeLimit";
  const Finished finished = run_shell(
      kMpirunSetup + in_namespace + mount + "timeout 10 mpirun -n 2 rill logits " + kDemo +
      " --ids 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16 --out /mnt/logits; status=$?\n"
      "[ -z \"$(ls -A /mnt)\" ] || echo left /mnt >&2\nexit $status'");
  expect_ended(finished, "rill: rank 0: cannot write /mnt/logits .No space left on device.");
}

}  // namespace
}  // namespace rill

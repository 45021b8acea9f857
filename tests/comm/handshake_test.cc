// SPDX-License-Identifier: Apache-2.0
// Ranks that do not agree are refused, all of them with the same sentence.
#include "engine/handshake.h"

#include <gtest/gtest.h>

#include "comm/thread_ranks.h"
#include "model/test_folder.h"

namespace rill {
namespace {

Checkpoint golden_checkpoint(const std::string& name) {
  return Checkpoint::open(golden_folder() / name);
}

TEST(Handshake, EqualRanksGoOn) {
  run_ranks(3, [](Communicator& world) {
    shake_hands(world, golden_checkpoint("tied-gqa-bf16"), "options");
  });
}

TEST(Handshake, NamesTheRankAndWhatDiffers) {
  const auto with = [](const std::string& model, const std::string& options) {
    run_ranks(3, [&](Communicator& world) {
      const bool odd = world.rank() == 2;
      shake_hands(world, golden_checkpoint(odd ? model : "tied-gqa-bf16"), odd ? options : "same");
    });
  };
  expect_error([&] { with("yarn-bf16", "same"); },
               {"rank 2 has another model (its files differ) than rank 0"});
  expect_error([&] { with("tied-gqa-bf16", "other"); }, {"rank 2 has other options"});
}

// One changed byte at the end of a tensor of more than 128 KiB counts, as do the tensors' names.
TEST(Handshake, HashesTheEndsOfTensors) {
  const TestFolder folder;
  std::filesystem::copy(golden_folder() / "deep-bf16", folder.path(),
                        std::filesystem::copy_options::recursive);
  const uint64_t before = model_hash(Checkpoint::open(folder.path()));
  EXPECT_EQ(before, model_hash(golden_checkpoint("deep-bf16")));
  std::string changed = read_text(golden_folder() / "deep-bf16" / "model.safetensors");
  changed.back() = static_cast<char>(changed.back() ^ 1);
  folder.write("model.safetensors", changed);
  EXPECT_NE(before, model_hash(Checkpoint::open(folder.path())));
}

// When to stop and how to sample is part of what ranks agree on.
TEST(Handshake, HashesTheSmallFiles) {
  const TestFolder folder;
  std::filesystem::copy(golden_folder() / "deep-bf16", folder.path(),
                        std::filesystem::copy_options::recursive);
  const uint64_t before = model_hash(Checkpoint::open(folder.path()));
  folder.write("generation_config.json", "{\"do_sample\": true}");
  EXPECT_NE(before, model_hash(Checkpoint::open(folder.path())));
}

}  // namespace
}  // namespace rill

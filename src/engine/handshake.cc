// SPDX-License-Identifier: Apache-2.0
#include "engine/handshake.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "build_commit.h"

namespace rill {
namespace {

uint64_t hash_of(std::string_view text) {
  Hash hash;
  hash.add(text);
  return hash.value();
}

// What decides a result besides the tensors: sizes, when to stop and how to sample, and the ids of
// a text.
constexpr const char* kWholeFiles[] = {"config.json", "generation_config.json", "tokenizer.json",
                                       "tokenizer_config.json", "chat_template.jinja"};

}  // namespace

uint64_t program_hash() {
  return hash_of(MappedFile::open("/proc/self/exe").text());
}

uint64_t model_hash(const Checkpoint& checkpoint) {
  constexpr size_t kEnd = size_t{64} << 10;
  Hash hash;
  const std::filesystem::path folder(checkpoint.folder());
  for (const char* name : kWholeFiles) {
    hash.add(name);
    if (std::filesystem::exists(folder / name)) hash.add(MappedFile::open(folder / name).text());
  }
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    hash.add(tensor.name);
    hash.add(dtype_name(tensor.dtype));
    hash.add(shape_text(tensor.shape));
    const size_t end = std::min(kEnd, tensor.bytes.size());
    hash.add(tensor.bytes.first(end));
    hash.add(tensor.bytes.last(end));
  }
  return hash.value();
}

void require_same(Communicator& world, uint64_t value, const std::string& what) {
  std::vector<uint64_t> values(static_cast<size_t>(world.size()));
  values[static_cast<size_t>(world.rank())] = value;
  const std::vector<size_t> bytes(values.size(), sizeof value);
  world.all_gather(reinterpret_cast<std::byte*>(values.data()), bytes);
  for (size_t rank = 1; rank < values.size(); ++rank)
    if (values[rank] != values[0])
      fail("rank ", rank, " has ", what, " than rank 0; start all ranks with the same");
}

void shake_hands(Communicator& world, const Checkpoint& checkpoint, const std::string& options) {
  if (world.size() == 1) return;
  require_same(world, hash_of(std::string(kBuildCommit) + " " + __VERSION__),
               "another build of Rill");
  require_same(world, hash_of(options), "other options or weight types (" + options + " here)");
  require_same(world, model_hash(checkpoint), "another model (its files differ)");
}

}  // namespace rill

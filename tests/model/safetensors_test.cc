// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "model/test_folder.h"

namespace rill {
namespace {

/// A safetensors file of this header and `data_bytes` of data.
std::string file_of(std::string_view header, size_t data_bytes) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::string with_length(uint64_t length, std::string_view rest) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i));
  return file + std::string(rest);
}

std::vector<TensorInfo> parse(std::string_view file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "x.safetensors");
}

// ---- one file -------------------------------------------------------------------------------

TEST(Safetensors, ListsTensorsInTheOrderOfTheirBytes) {
  const std::string file = file_of(
      R"({"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("empty":{"dtype":"F16","shape":[0,7],"data_offsets":[14,14]},)"
      R"("scalar":{"dtype":"I8","shape":[],"data_offsets":[14,15]},)"
      R"("nibbles":{"dtype":"F4","shape":[6],"data_offsets":[15,18]}}  )",
      18);
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), 5u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].dtype, DType::F32);
  EXPECT_EQ(tensors[0].shape, (std::vector<size_t>{2, 1}));
  EXPECT_EQ(tensors[1].name, "b");
  EXPECT_EQ(tensors[1].bytes.size(), 6u);
  EXPECT_EQ(tensors[1].bytes[0], std::byte{8});
  EXPECT_EQ(tensors[2].name, "empty");
  EXPECT_TRUE(tensors[2].bytes.empty());
  EXPECT_EQ(tensors[3].bytes.size(), 1u);
  EXPECT_EQ(tensors[4].bytes.size(), 3u);
  EXPECT_EQ(tensors[4].file, "x.safetensors");
}

TEST(Safetensors, NamesEveryType) {
  for (int i = 0; i <= static_cast<int>(DType::C64); ++i) {
    EXPECT_FALSE(dtype_name(static_cast<DType>(i)).empty());
    EXPECT_GE(dtype_bits(static_cast<DType>(i)), 4u);
  }
  EXPECT_EQ(dtype_name(DType::BF16), "BF16");
  EXPECT_EQ(dtype_bits(DType::F64), 64u);
}

struct BadFile {
  const char* name;
  std::string content;
  std::vector<std::string> words;
};

/// One tensor "t" described by `entry`, and that many bytes of data.
BadFile entry(const char* name, std::string_view entry, size_t bytes,
              std::vector<std::string> words) {
  words.push_back("\"t\"");
  return {name, file_of("{\"t\":" + std::string(entry) + "}", bytes), std::move(words)};
}

std::vector<BadFile> bad_files() {
  const std::string good = file_of(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  const std::string deep = "{\"t\":" + std::string(50, '[') + std::string(50, ']') + "}";
  return {
      // The file around the header.
      {"empty", "", {"has 0 bytes", "at least the 8"}},
      {"seven bytes", "1234567", {"has 7 bytes"}},
      {"no header", with_length(20, ""), {"header has 20 bytes", "only 8"}},
      {"length beyond", with_length(1000, "{}"), {"header has 1000 bytes", "only 10", "download"}},
      {"length huge", with_length(UINT64_MAX, "{}"), {"18446744073709551615", "at most 100000000"}},
      {"length over limit", with_length(100'000'001, "{}"), {"100000001", "at most 100000000"}},
      {"length zero", with_length(0, "{}"), {"does not start with {"}},
      {"not an object", file_of("[1]", 0), {"does not start with {"}},
      {"leading space", file_of(" {}", 0), {"does not start with {"}},
      {"not JSON", file_of("{nonsense}", 0), {"(its header)", "not JSON at byte 3"}},
      {"cut header", file_of("{\"t\":{\"dtype\"", 0), {"not JSON", "ends too early"}},
      {"not UTF-8", file_of("{\"\xff\":1}", 0), {"not JSON"}},
      {"nested", file_of(deep, 0), {"deeper than 8"}},
      {"zeros", std::string(4096, '\0'), {"does not start with {"}},
      {"LFS pointer",
       "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
       {"Git LFS pointer", "git lfs pull"}},
      {"GGUF", "GGUF\x03\0\0\0", {"GGUF", "safetensors"}},
      {"web page",
       "<!DOCTYPE html><html>Not Found</html>",
       {"not a safetensors file or it is damaged"}},
      {"cut data", good.substr(0, good.size() - 1), {"\"t\"", "ends at byte 8", "only 7"}},
      {"trailing data", good + "x", {"has 9 bytes of data, expected 8"}},
      {"data without tensors", file_of("{}", 4), {"has 4 bytes of data, expected 0"}},
      {"metadata", file_of(R"({"__metadata__":{"format":1}})", 0), {"__metadata__"}},
      {"metadata list", file_of(R"({"__metadata__":[]})", 0), {"__metadata__"}},
      {"twice",
       file_of(
           R"({"t":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}})",
           2),
       {"\"t\" twice"}},
      // One tensor's entry.
      entry("null", "null", 0, {"described by null"}),
      entry("number", "7", 0, {"described by 7", "dtype, shape and data_offsets"}),
      entry("no dtype", R"({"shape":[1],"data_offsets":[0,4]})", 4, {"has no dtype"}),
      entry("dtype number", R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})", 4,
            {"has no dtype"}),
      entry("dtype unknown", R"({"dtype":"Q4_K","shape":[1],"data_offsets":[0,4]})", 4,
            {"\"Q4_K\"", "BF16"}),
      entry("no shape", R"({"dtype":"F32","data_offsets":[0,4]})", 4, {"has no shape"}),
      entry("shape number", R"({"dtype":"F32","shape":4,"data_offsets":[0,4]})", 4,
            {"wrong shape"}),
      entry("shape negative", R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4,
            {"-1 in its shape"}),
      entry("shape fraction", R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", 4,
            {"1.0 in its shape"}),
      entry("rank", R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})", 4,
            {"wrong shape", "at most 8"}),
      entry("shape overflows",
            R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0,
            {"size fits a file"}),
      // 2^61 × 2^3 elements of four bytes are zero modulo 2^64.
      entry("shape wraps",
            R"({"dtype":"F32","shape":[2305843009213693952,8],"data_offsets":[0,0]})", 0,
            {"size fits a file"}),
      entry("shape too large", R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8,
            {"has 8 bytes, expected 12", "[3] of F32"}),
      entry("shape too small", R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})", 8,
            {"has 8 bytes, expected 4"}),
      entry("half a byte", R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})", 2,
            {"12 bits", "whole bytes"}),
      entry("no offsets", R"({"dtype":"F32","shape":[2]})", 8, {"has no data_offsets"}),
      entry("one offset", R"({"dtype":"F32","shape":[2],"data_offsets":[8]})", 8,
            {"data_offsets [8]", "[begin, end]"}),
      entry("offsets swapped", R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8,
            {"data_offsets [8, 0]"}),
      entry("offset negative", R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", 8,
            {"-8 in its data_offsets"}),
      entry("offset beyond", R"({"dtype":"F32","shape":[2],"data_offsets":[8,16]})", 8,
            {"ends at byte 16", "only 8"}),
      entry(
          "offset huge",
          R"({"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]})",
          8, {"ends at byte"}),
      entry("hole before", R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 8,
            {"begins at byte 4", "hole", "expected byte 0"}),
      // Several tensors.
      {"overlap",
       file_of(
           R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
           12),
       {"\"b\"", "begins at byte 4", "overlapping", "expected byte 8"}},
      {"same bytes",
       file_of(
           R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})",
           4),
       {"overlapping"}},
      {"hole",
       file_of(
           R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[8,12]}})",
           12),
       {"\"b\"", "begins at byte 8", "hole", "expected byte 4"}},
  };
}

TEST(Safetensors, RefusesBadFilesByName) {
  const std::vector<BadFile> files = bad_files();
  for (const BadFile& bad : files) {
    SCOPED_TRACE(bad.name);
    std::vector<std::string> words = bad.words;
    words.push_back("x.safetensors");
    expect_error([&] { parse(bad.content); }, words);
  }
  EXPECT_GE(files.size(), 45u);
}

TEST(Safetensors, ManyValuesTakeLinearTimeAndBoundedMemory) {
  // A parser that searches the list at every element would be at this for hours.
  std::string list = "{\"t\":[{}";
  for (int i = 1; i < 1'000'000; ++i) list += ",{}";
  expect_error([&] { parse(file_of(list + "]}", 0)); }, {"described by a list of 1000000"});
  std::string longer = "{\"t\":[0";
  for (int i = 1; i < 5'000'000; ++i) longer += ",0";
  expect_error([&] { parse(file_of(longer + "]}", 0)); }, {"more than 4194304 JSON values"});
}

TEST(Safetensors, EveryCutOfAGoodFileIsRefused) {
  const std::string good = read_text(golden_folder() / "one-token-bf16" / "model.safetensors");
  ASSERT_GT(good.size(), 10'000u);
  EXPECT_NO_THROW(parse(good));
  for (size_t size = 0; size < good.size(); size += size < 64 ? 1 : 997) {
    EXPECT_THROW(parse(std::string_view(good).substr(0, size)), Error) << size;
  }
}

TEST(SafetensorsWriter, WritesWhatTheParserReads) {
  const TestFolder folder;
  const auto path = folder.path() / "out.safetensors";
  const std::vector<TensorSpec> specs = {{"logits", DType::F32, {2, 3}}, {"ids", DType::I32, {2}}};
  std::vector<float> logits(6);
  std::iota(logits.begin(), logits.end(), 0.5f);
  const std::vector<int32_t> ids = {7, -1};
  {
    SafetensorsWriter writer(path, specs, {{"format", "pt"}});
    writer.write(std::as_bytes(std::span(logits).first(1)));
    writer.write(std::as_bytes(std::span(logits).subspan(1)));
    writer.write(std::as_bytes(std::span(ids)));
    EXPECT_FALSE(std::filesystem::exists(path));
    writer.commit();
  }
  const std::string file = read_text(path);
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "logits");
  EXPECT_EQ(tensors[0].shape, (std::vector<size_t>{2, 3}));
  EXPECT_EQ(0, std::memcmp(tensors[0].bytes.data(), logits.data(), 24));
  EXPECT_EQ(0, std::memcmp(tensors[1].bytes.data(), ids.data(), 8));
  EXPECT_EQ((tensors[0].bytes.data() - std::as_bytes(std::span(file)).data()) % 8, 0);
}

TEST(SafetensorsWriter, LeavesNothingHalfWritten) {
  const TestFolder folder;
  const auto path = folder.write("out.safetensors", "before");
  const std::vector<TensorSpec> specs = {{"t", DType::F32, {1}}};
  { SafetensorsWriter writer(path, specs); }
  EXPECT_EQ(read_text(path), "before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(OutputFile, RefusesWhatCannotBeReplaced) {
  const TestFolder folder;
  expect_error([&] { OutputFile file(folder.path()); }, {"is a folder", folder.path().string()});
  expect_error([] { OutputFile file("/dev/null"); }, {"/dev/null", "device"});
  expect_error([] { OutputFile file(""); }, {"an empty path"});
  expect_error([&] { OutputFile file(folder.path() / "absent" / "x"); },
               {"absent/x", "No such file or directory", "choose another path"});
}

}  // namespace
}  // namespace rill

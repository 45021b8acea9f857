// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/bench_plot.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;

Json row(const std::string& test, int threads) {
  return Json{{"test", test},
              {"n_threads", threads},
              {"peak_fma", 500.0},
              {"peak_vdpbf16ps", 1000.0},
              {"peak_vnni", 0.0},
              {"peak_maddubs", 900.0},
              {"peak_amx_bf16", 0.0},
              {"peak_amx_int8", 0.0},
              {"peak_bandwidth", 50.0},
              {"profile", Json::array({{{"operation", "qkv"},
                                        {"flops", 4e9},
                                        {"bytes", 1e9},
                                        {"gflops", 150.0},
                                        {"ceiling", "vdpbf16ps"}},
                                       {{"operation", "waiting"},
                                        {"flops", 0.0},
                                        {"bytes", 0.0},
                                        {"gflops", 0.0},
                                        {"ceiling", ""}}})}};
}

TEST(RooflineScript, PointsOfCountedWorkUnderTheRoofsThatBind) {
  const std::string script = roofline_script({row("pp512", 2), row("tg1", 1)}, "it's.svg");
  EXPECT_NE(script.find("set output 'it''s.svg'"), std::string::npos) << script;
  EXPECT_NE(script.find("\n4 150 qkv\nEND"), std::string::npos) << script;
  EXPECT_EQ(script.find("waiting"), std::string::npos);
  for (const char* title : {"'vdpbf16ps, 2 threads'", "'vdpbf16ps, 1 thread'", "'fma, 1 thread'",
                            "'pp512, 2 threads'", "'tg1, 1 thread'"})
    EXPECT_NE(script.find(title), std::string::npos) << title << script;
  EXPECT_EQ(script.find("maddubs"), std::string::npos) << script;
  EXPECT_NE(script.find("(50 * x < 1000 ? 50 * x : 1000)"), std::string::npos) << script;
}

TEST(LinesScript, OneBlockOfDataForEachLine) {
  const std::string script =
      lines_script({{"a", {{1024, 5}, {2048, 6}}}, {"b", {}}}, "T", "ms", "x.svg");
  EXPECT_NE(script.find("$series0 << END\n1024 5\n2048 6\nEND\n$series1 << END\nEND\n"),
            std::string::npos)
      << script;
  EXPECT_THROW(lines_script({}, "T", "ms", "a\nb.svg"), Error);
}

}  // namespace
}  // namespace rill

# SPDX-License-Identifier: Apache-2.0
# Reading the headers of the standard library and of JSON takes longer than compiling most of the
# files that include them. One target of each set of compiler flags reads them once
# (target_precompile_headers), the others take what it made (REUSE_FROM). A file still includes all
# that it uses: `make asan` and the build without root are made without precompiled headers.
set(RILL_STANDARD_HEADERS
    <algorithm> <array> <charconv> <chrono> <cmath> <cstdint> <cstdlib> <cstring> <filesystem> <fstream>
    <functional> <limits> <map> <memory> <numeric> <optional> <set> <span> <sstream> <stdexcept> <string>
    <string_view> <utility> <vector> <nlohmann/json.hpp>)

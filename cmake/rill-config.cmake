# SPDX-License-Identifier: Apache-2.0
# find_package(rill) gives rill::rill; the library brings what it needs.
include(${CMAKE_CURRENT_LIST_DIR}/rill-targets.cmake)

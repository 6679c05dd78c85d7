# One static library per room, one test executable per room.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")
# Sanitizer builds: half the compile time of -O2 -g, and stacks still name functions and lines.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")

find_program(RIDGELINE_CCACHE ccache)
if(RIDGELINE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${RIDGELINE_CCACHE})
endif()
find_program(RIDGELINE_MOLD mold)
if(RIDGELINE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_library(ridgeline_options INTERFACE)
# No contraction: the same source gives the same bits in every translation unit; kernels ask for FMA explicitly.
target_compile_options(ridgeline_options INTERFACE -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Wconversion
                       -Wno-sign-conversion -Wno-missing-field-initializers
                       -ffp-contract=off)
target_include_directories(ridgeline_options INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>)
if(RIDGELINE_SANITIZE)
  add_compile_options(-fsanitize=${RIDGELINE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${RIDGELINE_SANITIZE})
endif()

# ridgeline_room(NAME SOURCES a.cpp ... ROOMS base ... LIBRARIES fmt::fmt ...)
# ROOMS are the rooms whose headers this one may include; tools/check_layering enforces the order of house.md.
function(ridgeline_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;ROOMS;LIBRARIES;PRIVATE_LIBRARIES" ${ARGN})
  add_library(ridgeline_${name} STATIC ${ROOM_SOURCES})
  add_library(ridgeline::${name} ALIAS ridgeline_${name})
  target_link_libraries(ridgeline_${name} PUBLIC Threads::Threads ${ROOM_LIBRARIES})
  target_link_libraries(ridgeline_${name} PRIVATE $<BUILD_INTERFACE:ridgeline_options> ${ROOM_PRIVATE_LIBRARIES})
  target_include_directories(ridgeline_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<INSTALL_INTERFACE:include>)
  target_compile_features(ridgeline_${name} PUBLIC cxx_std_20)
  foreach(room ${ROOM_ROOMS})
    target_link_libraries(ridgeline_${name} PUBLIC ridgeline_${room})
  endforeach()
  set_property(GLOBAL APPEND PROPERTY RIDGELINE_ROOMS ridgeline_${name})
endfunction()

# ridgeline_test(NAME SOURCES x_test.cpp ... ROOMS base ... LABELS unit [LIBRARIES ...])
# One executable, registered with CTest as one test per executable (fast start, readable list).
function(ridgeline_test name)
  cmake_parse_arguments(T "" "" "SOURCES;ROOMS;LIBRARIES;LABELS" ${ARGN})
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE ridgeline_options GTest::gtest GTest::gtest_main GTest::gmock ${T_LIBRARIES})
  foreach(room ${T_ROOMS})
    target_link_libraries(${name} PRIVATE ridgeline_${room})
  endforeach()
  target_compile_definitions(${name} PRIVATE RIDGELINE_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT 600)
endfunction()

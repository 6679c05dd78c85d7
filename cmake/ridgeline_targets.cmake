# One static library per room, one test executable per room.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
# Without debug information, which costs up to 7 % of a file's compile time: -DCMAKE_CXX_FLAGS=-g1 for perf and gdb.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
# Sanitizer builds: half the compile time of -O2 -g, and stacks still name functions and lines.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")

find_program(RIDGELINE_CCACHE ccache)
if(RIDGELINE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # What it needs to keep results of compilations that read a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${RIDGELINE_CCACHE})
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()
# Most compilations then end before the compiler collects its garbage, which would read and copy all of the precompiled
# headers: up to 8 % of a file's time.
add_compile_options($<$<CXX_COMPILER_ID:GNU>:--param=ggc-min-heapsize=524288>)
find_program(RIDGELINE_MOLD mold)
if(RIDGELINE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_library(ridgeline_options INTERFACE)
if(RIDGELINE_SANITIZE)  # what instrumented code makes GCC suspect is often wrong, and takes time; other builds look
  target_compile_options(ridgeline_options INTERFACE -Werror=invalid-pch)
else()
  target_compile_options(ridgeline_options INTERFACE -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Wconversion
                         -Wno-sign-conversion -Wno-missing-field-initializers)
endif()
# No contraction: the same source gives the same bits in every translation unit; kernels ask for FMA explicitly.
target_compile_options(ridgeline_options INTERFACE -ffp-contract=off)
target_include_directories(ridgeline_options INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>)
if(RIDGELINE_SANITIZE)
  add_compile_options(-fsanitize=${RIDGELINE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${RIDGELINE_SANITIZE})
endif()

# Files that run once per start, checkpoint or report are cold: -O1 takes a quarter off what they cost to compile.
# Training a tokenizer, preparing a corpus and saving took the same time, within noise, although the linker may keep
# their copies of inline functions. (Sanitizer and debug builds have levels of their own.)
set(RIDGELINE_COLD $<$<CONFIG:Release>:-O1>)

# Code of tests is compiled for the time that this takes. What it tests is in the rooms, where sanitizers watch in full;
# of test code itself AddressSanitizer and ThreadSanitizer remain. (Without any optimisation its references would take
# longer than is saved.)
set(RIDGELINE_TEST_CODE $<$<CONFIG:Release>:-O1>)
if(RIDGELINE_SANITIZE)
  set(RIDGELINE_TEST_CODE -fno-sanitize=undefined)
endif()

# ridgeline_precompile(TARGET KIND [HEADERS <a.h> ... LIBRARIES a::a ...]): TARGET reads cmake/precompiled.h precompiled,
# once for all targets of the KIND: `rooms`, `cold`, compiled at that level, or `tests`. HEADERS of LIBRARIES: more of
# them. A file still includes what it uses (clang-tidy compiles it without them). A file with a level or an instruction
# set of its own must skip them: GCC 12 crashes on headers that were precompiled with others.
function(ridgeline_precompile target kind)
  cmake_parse_arguments(P "" "" "HEADERS;LIBRARIES" ${ARGN})
  if(kind STREQUAL cold AND RIDGELINE_SANITIZE)  # where all rooms have one level
    set(kind rooms)
  endif()
  set(owner ridgeline_precompiled_${kind})
  if(NOT TARGET ${owner})
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/${owner}.cpp CONTENT "")
    add_library(${owner} OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/${owner}.cpp)
    target_link_libraries(${owner} PRIVATE ridgeline_options Threads::Threads fmt::fmt nlohmann_json::nlohmann_json
                          ${P_LIBRARIES})
    if(kind STREQUAL cold)
      target_compile_options(${owner} PRIVATE ${RIDGELINE_COLD})
    elseif(kind STREQUAL tests)
      target_compile_options(${owner} PRIVATE ${RIDGELINE_TEST_CODE})
    endif()
    if(kind STREQUAL tests)  # the code model of programs, which its users are
      set_target_properties(${owner} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
      target_compile_options(${owner} PRIVATE -fPIE)
    endif()
    target_precompile_headers(${owner} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled.h ${P_HEADERS})
  endif()
  target_precompile_headers(${target} REUSE_FROM ${owner})
  # In precompiled headers GCC 12 no longer knows the system's own, and may report its std::string (GCC bug 105651): these
  # stay warnings.
  target_compile_options(${target} PRIVATE
    "$<$<CXX_COMPILER_ID:GNU>:-Wno-error=array-bounds;-Wno-error=restrict;-Wno-error=stringop-overflow>")
endfunction()

# ridgeline_unity(TARGET N): the target's files are compiled N at a time, as one: what they include and instantiate is
# then paid for once. So no two of them may give one name to different things, in anonymous namespaces either. N keeps
# every compilation of the program below ten seconds. A file that Highway compiles for several instruction sets includes
# itself and cannot take part (SKIP_UNITY_BUILD_INCLUSION); one with compile options of its own does not.
function(ridgeline_unity target files)
  if(RIDGELINE_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE BATCH UNITY_BUILD_BATCH_SIZE ${files})
    # A class whose member's type is in an anonymous namespace: GCC takes the files for headers, where that is wrong.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
endfunction()

# ridgeline_room(NAME [COLD] [UNITY n] SOURCES a.cpp ... ROOMS base ... LIBRARIES fmt::fmt ...)
# ROOMS are the rooms whose headers this one may include; tools/check_layering enforces the order of house.md.
# COLD: its files are. UNITY: they are compiled n at a time.
function(ridgeline_room name)
  cmake_parse_arguments(ROOM "COLD" "UNITY" "SOURCES;ROOMS;LIBRARIES;PRIVATE_LIBRARIES" ${ARGN})
  add_library(ridgeline_${name} STATIC ${ROOM_SOURCES})
  add_library(ridgeline::${name} ALIAS ridgeline_${name})
  target_link_libraries(ridgeline_${name} PUBLIC Threads::Threads ${ROOM_LIBRARIES})
  target_link_libraries(ridgeline_${name} PRIVATE $<BUILD_INTERFACE:ridgeline_options> ${ROOM_PRIVATE_LIBRARIES})
  target_include_directories(ridgeline_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<INSTALL_INTERFACE:include>)
  target_compile_features(ridgeline_${name} PUBLIC cxx_std_20)
  foreach(room ${ROOM_ROOMS})
    target_link_libraries(ridgeline_${name} PUBLIC ridgeline_${room})
  endforeach()
  if(ROOM_COLD)
    target_compile_options(ridgeline_${name} PRIVATE ${RIDGELINE_COLD})
    ridgeline_precompile(ridgeline_${name} cold)
  else()
    ridgeline_precompile(ridgeline_${name} rooms)
  endif()
  if(ROOM_UNITY)
    ridgeline_unity(ridgeline_${name} ${ROOM_UNITY})
  endif()
  set_property(GLOBAL APPEND PROPERTY RIDGELINE_ROOMS ridgeline_${name})
endfunction()

# ridgeline_test_code(TARGET [UNITY n]): a program, or a library of programs, that is compiled as tests are.
function(ridgeline_test_code target)
  cmake_parse_arguments(C "" "UNITY" "" ${ARGN})
  target_compile_options(${target} PRIVATE ${RIDGELINE_TEST_CODE})
  if(C_UNITY)
    ridgeline_unity(${target} ${C_UNITY})
  endif()
  get_target_property(type ${target} TYPE)
  if(type STREQUAL STATIC_LIBRARY)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIE)
  endif()
  target_link_libraries(${target} PRIVATE GTest::gtest GTest::gmock)  # whose headers and definitions all of them see
  ridgeline_precompile(${target} tests HEADERS <gmock/gmock.h> <gtest/gtest.h> LIBRARIES GTest::gtest GTest::gmock)
endfunction()

# ridgeline_test(NAME SOURCES x_test.cpp ... ROOMS base ... LABELS unit [LIBRARIES ...] [COST s])
# One executable, registered with CTest as one test per executable (fast start, readable list). Six files are compiled
# at a time. COST: about how many seconds one of the longest takes (in a build with sanitizers, if it runs there). Where
# tests run side by side these begin first, so that none is left to run alone at the end.
function(ridgeline_test name)
  cmake_parse_arguments(T "" "COST" "SOURCES;ROOMS;LIBRARIES;LABELS" ${ARGN})
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE ridgeline_options GTest::gtest_main ${T_LIBRARIES})
  foreach(room ${T_ROOMS})
    target_link_libraries(${name} PRIVATE ridgeline_${room})
  endforeach()
  ridgeline_test_code(${name} UNITY 6)
  target_compile_definitions(${name} PRIVATE RIDGELINE_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT 600)
  if(T_COST)
    set_tests_properties(${name} PROPERTIES COST ${T_COST})
  endif()
endfunction()

# ridgeline_fuzz(ROOM INPUTS TARGET...): ROOM_fuzz_TARGET of fuzz_TARGET.cpp. With clang and -DRIDGELINE_LIBFUZZER=ON it is a
# libFuzzer program (tools/fuzz runs it), else a test that runs a fixed list of INPUTS mutated inputs, with sanitizers a
# quarter of them. It begins with the target's seeds and the files of corpus/TARGET.
option(RIDGELINE_LIBFUZZER "Build the fuzz targets as libFuzzer programs (clang)" OFF)
if(RIDGELINE_LIBFUZZER)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
function(ridgeline_fuzz room inputs)
  if(RIDGELINE_SANITIZE)  # ten times as slow
    math(EXPR inputs "${inputs} / 4")
  endif()
  foreach(target ${ARGN})
    set(name ${room}_fuzz_${target})
    add_executable(${name} fuzz_${target}.cpp)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/data)
    target_link_libraries(${name} PRIVATE ridgeline_options ridgeline_${room})
    ridgeline_test_code(${name})
    if(RIDGELINE_LIBFUZZER)
      target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/data/fuzz_seeds.cpp)
      target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    else()
      target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/data/fuzz_driver.cpp)
      set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${target})
      if(NOT EXISTS ${corpus})
        set(corpus)
      endif()
      add_test(NAME ${name} COMMAND ${name} ${inputs} ${corpus})
      set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 300)
    endif()
  endforeach()
endfunction()

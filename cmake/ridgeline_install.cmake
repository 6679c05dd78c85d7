# `cmake --install build/release --prefix DIR`: the program, the rooms as libraries with their headers, and a package:
#   find_package(ridgeline) offers ridgeline::base, ridgeline::data, ... one target per room.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Imported targets that a room may link, and the package that brings each.
set(RIDGELINE_PACKAGE_OF
  "Threads::Threads=Threads" "fmt::fmt=fmt" "nlohmann_json::nlohmann_json=nlohmann_json"
  "tomlplusplus::tomlplusplus=tomlplusplus" "simdjson::simdjson=simdjson" "CLI11::CLI11=CLI11" "hwy::hwy=hwy" "ICU::uc=ICU"
  "PkgConfig::compression=compression" "PkgConfig::pcre2=pcre2" "CURL::libcurl=CURL" "OpenSSL::Crypto=OpenSSL"
  "MPI::MPI_CXX=MPI" "DNNL::dnnl=dnnl" "OpenBLAS::OpenBLAS=OpenBLAS" "BLAS::BLAS=BLAS")

# ridgeline_packages(VARIABLE TARGET...): the packages behind everything that the targets link, private parts included
# (a static library needs them at the final link).
function(ridgeline_packages variable)
  set(packages "")
  foreach(target ${ARGN})
    get_target_property(libraries ${target} INTERFACE_LINK_LIBRARIES)
    foreach(library ${libraries})
      string(REGEX REPLACE "^\\$<LINK_ONLY:(.*)>$" "\\1" library "${library}")
      if(NOT library MATCHES "::" OR library MATCHES "^ridgeline::" OR library MATCHES "BUILD_INTERFACE")
        continue()
      endif()
      set(found "")
      foreach(pair ${RIDGELINE_PACKAGE_OF})
        if(pair MATCHES "^${library}=(.*)$")
          set(found ${CMAKE_MATCH_1})
        endif()
      endforeach()
      if(NOT found)
        message(FATAL_ERROR "${target} links ${library}: name its package in cmake/ridgeline_install.cmake")
      endif()
      list(APPEND packages ${found})
    endforeach()
  endforeach()
  list(REMOVE_DUPLICATES packages)
  set(${variable} ${packages} PARENT_SCOPE)
endfunction()

get_property(rooms GLOBAL PROPERTY RIDGELINE_ROOMS)
foreach(room ${rooms})
  string(REGEX REPLACE "^ridgeline_" "" name ${room})
  set_target_properties(${room} PROPERTIES EXPORT_NAME ${name})
endforeach()
ridgeline_packages(packages ${rooms})
set(RIDGELINE_FIND_DEPENDENCIES "")
foreach(package ${packages})
  if(package STREQUAL MPI)
    string(APPEND RIDGELINE_FIND_DEPENDENCIES "find_dependency(MPI COMPONENTS CXX)\n")
  elseif(package STREQUAL ICU)
    string(APPEND RIDGELINE_FIND_DEPENDENCIES "find_dependency(ICU COMPONENTS uc)\n")
  elseif(package STREQUAL compression)
    string(APPEND RIDGELINE_FIND_DEPENDENCIES "find_dependency(PkgConfig)\n"
           "pkg_check_modules(compression REQUIRED IMPORTED_TARGET libisal libzstd liblzma)\n")
  elseif(package STREQUAL pcre2)
    string(APPEND RIDGELINE_FIND_DEPENDENCIES "find_dependency(PkgConfig)\n"
           "pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)\n")
  elseif(package STREQUAL OpenSSL)
    string(APPEND RIDGELINE_FIND_DEPENDENCIES "find_dependency(OpenSSL COMPONENTS Crypto)\n")
  else()
    string(APPEND RIDGELINE_FIND_DEPENDENCIES "find_dependency(${package})\n")
  endif()
endforeach()

install(TARGETS ${rooms} EXPORT ridgeline ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET ridgeline)
  install(TARGETS ridgeline RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/src/ridgeline DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(DIRECTORY ${CMAKE_SOURCE_DIR}/configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/ridgeline/configs
        FILES_MATCHING PATTERN "*.toml")
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/ridgeline)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/ridgelineConfig.cmake.in
  ${CMAKE_BINARY_DIR}/package/ridgelineConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/package/ridgelineConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/package/ridgelineConfig.cmake ${CMAKE_BINARY_DIR}/package/ridgelineConfigVersion.cmake
        DESTINATION ${package_folder})
install(EXPORT ridgeline NAMESPACE ridgeline:: FILE ridgelineTargets.cmake DESTINATION ${package_folder})

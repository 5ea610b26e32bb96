# carquet, which reads Parquet (runtime/files/parquet.h): a static library of its reader, from the archive that
# vendored.txt names. MEDRL_PARQUET: AUTO (when the archive is there), ON (an error when it is not: what ./bootstrap
# says), OFF. MEDRL_SOURCES: the folder of the archives.
set(MEDRL_PARQUET AUTO CACHE STRING "Read Parquet files: ON, OFF, or AUTO (when the sources are there)")
if(DEFINED ENV{XDG_CACHE_HOME})
  set(sources_default $ENV{XDG_CACHE_HOME}/medrl/sources)
else()
  set(sources_default $ENV{HOME}/.cache/medrl/sources)
endif()
set(MEDRL_SOURCES ${sources_default} CACHE PATH "Where ./bootstrap puts the archives of cmake/vendored.txt")

set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/vendored.txt)
file(STRINGS ${CMAKE_SOURCE_DIR}/cmake/vendored.txt pinned REGEX "^carquet ")
separate_arguments(pinned)
list(GET pinned 1 CARQUET_VERSION)
list(GET pinned 2 archive)
list(GET pinned 3 want_sha256)
list(GET pinned 4 CARQUET_LICENSE)
set(archive ${MEDRL_SOURCES}/${archive})
set(MEDRL_HAS_PARQUET OFF)

if(MEDRL_PARQUET)
  pkg_check_modules(LZ4 IMPORTED_TARGET liblz4)
  set(missing "")
  if(NOT EXISTS ${archive})
    set(missing "there is no ${archive} (./bootstrap fetches it)")
  elseif(NOT LZ4_FOUND)
    set(missing "liblz4-dev is missing")
  else()
    file(SHA256 ${archive} got_sha256)
    if(NOT got_sha256 STREQUAL want_sha256)
      set(missing "${archive} has SHA-256 ${got_sha256}, want ${want_sha256}: it is not the file we know; remove it")
    endif()
  endif()
  if(NOT missing)
    set(MEDRL_HAS_PARQUET ON)
  elseif(NOT MEDRL_PARQUET STREQUAL AUTO)
    message(FATAL_ERROR "Parquet: ${missing}")
  elseif(EXISTS ${archive})
    message(WARNING "Parquet is left out: ${missing}")
  endif()
endif()

if(MEDRL_HAS_PARQUET)
  set(unpacked ${CMAKE_BINARY_DIR}/carquet-${want_sha256})
  if(NOT EXISTS ${unpacked}/done)
    file(REMOVE_RECURSE ${unpacked})
    file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${unpacked})
    file(WRITE ${unpacked}/done "")
  endif()
  set(native ${unpacked}/carquet-${CARQUET_VERSION}/native)
  # What the two ways in need (validate, Arrow): no writer, no command line, and the portable code alone, so that a file
  # is read by the same instructions on every machine.
  set(carquet_sources)
  foreach(name core/allocator core/arena core/bitpack core/buffer core/error thrift/thrift_decode thrift/thrift_encode
      thrift/parquet_types encoding/byte_stream_split encoding/delta encoding/delta_length encoding/delta_strings encoding/dictionary
      encoding/plain encoding/rle compression/brotli compression/custom compression/gzip compression/lz4 compression/snappy
      compression/zstd metadata/bloom_filter metadata/page_index metadata/schema reader/arrow_c_read reader/arrow_schema_read
      reader/batch_reader reader/column_reader reader/file_reader reader/mmap_reader reader/page_filter reader/page_reader
      reader/row_group_reader reader/statistics reader/worker_pool simd/detect simd/dispatch util/crc32 util/xxhash)
    list(APPEND carquet_sources ${native}/src/${name}.c)
  endforeach()
  add_library(carquet STATIC ${carquet_sources})
  target_include_directories(carquet PRIVATE ${native}/src)
  target_include_directories(carquet SYSTEM PUBLIC ${native}/include)
  # Its warnings are its author's. Files and memory come from us: parquet_env.h.
  target_compile_options(carquet PRIVATE -w -include ${CMAKE_SOURCE_DIR}/runtime/files/parquet_env.h
                         "-ffile-prefix-map=${unpacked}=carquet")
  if(MEDRL_SANITIZE) # its memory errors are of interest; that it adds 0 to NULL, and reads words where they stand, is its author's
    target_compile_options(carquet PRIVATE -O2 -fno-sanitize=undefined)
  endif()
  target_link_libraries(carquet PRIVATE PkgConfig::ZSTD PkgConfig::ZLIB PkgConfig::LZ4)
endif()

# Target `portable`: the programs, those that test and measure the GPU, and in lib/ every shared library they need but
# the C library's own; and these packed, as a folder, beside the build folder. tests/gpu/run and bench/gpu run where it is
# unpacked.
set(programs bench-worker)
foreach(stage ${HALTER_STAGES})
  list(APPEND programs halter-${stage})
endforeach()
get_property(tests DIRECTORY tests PROPERTY BUILDSYSTEM_TARGETS)
list(FILTER tests INCLUDE REGEX "^op_")
list(APPEND programs ${tests})
if(HALTER_CUDA_BUILT)
  list(APPEND programs gpu_test_cuda)
endif()
set(files "")
foreach(program ${programs})
  list(APPEND files $<TARGET_FILE:${program}>)
endforeach()
cmake_path(GET PROJECT_BINARY_DIR PARENT_PATH folder)
add_custom_target(portable
  COMMAND bash ${PROJECT_SOURCE_DIR}/tools/copy-libraries.sh ${PROJECT_BINARY_DIR}/lib ${files}
  COMMAND tar --absolute-names --transform=s,^${folder}/,, -czf ${PROJECT_BINARY_DIR}.tar.gz ${PROJECT_BINARY_DIR}/lib ${files}
  DEPENDS ${programs} VERBATIM)

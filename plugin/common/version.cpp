// The version string of a library: its own, and that of the TensorRT headers it was built with, if any.
//
// The text before it lets sadtrt_core/engine/plugin.py read the version from the file without loading the library.
#include "library.h"

#define SADTRT_TEXT_OF(value) #value
#define SADTRT_TEXT(value) SADTRT_TEXT_OF(value)
#define SADTRT_VERSION_MARK "sadtrt-plugin-version:"

#if !defined(SADTRT_WITH_TENSORRT)
#define SADTRT_GENERATION " kernel"
#else
#include <NvInferVersion.h>
#if defined(TRT_MAJOR_RTX)
#define SADTRT_GENERATION \
    " rtx" SADTRT_TEXT(TRT_MAJOR_RTX) "." SADTRT_TEXT(TRT_MINOR_RTX) "." SADTRT_TEXT(TRT_PATCH_RTX)
#else
#define SADTRT_GENERATION \
    " trt" SADTRT_TEXT(NV_TENSORRT_MAJOR) "." SADTRT_TEXT(NV_TENSORRT_MINOR) "." SADTRT_TEXT(NV_TENSORRT_PATCH)
#endif
#endif

namespace {
// volatile keeps the compiler from storing the text without its mark.
const volatile char kVersion[] = SADTRT_VERSION_MARK SADTRT_PLUGIN_VERSION SADTRT_GENERATION;
}

extern "C" const char* sadtrt_plugin_version(void) {
    return const_cast<const char*>(kVersion) + sizeof(SADTRT_VERSION_MARK) - 1;
}

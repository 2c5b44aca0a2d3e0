// The version string of the standalone kernel library, which carries no TensorRT adaptor.
#include "grid_sample_3d.h"

extern "C" const char* sadtrt_plugin_version(void) { return SADTRT_PLUGIN_VERSION " kernel"; }

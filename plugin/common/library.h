/* What the C interfaces of all operators share: the library's version, exported names, feature types and layouts. */
#ifndef SADTRT_LIBRARY_H
#define SADTRT_LIBRARY_H

#include <stdint.h>

#define SADTRT_PLUGIN_VERSION "1.4.0"
#define SADTRT_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum { SADTRT_FLOAT32 = 0, SADTRT_FLOAT16 = 1, SADTRT_BFLOAT16 = 2 };
enum { SADTRT_LINEAR = 0, SADTRT_CHANNELS_LAST = 1 };

/* "1.3.0 kernel", or with an adaptor "1.3.0 trt8.6.0", "1.3.0 trt10.13.3", "1.3.0 rtx1.7.1". */
SADTRT_EXPORT const char* sadtrt_plugin_version(void);

#ifdef __cplusplus
}
#endif
#endif

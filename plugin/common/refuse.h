// One sentence for whoever asked for what cannot be done.
#pragma once

#include <cstdint>
#include <cstdio>

#include "library.h"

namespace sadtrt {

// Writes a sentence if there is room for one; returns 1, for "return refuse(...)".
template <typename... Arguments>
int32_t refuse(char* message, int64_t message_size, const char* format, Arguments... arguments) {
    if (message != nullptr && message_size > 0) {
        std::snprintf(message, static_cast<size_t>(message_size), format, arguments...);
    }
    return 1;
}

// 0 where the kernels of the operator `name` can compute with a feature type.
inline int32_t check_feature_type(const char* name, int32_t type, char* message, int64_t message_size) {
    if (type >= SADTRT_FLOAT32 && type <= SADTRT_BFLOAT16) {
        return 0;
    }
    return refuse(message, message_size, "%s: feature type %d is not 0 (fp32), 1 (fp16) or 2 (bf16)", name, type);
}

// The same, and where the features are channels last, whether they are of 16 bits and fill vectors of eight.
inline int32_t check_features(const char* name, int32_t type, bool channels_last, int64_t channels, char* message,
                              int64_t message_size) {
    if (channels_last && (type == SADTRT_FLOAT32 || channels % 8 != 0)) {
        return refuse(message, message_size,
                      "%s: channels last are fp16 or bf16 in multiples of 8, not %lld channels of type %d", name,
                      static_cast<long long>(channels), type);
    }
    return check_feature_type(name, type, message, message_size);
}

}  // namespace sadtrt

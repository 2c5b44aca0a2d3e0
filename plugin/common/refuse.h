// One sentence for whoever asked for what cannot be done.
#pragma once

#include <cstdint>
#include <cstdio>

namespace sadtrt {

// Writes a sentence if there is room for one; returns 1, for "return refuse(...)".
template <typename... Arguments>
int32_t refuse(char* message, int64_t message_size, const char* format, Arguments... arguments) {
    if (message != nullptr && message_size > 0) {
        std::snprintf(message, static_cast<size_t>(message_size), format, arguments...);
    }
    return 1;
}

}  // namespace sadtrt

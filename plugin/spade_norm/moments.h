// Mean and squared deviations of parts of a channel, merged without cancellation, and the modulation of one element.
//
// Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983): deviations are always taken from a
// mean, never E[x^2] - E[x]^2. All values are differences from one element of the channel, its pivot, so that a mean
// far from zero costs no digits.
#pragma once

#include <cmath>

#include "../common/host_device.h"

namespace sadtrt {

// Of some elements: `squares` is the sum of (x - mean)^2.
struct Moments {
    float mean;
    float squares;
};

// Moments of `count` elements; zeros where there are none. One access reads it whole.
struct alignas(16) Part {
    float count;
    float mean;
    float squares;
};

// How two parts merge, the same for all channels of the same counts.
struct Merging {
    float share;   // of the second part in the whole
    float weight;  // of the squared difference of both means
};

SADTRT_HOST_DEVICE Merging merging_of(float first, float second) {
    const float share = second > 0.0f ? second / (first + second) : 0.0f;
    return {share, first * share};
}

SADTRT_HOST_DEVICE Moments merged(const Moments& first, const Moments& second, const Merging& how) {
    const float difference = second.mean - first.mean;
    return {fmaf(difference, how.share, first.mean),
            fmaf(difference * difference, how.weight, first.squares + second.squares)};
}

SADTRT_HOST_DEVICE Part merged(const Part& first, const Part& second) {
    const Moments both = merged(Moments{first.mean, first.squares}, Moments{second.mean, second.squares},
                                merging_of(first.count, second.count));
    return {first.count + second.count, both.mean, both.squares};
}

// What one channel's elements are normalised with: (x - pivot) * scale + shift.
struct Channel {
    float pivot;
    float scale;  // 1 / sqrt(variance + epsilon)
    float shift;
};

SADTRT_HOST_DEVICE float scale_of(const Part& whole, float epsilon) {
    return 1.0f / sqrtf(whole.squares / whole.count + epsilon);
}

SADTRT_HOST_DEVICE float modulated(float x, const Channel& channel, float gamma, float beta, float slope) {
    const float normalised = fmaf(x - channel.pivot, channel.scale, channel.shift);
    const float value = fmaf(normalised, gamma, normalised) + beta;
    return value < 0.0f ? value * slope : value;
}

}  // namespace sadtrt

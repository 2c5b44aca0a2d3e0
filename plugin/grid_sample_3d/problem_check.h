// Refuses an ill-formed sampling problem with one sentence; shared by the GPU launcher and the host reference.
#pragma once

#include "../common/refuse.h"
#include "grid_sample_3d.h"

namespace sadtrt {

constexpr double kMostElements = 1e17;  // of a tensor: 64-bit offsets in bytes stay far below 2^63

// 0 when the problem can be launched. Sizes of zero are allowed in the output only, as in PyTorch.
inline int32_t check_problem(const SadtrtGridSample3D& problem, char* message, int64_t message_size) {
    const int64_t limit = INT32_MAX;
    const int64_t volume_sizes[] = {problem.volume_batch, problem.channels, problem.depth, problem.height,
                                    problem.width};
    const int64_t grid_sizes[] = {problem.grid_batch, problem.out_depth, problem.out_height, problem.out_width};
    for (int axis = 0; axis < 5; ++axis) {
        if (volume_sizes[axis] < 1 || volume_sizes[axis] > limit) {
            return refuse(message, message_size,
                          "GridSample3D: volume axis %d has size %lld; sizes from 1 to 2^31 - 1 are expected", axis,
                          static_cast<long long>(volume_sizes[axis]));
        }
    }
    for (int axis = 0; axis < 4; ++axis) {
        if (grid_sizes[axis] < 0 || grid_sizes[axis] > limit) {
            return refuse(message, message_size,
                          "GridSample3D: grid axis %d has size %lld; sizes from 0 to 2^31 - 1 are expected", axis,
                          static_cast<long long>(grid_sizes[axis]));
        }
    }
    // Doubles are exact enough to see that the products stay below the limit.
    const double voxels = static_cast<double>(problem.depth) * problem.height * problem.width;
    const double points = static_cast<double>(problem.out_depth) * problem.out_height * problem.out_width;
    if (voxels * (problem.channels + 8.0) * problem.volume_batch > kMostElements ||
        points * (problem.channels + 8.0) * problem.grid_batch > kMostElements) {
        return refuse(message, message_size, "GridSample3D: the tensors have more than 1e17 elements");
    }
    if (problem.grid_batch % problem.volume_batch != 0) {
        return refuse(message, message_size,
                      "GridSample3D: the grid's batch of %lld is not a multiple of the volume's batch of %lld",
                      static_cast<long long>(problem.grid_batch), static_cast<long long>(problem.volume_batch));
    }
    if (const int32_t refused = check_feature_type("GridSample3D", problem.feature_type, message, message_size)) {
        return refused;
    }
    if (problem.layout < SADTRT_LINEAR || problem.layout > SADTRT_CHANNELS_LAST) {
        return refuse(message, message_size, "GridSample3D: layout %d is not 0 (linear) or 1 (channels last)",
                      problem.layout);
    }
    if (problem.interpolation < 0 || problem.interpolation > 1) {
        return refuse(message, message_size, "GridSample3D: interpolation %d is not 0 (trilinear) or 1 (nearest)",
                      problem.interpolation);
    }
    if (problem.padding < 0 || problem.padding > 2) {
        return refuse(message, message_size,
                      "GridSample3D: padding %d is not 0 (zeros), 1 (border) or 2 (reflection)", problem.padding);
    }
    if (problem.align_corners < 0 || problem.align_corners > 1) {
        return refuse(message, message_size, "GridSample3D: align_corners %d is not 0 or 1", problem.align_corners);
    }
    const int32_t group = problem.channels_per_thread;
    if (group != 0 && group != 4 && group != 8 && group != 16) {
        return refuse(message, message_size, "GridSample3D: channels_per_thread %d is not 0, 4, 8 or 16", group);
    }
    if (problem.wide_offsets < 0 || problem.wide_offsets > 1) {
        return refuse(message, message_size, "GridSample3D: wide_offsets %d is not 0 or 1", problem.wide_offsets);
    }
    if (problem.packing < 0 || problem.packing > 2) {
        return refuse(message, message_size, "GridSample3D: packing %d is not 0, 1 or 2", problem.packing);
    }
    if (problem.half_coordinates < 0 || problem.half_coordinates > 1) {
        return refuse(message, message_size, "GridSample3D: half_coordinates %d is not 0 or 1",
                      problem.half_coordinates);
    }
    if (problem.half_coordinates && (problem.interpolation != 0 || problem.padding != 0 || problem.align_corners != 0)) {
        return refuse(message, message_size,
                      "GridSample3D: half coordinates are for trilinear sampling with zeros outside and align_corners 0");
    }
    return 0;
}

}  // namespace sadtrt

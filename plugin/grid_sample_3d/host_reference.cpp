// GridSample3D computed on the host with the kernel's own index and weight functions: fp32, linear layout.
//
// For tests on machines without a GPU; built by the host compiler alone, no CUDA headers. The loop follows the
// kernel step by step: the sum over pairs first, the corner by corner sum when it is not finite.
#include <cmath>

#include "problem_check.h"
#include "sampling_math.h"

namespace sadtrt {
namespace {

struct Volume {
    Axis depth, height, width;
    int64_t voxels;
};

template <Padding kPadding>
void sample_nearest(const SadtrtGridSample3D& problem, const Volume& shape, const float* coordinates,
                    const float* volume, float* output, int64_t points) {
    const int64_t x = locate_nearest<kPadding>(coordinates[0], shape.width);
    const int64_t y = locate_nearest<kPadding>(coordinates[1], shape.height);
    const int64_t z = locate_nearest<kPadding>(coordinates[2], shape.depth);
    const bool inside =
        x >= 0 && x < shape.width.size && y >= 0 && y < shape.height.size && z >= 0 && z < shape.depth.size;
    const int64_t voxel = (z * shape.height.size + y) * shape.width.size + x;
    for (int64_t channel = 0; channel < problem.channels; ++channel) {
        output[channel * points] = inside ? volume[channel * shape.voxels + voxel] : 0.0f;
    }
}

template <Padding kPadding>
void sample_trilinear(const SadtrtGridSample3D& problem, const Volume& shape, const float* coordinates,
                      const float* volume, float* output, int64_t points) {
    const bool in_half = problem.half_coordinates != 0;
    const auto locate = in_half ? locate_half_pair : locate_pair<kPadding>;
    const Pair x = locate(coordinates[0], shape.width);
    const Pair y = locate(coordinates[1], shape.height);
    const Pair z = locate(coordinates[2], shape.depth);
    const CornerWeights weights = corner_weights(z, y, x, in_half);
    const bool has_pairs = shape.depth.size >= 2 && shape.height.size >= 2 && shape.width.size >= 2;
    for (int64_t channel = 0; channel < problem.channels; ++channel) {
        const auto read = [&](int z_step, int y_step, int x_step) {
            const int64_t row = static_cast<int64_t>(z.base + z_step) * shape.height.size + y.base + y_step;
            return volume[channel * shape.voxels + row * shape.width.size + x.base + x_step];
        };
        float sum = has_pairs ? sum_pairs(weights, read) : NAN;
        if (!std::isfinite(sum)) {
            sum = sum_corners(z, y, x, shape.depth, shape.height, shape.width, in_half, read);
        }
        output[channel * points] = sum;
    }
}

template <Padding kPadding>
void sample_all(const SadtrtGridSample3D& problem) {
    const bool align_corners = problem.align_corners != 0;
    const Volume shape = {make_axis(problem.depth, align_corners, kPadding),
                          make_axis(problem.height, align_corners, kPadding),
                          make_axis(problem.width, align_corners, kPadding),
                          problem.depth * problem.height * problem.width};
    const int64_t points = problem.out_depth * problem.out_height * problem.out_width;
    const int64_t grids_a_volume = problem.grid_batch / problem.volume_batch;
    const bool nearest = problem.interpolation == static_cast<int32_t>(Interpolation::kNearest);
    for (int64_t sample = 0; sample < problem.grid_batch; ++sample) {
        const float* volume = static_cast<const float*>(problem.volume) +
                              sample / grids_a_volume * problem.channels * shape.voxels;
        for (int64_t point = 0; point < points; ++point) {
            const float* coordinates = problem.grid + (sample * points + point) * 3;
            float* output = static_cast<float*>(problem.output) + sample * problem.channels * points + point;
            if (nearest) {
                sample_nearest<kPadding>(problem, shape, coordinates, volume, output, points);
            } else {
                sample_trilinear<kPadding>(problem, shape, coordinates, volume, output, points);
            }
        }
    }
}

}  // namespace
}  // namespace sadtrt

extern "C" int32_t sadtrt_grid_sample_3d_host(const SadtrtGridSample3D* problem, char* message,
                                              int64_t message_size) {
    using namespace sadtrt;
    if (problem == nullptr) {
        return refuse(message, message_size, "GridSample3D: no problem was given");
    }
    if (const int32_t refused = check_problem(*problem, message, message_size)) {
        return refused;
    }
    if (problem->feature_type != SADTRT_FLOAT32 || problem->layout != SADTRT_LINEAR) {
        return refuse(message, message_size, "GridSample3D: the host reference takes fp32 in linear layout only");
    }
    switch (static_cast<Padding>(problem->padding)) {
        case Padding::kZeros: sample_all<Padding::kZeros>(*problem); break;
        case Padding::kBorder: sample_all<Padding::kBorder>(*problem); break;
        case Padding::kReflection: sample_all<Padding::kReflection>(*problem); break;
    }
    return 0;
}

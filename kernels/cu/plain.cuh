// Products on the ordinary cores, for any code.
//
//     one warp a row, tile by tile: decode it (decode.cuh), then in weight order, 8 weights a lane:
//         for each token: 16 bytes of activations, 8 fused multiply-adds into the token's sum
//     the lanes' sums are added in a fixed tree
//
// Where a lane's 8 weights reach over the tile, the ones outside count as 0 and so do their activations: 0 times an
// infinity would be NaN.
#pragma once

#include "decode.cuh"
#include "product.cuh"

constexpr u32 VECTOR = 8;  // activations in 16 bytes

// 8 weights of a tile, and which halves of the activations beside them count.
struct WeightFragment {
    float weight[VECTOR];
    u32 keep[VECTOR / 2];
};

__device__ __forceinline__ WeightFragment load_fragment(const float* tile, const Span& span, u32 first) {
    WeightFragment fragment = {};
#pragma unroll
    for (u32 k = 0; k < VECTOR; ++k) {
        const u32 i = first + k;
        if (i >= span.begin && i < span.end) {
            fragment.weight[k] = tile[padded(i - span.begin)];
            fragment.keep[k / 2] |= k % 2 == 0 ? 0x0000FFFFu : 0xFFFF0000u;
        }
    }
    return fragment;
}

// sum + the products of a fragment with 8 activations, in weight order. X: the activation type.
template <class X>
__device__ __forceinline__ float multiply(const WeightFragment& fragment, const uint4& x, float sum) {
    const u32 pairs[VECTOR / 2] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (u32 k = 0; k < VECTOR / 2; ++k) {
        const u32 pair = pairs[k] & fragment.keep[k];
        sum = __fmaf_rn(fragment.weight[2 * k], X::low(pair), sum);
        sum = __fmaf_rn(fragment.weight[2 * k + 1], X::high(pair), sum);
    }
    return sum;
}

// A block's work. C: the code; X: the activation type; TOKENS: the most tokens.
template <class C, class X, u32 TOKENS>
__device__ __forceinline__ void multiply_row(const GemvArgs& args, const Job& job) {
    CCQ_SHARED(shared);
    const Matrix& m = args.matrix;
    const u32 row_index = job.first + threadIdx.x / WARP;
    if (row_index >= job.end) return;

    float* tile = shared + threadIdx.x / WARP * m.tile_floats;
    const Row row = load_row<C>(m, row_index);
    const uint4* x = reinterpret_cast<const uint4*>(job.x);
    float sums[TOKENS] = {};
    for (u32 index = 0; index < m.tiles; ++index) {
        const Span span = decode_tile<C>(m, row, index, tile);
        for (u32 v = span.begin / VECTOR + lane_index(); v * VECTOR < span.end; v += WARP) {
            const WeightFragment fragment = load_fragment(tile, span, v * VECTOR);
#pragma unroll
            for (u32 t = 0; t < TOKENS; ++t) {
                if (t >= job.tokens) break;
                const uint4 activations = __ldg(x + static_cast<u64>(args.x_stride / VECTOR) * t + v);
                sums[t] = multiply<X>(fragment, activations, sums[t]);
            }
        }
        __syncwarp();
    }
#pragma unroll
    for (u32 t = 0; t < TOKENS; ++t) {
#pragma unroll
        for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
            sums[t] = __fadd_rn(sums[t], shuffle_down(sums[t], distance));
        }
        if (lane_index() == 0 && t < job.tokens) {
            job.y[static_cast<u64>(args.y_stride) * t + row_index - job.origin] = sums[t];
        }
    }
}

// gemv: y = x W^T for 1 to 16 tokens, f16 or bf16 activations, f32 accumulation and output.
//
//     one warp a row, tile by tile: decode it (decode.cuh), then in weight order, 8 weights a lane:
//         for each token: 16 bytes of activations, 8 fused multiply-adds into the token's sum
//     the lanes' sums are added in a fixed tree
//
// Activations are padded with zeros to a multiple of 8 a token, so that every load is whole and aligned. Where a
// lane's 8 weights reach over the tile, the ones outside count as 0 and so do their activations: 0 times an
// infinity would be NaN.
#include "decode.cuh"

// Declared a second time in src/args.rs.
struct GemvArgs {
    Matrix matrix;
    const void* x;  // tokens x x_stride elements, 16-byte aligned, zero from in_features on
    float* y;       // token t's value of row r at t * y_stride + r
    u32 x_stride;   // elements, a multiple of 8
    u32 y_stride;
    u32 tokens;     // at most the kernel's TOKENS
};

constexpr u32 VECTOR = 8;  // activations in 16 bytes

// An activation type: the two floats in a 32-bit register.
struct F16 {
    static __device__ float low(u32 pair) { return f16_to_f32(pair & 0xFFFF); }
    static __device__ float high(u32 pair) { return f16_to_f32(pair >> 16); }
};

struct Bf16 {
    static __device__ float low(u32 pair) { return bf16_to_f32(pair); }
    static __device__ float high(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
};

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

// C: the code; X: the activation type; TOKENS: the most tokens this kernel takes.
template <class C, class X, u32 TOKENS>
__device__ __forceinline__ void gemv(const GemvArgs& args) {
    CCQ_SHARED(shared);
    const Matrix& m = args.matrix;
    const u32 row_index = warp_index();
    if (row_index >= m.rows) return;

    float* tile = shared + threadIdx.x / WARP * m.tile_floats;
    const Row row = load_row<C>(m, row_index);
    const uint4* x = static_cast<const uint4*>(args.x);
    float sums[TOKENS] = {};
    for (u32 index = 0; index < m.tiles; ++index) {
        const Span span = decode_tile<C>(m, row, index, tile);
        for (u32 v = span.begin / VECTOR + lane_index(); v * VECTOR < span.end; v += WARP) {
            const WeightFragment fragment = load_fragment(tile, span, v * VECTOR);
#pragma unroll
            for (u32 t = 0; t < TOKENS; ++t) {
                if (t >= args.tokens) break;
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
        if (lane_index() == 0 && t < args.tokens) {
            args.y[static_cast<u64>(args.y_stride) * t + row_index] = sums[t];
        }
    }
}

#define CCQ_GEMV(SUFFIX, CODE, TYPE, X, TOKENS) \
    CCQ_KERNEL(gemv_##SUFFIX##_##TYPE##_##TOKENS, GemvArgs, gemv<CODE, X, TOKENS>)

CCQ_FOR_CODES(CCQ_GEMV, f16, F16, 1)
CCQ_FOR_CODES(CCQ_GEMV, f16, F16, 16)
CCQ_FOR_CODES(CCQ_GEMV, bf16, Bf16, 1)
CCQ_FOR_CODES(CCQ_GEMV, bf16, Bf16, 16)

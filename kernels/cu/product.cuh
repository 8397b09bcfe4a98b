// Products of a quantized matrix with a few tokens, as kernels see them: what gemv and moe_gemv share.
#pragma once

#include "matrix.cuh"

// How warps walk the rows of a named code (tensor.cuh); unused by the general code. A unit is a run of whole words
// that lies in one group. Declared a second time in src/plan.rs.
struct Walk {
    u32 unit_weights;
    u32 unit_bytes;
    u32 group_shift;  // a unit's group is unit >> group_shift
    u32 lane_units;   // units of a tile that a lane takes
    u32 tile_bytes;   // of a row: 4 lanes' units
    u32 tiles;        // of a row
    u32 chunks;       // 16-byte chunks that a tile of a row can touch
    u32 pitch;        // bytes from row to row in shared memory
    u32 stages;       // tiles of a warp there: 2, or 1 where no two fit
};

// Declared a second time in src/plan.rs.
struct GemvArgs {
    Matrix matrix;
    Walk walk;
    const void* x;  // tokens x x_stride elements, 16-byte aligned, zero from in_features on
    float* y;       // token t's value of row r at t * y_stride + r
    u32 x_stride;   // elements, a multiple of 8, and enough for the last tile (padded_activations in src/plan.rs)
    u32 y_stride;
    u32 tokens;     // at most the kernel's TOKENS
};

// What one block multiplies: some rows, from `first` on and before `end`, with the tokens.
struct Job {
    u32 first;
    u32 end;
    u32 origin;    // the row whose products are the first ones of y
    const u16* x;  // the first token's activations
    float* y;      // the first token's products
    u32 tokens;
};

// An activation type: the two floats in a register, and the arithmetic of integers times powers of two in it, two at
// a time. A state that is masked at the low end of a half of a register is a subnormal number; times an integer that
// is a factor, it counts 1 / UNIT.
struct F16 {
    static constexpr bool WIDE = true;      // 11 significant bits
    static constexpr float FACTOR = 1;      // what a factor of 1 is
    static constexpr float UNIT = 0x1p24f;  // 1 / (FACTOR 2^-24)
    static __device__ float low(u32 pair) { return f16_to_f32(pair & 0xFFFF); }
    static __device__ float high(u32 pair) { return f16_to_f32(pair >> 16); }
    static __device__ u32 pack(float value) { return pack_f16(value, value); }
    static __device__ u32 fma2(u32 a, u32 b, u32 c) { return fma2_f16(a, b, c); }
    static __device__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_f16(d, a, b); }
    static __device__ void half_mma(float (&d)[4], const u32 (&a)[2], u32 b) { half_mma_f16(d, a, b); }
    // 2^-places, twice.
    static __device__ u32 power(u32 places) { return (15 - places) * 0x04000400u; }
};

struct Bf16 {
    static constexpr bool WIDE = false;  // 8 significant bits
    static constexpr float FACTOR = 0x1p112f;
    static constexpr float UNIT = 0x1p21f;  // 1 / (FACTOR 2^-133)
    static __device__ float low(u32 pair) { return bf16_to_f32(pair); }
    static __device__ float high(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
    static __device__ u32 pack(float value) { return pack_bf16(value, value); }
    static __device__ u32 fma2(u32 a, u32 b, u32 c) { return fma2_bf16(a, b, c); }
    static __device__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(d, a, b); }
    static __device__ void half_mma(float (&d)[4], const u32 (&a)[2], u32 b) { half_mma_bf16(d, a, b); }
    static __device__ u32 power(u32 places) { return (127 - places) * 0x00800080u; }
};

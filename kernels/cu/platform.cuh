// What the kernels take from the platform, in one place: the GPU, or the simulator that runs the same sources
// on a CPU (sim/shim.hpp). Inline PTX and the declaration of shared memory appear in this file alone.
//
// Everything that rounds does so through the intrinsics __fmul_rn, __fadd_rn, __fsub_rn, __fmaf_rn and
// __fma_rn, which compilers neither contract nor reassociate.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

#ifndef __CUDACC__
#include "../sim/shim.hpp"
#else

// Declares NAME as this block's dynamic shared memory.
#define CCQ_SHARED(NAME) extern __shared__ float NAME[]

// An entry point: kernel NAME with one parameter, an ARGS by value, that runs the device function behind it.
#define CCQ_KERNEL(NAME, ARGS, ...)                                                          \
    extern "C" __global__ void __launch_bounds__(128, 6) NAME(const ARGS args) { __VA_ARGS__(args); }

// Two floats rounded to nearest even, `low` in the low half; NaN becomes 0x7FFF.
__device__ __forceinline__ u32 pack_f16(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// The f16 in the low bits, exactly.
__device__ __forceinline__ float f16_to_f32(u32 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<u16>(bits)));
    return value;
}

// `value` of the lane `distance` above this one, its own past the end of the warp.
template <class T>
__device__ __forceinline__ T shuffle_down(T value, u32 distance) {
    return __shfl_down_sync(0xFFFFFFFFu, value, distance);
}

#endif

constexpr u32 WARP = 32;   // lanes of a warp
constexpr u32 WARPS = 4;   // warps of a block; they never wait for each other

__device__ __forceinline__ u32 lane_index() { return threadIdx.x % WARP; }

// The index of this warp in the whole grid.
__device__ __forceinline__ u32 warp_index() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// The bf16 in the low bits, exactly.
__device__ __forceinline__ float bf16_to_f32(u32 bits) { return __uint_as_float(bits << 16); }

template <class T>
__device__ __forceinline__ T least(T a, T b) {
    return b < a ? b : a;
}

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

// Declares NAME as this block's dynamic shared memory, 16-byte aligned.
#define CCQ_SHARED(NAME) extern __shared__ __align__(16) float NAME[]

// An entry point: kernel NAME with one parameter, an ARGS by value, that runs the device function behind it.
// BLOCKS of them are to fit a multiprocessor, as far as registers go.
#define CCQ_KERNEL(NAME, ARGS, BLOCKS, ...)                                                  \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) NAME(const ARGS args) { __VA_ARGS__(args); }

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

// a b + c of two f16, each rounded once; subnormal values are kept.
__device__ __forceinline__ u32 fma2_f16(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// a b + c of two bf16, each rounded once; subnormal values are kept.
__device__ __forceinline__ u32 fma2_bf16(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// d += A B for the whole warp: A 16 x 16, row-major; B 16 x 8, column-major; d 16 x 8 in f32.
// Lane 4 g + c has A's columns 2c, 2c+1 of row g, of row g + 8, then the same rows' columns 2c+8, 2c+9; of B's
// column g the rows 2c, 2c+1, then 2c+8, 2c+9; and d's columns 2c, 2c+1 of row g, then of row g + 8.
__device__ __forceinline__ void mma_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same with the first half of k alone: A 16 x 8, B 8 x 8.
__device__ __forceinline__ void half_mma_f16(float (&d)[4], const u32 (&a)[2], u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

__device__ __forceinline__ void half_mma_bf16(float (&d)[4], const u32 (&a)[2], u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Starts a copy of 16 bytes from global to shared memory, or of 16 zeros where `valid` is false; nothing is read
// then, but the address has to be one of global memory.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
    const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

// Closes the group of copies that this lane started since the last one.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this lane's latest groups are still on their way.
template <u32 PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The low 32 bits of high:low, shifted right by 0 to 31.
__device__ __forceinline__ u32 funnel_right(u32 low, u32 high, u32 shift) {
    return __funnelshift_r(low, high, shift);
}

// addend + the two u16 of `pair` times bytes 0 and 1 of `bytes`, or 2 and 3.
__device__ __forceinline__ u32 dot2_low(u32 pair, u32 bytes, u32 addend) { return __dp2a_lo(pair, bytes, addend); }
__device__ __forceinline__ u32 dot2_high(u32 pair, u32 bytes, u32 addend) { return __dp2a_hi(pair, bytes, addend); }

// Whether `value` is true for every lane of the warp.
__device__ __forceinline__ bool all_lanes(bool value) { return __all_sync(0xFFFFFFFFu, value) != 0; }

#endif

constexpr u32 WARP = 32;   // lanes of a warp
constexpr u32 WARPS = 4;   // warps of a block

__device__ __forceinline__ u32 lane_index() { return threadIdx.x % WARP; }

// The index of this warp in the whole grid.
__device__ __forceinline__ u32 warp_index() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// The bf16 in the low bits, exactly.
__device__ __forceinline__ float bf16_to_f32(u32 bits) { return __uint_as_float(bits << 16); }

template <class T>
__device__ __forceinline__ T least(T a, T b) {
    return b < a ? b : a;
}

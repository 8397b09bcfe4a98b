// Runs kernels on a CPU: the threads of a block are fibers of one thread, which take turns.
//
// A fiber runs until it reaches a barrier of its warp (__syncwarp, or a shuffle) or returns; when every live
// fiber of the warp has reached one, they go on. Blocks run one after the other, each with shared memory that
// was filled with NaN, so that reading what no one wrote shows. Lanes take turns in rising or in falling order,
// as the launch says: results that differ between the two reveal a missing barrier. Races that both orders hide
// stay hidden.
//
// Fibers get their stacks from makecontext, once a thread, and switch with setjmp, which asks nothing of the
// system; they outlive a launch and run the next block's body when it is their turn again.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <setjmp.h>
#include <ucontext.h>

#define __device__
#define __forceinline__ inline
#define CCQ_SHARED(NAME) float* NAME = sim::shared_memory()
#define CCQ_KERNEL(NAME, ARGS, ...)                                             \
    extern "C" void NAME(const ARGS* args, const sim::Launch* launch) {         \
        sim::run(*launch, [args] { __VA_ARGS__(*args); });                      \
    }

struct Index {
    u32 x;
};
struct uint4 {
    u32 x, y, z, w;
};

namespace sim {

// Declared a second time in tests/sim.rs.
struct Launch {
    u32 blocks;
    u32 threads;
    u32 shared_bytes;
    u32 falling;  // lanes take turns from the last to the first
};

constexpr u32 LANES = 32;
constexpr size_t STACK = 64 << 10;

struct Fiber {
    jmp_buf resume;
    std::unique_ptr<char[]> stack;  // none before the fiber first runs
    bool done = false;
    u64 slot = 0;  // the value this lane offers in a shuffle
};

inline thread_local std::vector<Fiber> fibers;
inline thread_local jmp_buf scheduler;
inline thread_local std::vector<float> shared;
inline thread_local const std::function<void()>* body;
inline thread_local u32 current;
inline thread_local Index thread, block;

inline float* shared_memory() { return shared.data(); }

// Back to the scheduler, until it is this fiber's turn again.
__attribute__((noinline)) inline void leave(Fiber& fiber) {
    if (_setjmp(fiber.resume) == 0) _longjmp(scheduler, 1);
}

// A barrier of the current warp.
inline void wait() { leave(fibers[current]); }

inline void fiber_main() {
    for (;;) {
        (*body)();
        fibers[current].done = true;
        leave(fibers[current]);
    }
}

// Lets a fiber run to its next barrier or the end of its body.
__attribute__((noinline)) inline void enter(Fiber& fiber) {
    if (_setjmp(scheduler) != 0) return;
    if (fiber.stack) _longjmp(fiber.resume, 1);
    fiber.stack.reset(new char[STACK]);
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    setcontext(&context);
}

// Lets every live lane of a warp run to its next barrier or its end; whether one is still alive.
inline bool step_warp(u32 first, u32 lanes, bool falling) {
    bool alive = false;
    for (u32 i = 0; i < lanes; ++i) {
        current = first + (falling ? lanes - 1 - i : i);
        if (fibers[current].done) continue;
        thread.x = current;
        enter(fibers[current]);
        alive |= !fibers[current].done;
    }
    return alive;
}

inline void run_block(const Launch& launch) {
    for (u32 t = 0; t < launch.threads; ++t) fibers[t].done = false;
    std::memset(shared.data(), 0xFF, shared.size() * sizeof(float));
    for (u32 first = 0; first < launch.threads; first += LANES) {
        const u32 lanes = launch.threads - first < LANES ? launch.threads - first : LANES;
        while (step_warp(first, lanes, launch.falling != 0)) {
        }
    }
}

// Where a lane's shuffle reads. Two barriers: all values offered, all values read.
template <class T>
T exchange(T value, u32 source) {
    static_assert(sizeof(T) <= sizeof(u64));
    const u32 self = current;
    std::memcpy(&fibers[self].slot, &value, sizeof(T));
    wait();
    std::memcpy(&value, &fibers[source].slot, sizeof(T));
    wait();
    return value;
}

inline void run(const Launch& launch, const std::function<void()>& kernel) {
    if (fibers.size() < launch.threads) fibers = std::vector<Fiber>(launch.threads);
    // A page of poison behind the last float that the launch asked for: reading beyond it shows as NaN.
    shared.assign(launch.shared_bytes / sizeof(float) + 1024, 0.0f);
    body = &kernel;
    for (block.x = 0; block.x < launch.blocks; ++block.x) {
        run_block(launch);
        for (size_t i = launch.shared_bytes / sizeof(float); i < shared.size(); ++i) {
            u32 bits;
            std::memcpy(&bits, &shared[i], sizeof(bits));
            if (bits != 0xFFFFFFFFu) {
                std::fprintf(stderr, "a kernel wrote %zu floats beyond its shared memory\n", i);
                std::abort();
            }
        }
    }
}

}  // namespace sim

#define threadIdx (sim::thread)
#define blockIdx (sim::block)

inline void __syncwarp() { sim::wait(); }

template <class T>
T shuffle_down(T value, u32 distance) {
    const u32 lane = sim::current % sim::LANES;
    return sim::exchange(value, lane + distance < sim::LANES ? sim::current + distance : sim::current);
}

template <class T>
T __ldg(const T* address) {
    if (reinterpret_cast<std::uintptr_t>(address) % sizeof(T) != 0) {
        std::fprintf(stderr, "a load of %zu bytes from a misaligned address\n", sizeof(T));
        std::abort();
    }
    return *address;
}

// Built with contraction off, each of these rounds once.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

template <class To, class From>
To sim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline float __uint_as_float(u32 bits) { return sim_bits<float>(bits); }
inline u32 __float_as_uint(float value) { return sim_bits<u32>(value); }
inline double __longlong_as_double(long long bits) { return sim_bits<double>(bits); }

// Rounds down, saturates, NaN to 0: as cvt.rmi.s32.f32 does.
inline int __float2int_rd(float value) {
    if (value != value) return 0;
    const float down = std::floor(value);
    if (down >= 2147483648.0f) return INT32_MAX;
    if (down < -2147483648.0f) return INT32_MIN;
    return static_cast<int>(down);
}

// To f16, to nearest even; NaN to 0x7FFF.
inline u32 sim_f16(float value) {
    const u32 bits = __float_as_uint(value);
    const u32 sign = bits >> 16 & 0x8000u;
    const u32 size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) return 0x7FFFu;
    if (size >= 0x47800000u) return sign | 0x7C00u;  // 65536 and beyond
    const u32 exponent = size >> 23;
    // Bits to drop: 13 for a normal result, more for a subnormal one; all of them below half the smallest.
    const u32 drop = exponent >= 113 ? 13 : 126 - exponent;
    if (drop > 24) return sign;
    const u32 mantissa = exponent >= 113 ? size - (112u << 23) : (size & 0x7FFFFFu) | 0x800000u;
    const u32 kept = mantissa >> drop;
    const u32 rest = mantissa & ((1u << drop) - 1);
    const u32 half = 1u << (drop - 1);
    return sign | (kept + (rest > half || (rest == half && kept % 2 == 1) ? 1 : 0));
}

inline u32 sim_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFFu;
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}

inline u32 pack_f16(float low, float high) { return sim_f16(low) | sim_f16(high) << 16; }
inline u32 pack_bf16(float low, float high) { return sim_bf16(low) | sim_bf16(high) << 16; }

inline float f16_to_f32(u32 bits) {
    const float sign = (bits & 0x8000u) != 0 ? -1.0f : 1.0f;
    const u32 exponent = bits >> 10 & 0x1F;
    const u32 mantissa = bits & 0x3FF;
    if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
    return sign * std::ldexp(static_cast<float>(mantissa | 0x400), static_cast<int>(exponent) - 25);
}

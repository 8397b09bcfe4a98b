// Runs kernels on a CPU: the threads of a block are fibers of one thread, which take turns.
//
// A fiber runs until it reaches a barrier of its warp (__syncwarp, a shuffle, a vote, a matrix instruction) or of its
// block (__syncthreads), or returns; when every live fiber of the warp, or of the block, has reached one, they go
// on. Blocks run one after the other, each with shared memory that was filled with NaN, so that reading what no
// one wrote shows. Lanes and warps take turns in rising or in falling order, as the launch says: results that
// differ between the two reveal a missing barrier. Races that both orders hide stay hidden. Asynchronous copies
// arrive as late as they may, when they are waited for, or in falling order as early, when they are started.
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
#define CCQ_KERNEL(NAME, ARGS, BLOCKS, ...)                                     \
    extern "C" void NAME(const ARGS* args, const sim::Launch* launch) {         \
        sim::run(*launch, [args] { __VA_ARGS__(*args); });                      \
    }

struct Index {
    u32 x;
};
struct uint2 {
    u32 x, y;
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

// An asynchronous copy of 16 bytes that was started.
struct Copy {
    void* to;
    const void* from;
    u32 group;
};

// What a lane brings to a matrix instruction.
struct Fragments {
    float a[8];
    float b[4];
};

enum class State { RUNNING, AT_BLOCK_BARRIER, DONE };

struct Fiber {
    jmp_buf resume;
    std::unique_ptr<char[]> stack;  // none before the fiber first runs
    State state = State::RUNNING;
    u64 slot = 0;  // the value this lane offers in a shuffle
    Fragments fragments;
    std::vector<Copy> copies;
    u32 group = 0;  // of the copies started next
};

inline thread_local std::vector<Fiber> fibers;
inline thread_local jmp_buf scheduler;
inline thread_local std::vector<float> shared;
inline thread_local const std::function<void()>* body;
inline thread_local u32 current;
inline thread_local bool falling;  // of the launch
inline thread_local Index thread, block;

// 16-byte aligned, as the GPU's is.
inline float* shared_memory() {
    const auto address = reinterpret_cast<std::uintptr_t>(shared.data());
    return shared.data() + (address + 15) / 16 * 4 - address / 4;
}

// Back to the scheduler, until it is this fiber's turn again.
__attribute__((noinline)) inline void leave(Fiber& fiber) {
    if (_setjmp(fiber.resume) == 0) _longjmp(scheduler, 1);
}

// A barrier of the current warp.
inline void wait() { leave(fibers[current]); }

// A barrier of the block.
inline void wait_block() {
    fibers[current].state = State::AT_BLOCK_BARRIER;
    wait();
}

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
}

inline void fiber_main() {
    for (;;) {
        (*body)();
        fibers[current].state = State::DONE;
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

// Lets every running lane of a warp run to its next barrier or its end; whether one is still running.
inline bool step_warp(u32 first, u32 lanes) {
    u32 running = 0, stopped = 0;
    for (u32 i = 0; i < lanes; ++i) {
        current = first + (falling ? lanes - 1 - i : i);
        if (fibers[current].state != State::RUNNING) continue;
        thread.x = current;
        enter(fibers[current]);
        running += fibers[current].state == State::RUNNING;
        stopped += fibers[current].state == State::AT_BLOCK_BARRIER;
    }
    if (running > 0 && stopped > 0) fail("the lanes of a warp wait at different barriers");
    return running > 0;
}

// Lets every warp run to the next barrier of the block, or to its end; whether one is at the barrier.
inline bool step_block(const Launch& launch) {
    const u32 warps = (launch.threads + LANES - 1) / LANES;
    for (u32 w = 0; w < warps; ++w) {
        const u32 first = (falling ? warps - 1 - w : w) * LANES;
        while (step_warp(first, launch.threads - first < LANES ? launch.threads - first : LANES)) {
        }
    }
    bool waiting = false;
    for (u32 t = 0; t < launch.threads; ++t) {
        if (fibers[t].state != State::AT_BLOCK_BARRIER) continue;
        fibers[t].state = State::RUNNING;
        waiting = true;
    }
    return waiting;
}

inline void run_block(const Launch& launch) {
    for (u32 t = 0; t < launch.threads; ++t) fibers[t].state = State::RUNNING;
    std::memset(shared.data(), 0xFF, shared.size() * sizeof(float));
    while (step_block(launch)) {
    }
    for (u32 t = 0; t < launch.threads; ++t) {
        if (!fibers[t].copies.empty()) fail("a kernel ended before its asynchronous copies");
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
    falling = launch.falling != 0;
    for (block.x = 0; block.x < launch.blocks; ++block.x) {
        run_block(launch);
        const float* end = shared_memory() + launch.shared_bytes / sizeof(float);
        for (; end < shared.data() + shared.size(); ++end) {
            u32 bits;
            std::memcpy(&bits, end, sizeof(bits));
            if (bits != 0xFFFFFFFFu) fail("a kernel wrote beyond its shared memory");
        }
    }
}

}  // namespace sim

#define threadIdx (sim::thread)
#define blockIdx (sim::block)

inline void __syncwarp() { sim::wait(); }
inline void __syncthreads() { sim::wait_block(); }

template <class T>
T shuffle_down(T value, u32 distance) {
    const u32 lane = sim::current % sim::LANES;
    return sim::exchange(value, lane + distance < sim::LANES ? sim::current + distance : sim::current);
}

template <class T>
T __ldg(const T* address) {
    if (reinterpret_cast<std::uintptr_t>(address) % sizeof(T) != 0) sim::fail("a load from a misaligned address");
    return *address;
}

inline bool all_lanes(bool value) {
    u32 votes = value;
    for (u32 lane = 0; lane < sim::LANES; ++lane) {
        votes &= sim::exchange<u32>(value, sim::current / sim::LANES * sim::LANES + lane);
    }
    return votes != 0;
}

inline void copy_async(void* shared, const void* global, bool valid) {
    if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global)) % 16 != 0) {
        sim::fail("an asynchronous copy at a misaligned address");
    }
    static const char zeros[16] = {};
    const void* from = valid ? global : zeros;
    sim::Fiber& fiber = sim::fibers[sim::current];
    if (sim::falling) std::memcpy(shared, from, 16);
    fiber.copies.push_back({shared, from, fiber.group});
}

inline void commit_copies() { ++sim::fibers[sim::current].group; }

template <u32 PENDING>
void wait_copies() {
    sim::Fiber& fiber = sim::fibers[sim::current];
    std::vector<sim::Copy> pending;
    for (const sim::Copy& copy : fiber.copies) {
        if (copy.group + PENDING >= fiber.group) {
            pending.push_back(copy);
        } else if (!sim::falling) {
            std::memcpy(copy.to, copy.from, 16);
        }
    }
    fiber.copies.swap(pending);
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

// Rounded down: the double sum is exact, or rounds without reaching past the next float.
inline float __fadd_rd(float a, float b) {
    const double sum = static_cast<double>(a) + b;
    const float near = static_cast<float>(sum);
    return near > sum ? std::nextafter(near, -INFINITY) : near;
}

inline u32 funnel_right(u32 low, u32 high, u32 shift) {
    return static_cast<u32>((static_cast<u64>(high) << 32 | low) >> (shift & 31));
}

inline u32 dot2_low(u32 pair, u32 bytes, u32 addend) {
    return addend + (pair & 0xFFFF) * (bytes & 0xFF) + (pair >> 16) * (bytes >> 8 & 0xFF);
}
inline u32 dot2_high(u32 pair, u32 bytes, u32 addend) { return dot2_low(pair, bytes >> 16, addend); }

// The bytes of high:low that the low four digits of the selector name.
inline u32 __byte_perm(u32 low, u32 high, u32 selector) {
    const u64 both = static_cast<u64>(high) << 32 | low;
    u32 bytes = 0;
    for (u32 i = 0; i < 4; ++i) bytes |= static_cast<u32>(both >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    return bytes;
}

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
    if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-24f;
    return __uint_as_float((bits & 0x8000u) << 16 | (exponent + 112) << 23 | mantissa << 13);
}

inline float sim_wide_bf16(u32 bits) { return __uint_as_float(bits << 16); }

// Multiplies and adds in both halves. The kernels use it on integers times powers of two that have a result of
// their own, so that one which is rounded is a fault.
template <class Widen, class Narrow>
u32 sim_fma2(u32 a, u32 b, u32 c, Widen widen, Narrow narrow) {
    u32 result = 0;
    for (u32 half = 0; half < 32; half += 16) {
        const auto value = [=](u32 pair) { return static_cast<double>(widen(pair >> half & 0xFFFF)); };
        const double exact = value(a) * value(b) + value(c);
        const u32 bits = narrow(static_cast<float>(exact));
        if (static_cast<double>(widen(bits)) != exact) sim::fail("an integer does not fit its 16 bits");
        result |= bits << half;
    }
    return result;
}

inline u32 fma2_f16(u32 a, u32 b, u32 c) { return sim_fma2(a, b, c, f16_to_f32, sim_f16); }
inline u32 fma2_bf16(u32 a, u32 b, u32 c) { return sim_fma2(a, b, c, sim_wide_bf16, sim_bf16); }

// d += A B, with the fragments of m16n8k16. Products are exact, and a sum is rounded once, towards zero: tensor
// cores cut off, but at places that are not documented.
template <class Widen>
void sim_mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Widen widen) {
    const u32 lane = sim::current % sim::LANES, first = sim::current - lane;
    sim::Fragments& mine = sim::fibers[sim::current].fragments;
    for (u32 i = 0; i < 8; ++i) mine.a[i] = widen(a[i / 2] >> i % 2 * 16 & 0xFFFF);
    for (u32 i = 0; i < 4; ++i) mine.b[i] = widen(b[i / 2] >> i % 2 * 16 & 0xFFFF);
    sim::wait();
    for (u32 i = 0; i < 4; ++i) {
        const u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = d[i];
        for (u32 k = 0; k < 16; ++k) {
            const u32 quarter = k % 8 / 2;
            const sim::Fragments& left = sim::fibers[first + row % 8 * 4 + quarter].fragments;
            const sim::Fragments& right = sim::fibers[first + column * 4 + quarter].fragments;
            sum += static_cast<double>(left.a[k / 8 * 4 + row / 8 * 2 + k % 2]) * right.b[k / 8 * 2 + k % 2];
        }
        d[i] = static_cast<float>(sum);
        const bool away = std::fabs(static_cast<double>(d[i])) > std::fabs(sum);
        if (away && std::isfinite(sum)) d[i] = std::nextafter(d[i], 0.0f);
    }
    sim::wait();
}

// The second half of k is zero.
template <class Widen>
void sim_half_mma(float (&d)[4], const u32 (&a)[2], u32 b, Widen widen) {
    const u32 left[4] = {a[0], a[1], 0, 0}, right[2] = {b, 0};
    sim_mma(d, left, right, widen);
}

inline void mma_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { sim_mma(d, a, b, f16_to_f32); }
inline void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { sim_mma(d, a, b, sim_wide_bf16); }
inline void half_mma_f16(float (&d)[4], const u32 (&a)[2], u32 b) { sim_half_mma(d, a, b, f16_to_f32); }
inline void half_mma_bf16(float (&d)[4], const u32 (&a)[2], u32 b) { sim_half_mma(d, a, b, sim_wide_bf16); }

// Products on the tensor cores, for the named codes: weights are operand A, activations operand B.
//
//     a block takes 32 rows; its warps share out the row's tiles, and add up their sums at the end, in order
//     for each of its tiles, a warp
//         copies the tile's bytes of its rows to shared memory, 16 at a time, while it multiplies the one before;
//             or when it has multiplied that, where two tiles are more than fit
//         lane 4 g + c takes a run of units (matrix words of one group) in rows g, g + 8, g + 16, g + 24
//         for each unit:
//             integers: the group's local scale, whole or in parts
//             for each 4 bytes of words, in each row:
//                 mask the states where they stand, two at a time, one in each half of a register;
//                 multiply by the local scale, less the zero point's product:  (state - zero_point) * local
//                 multiply-accumulate with the activations of these weights, 4 weights a row and lane a step
//     y = sum * super_scale
//
// Exactness: a masked state is a subnormal f16 or bf16, and (state - zero_point) * local is an integer of at most
// 11 or 8 bits, times a power of two. So what enters the tensor cores is exact; where a local scale has too many
// bits for that it is split into parts, each with products of its own. All rounding is that of the f32
// sums, and of the super scale at the end. Infinite activations give an infinity or NaN.
//
// The k axis of a product may be permuted if both operands are: each lane's slots of k are its own weights, in the
// order in which masking finds them, and lanes 4 n + c pick the activations of token n to match.
//
// Where states end before 4 bytes do, at the end of a unit, the activations are masked to zero. Words behind
// that, of the next group or none, decode to finite values, and add nothing.
#pragma once

#include "decode.cuh"
#include "product.cuh"

constexpr u32 ROW_TILES = 2;               // of 16 rows, for each fragment of activations
constexpr u32 LANE_ROWS = 2 * ROW_TILES;   // rows of which a lane has weights
constexpr u32 BLOCK_ROWS = 16 * ROW_TILES;

// States of the same place in two words, one in each half of a register.
struct Field {
    u32 shift;     // where the state stands in its half
    u32 position;  // where it stands when it is masked, after a shift right by the difference
    u32 exponent;  // it counts 2^exponent
    u32 zero;      // zero point
};

// How the 4 bytes that a lane takes from a row at a time come apart.
template <u32 BITS_,     // of a field
          u32 SOURCES_,  // registers whose halves hold codes: for words of a byte, bytes 0 and 2, then 1 and 3
          u32 STATES_,   // of a word
          u32 FIELDS_>   // of a word: states, or parts of them
struct Pieces {
    static constexpr u32 BITS = BITS_, SOURCES = SOURCES_, STATES = STATES_, FIELDS = FIELDS_;
    static constexpr u32 WEIGHTS = 2 * SOURCES * STATES;
    static constexpr u32 REGISTERS = SOURCES * FIELDS;  // of weights, for a row
    static constexpr u32 STEPS = (REGISTERS + 1) / 2;   // matrix instructions, for 16 rows and 8 tokens
    // Whether four groups of 128 are more bytes than tiles have of which two fit (TILE_BYTES of src/walk.rs).
    static constexpr bool LONG = 32 % STATES != 0 && (128 + STATES - 1) / STATES * 2 / SOURCES * 4 > 176;
    // The weights in the halves of register r.
    static __device__ u32 low(u32 r) { return r / FIELDS * STATES + r % FIELDS * STATES / FIELDS; }
    static __device__ u32 high(u32 r) { return low(r) + SOURCES * STATES; }
};

// A code's pieces for an activation type, and the parts of a local scale: PART_BITS each, the last one signed.
// Which placements of local scales there are beside PLACEMENT_NONE; src/walk.rs has the same.
// UNIT: 64 where units are groups of 64 and the code has loops of their own for them, else 0.
template <class C, class X, u32 UNIT>
struct Split;

template <class X, u32 UNIT>
struct Split<Ccq275, X, UNIT> : Pieces<4, 2, 3, 3> {  // 8 * 15
    static constexpr u32 PARTS = 1, PART_BITS = 4;
    static constexpr bool EMBEDDED = true, NIBBLE = true, SIGNED8 = false;
    static __device__ Field field(u32 f) {
        constexpr Field table[] = {{4, 4, 0, 8}, {2, 2, 0, 8}, {0, 0, 0, 8}};
        return table[f];
    }
};

template <class X, u32 UNIT>
struct Split<Ccq25, X, UNIT> : Pieces<3, 1, 7, 7> {  // 13 bits of scale: 4 * 127, or 3 * 63
    static constexpr u32 PARTS = X::WIDE ? 2 : 3, PART_BITS = X::WIDE ? 7 : 6;
    static constexpr bool EMBEDDED = true, NIBBLE = false, SIGNED8 = false;
    static __device__ Field field(u32 f) {
        // One shift in all where the type has the bits; three, but fewer factors, where it has not.
        constexpr u32 up = X::WIDE ? 4 : 0;
        constexpr Field table[] = {{13, up, 0, 4}, {11, 2, 0, 4}, {9, 0, 0, 4}, {6, 2 + up, 0, 4},
                                   {4, up, 0, 4},  {2, 2, 0, 4},  {0, 0, 0, 4}};
        return table[f];
    }
};

template <class X>
struct Split206 : Pieces<6, 2, 4, 4> {  // 32 * 15, or 31 * 3
    static constexpr u32 PARTS = X::WIDE ? 1 : 2, PART_BITS = X::WIDE ? 4 : 2;
    static constexpr bool EMBEDDED = false, NIBBLE = true, SIGNED8 = false;
    static __device__ Field field(u32 f) {
        constexpr u32 up = X::WIDE ? 3 : 0;
        constexpr Field table[] = {{9, up, 0, 32}, {6, 0, 0, 32}, {3, up, 0, 32}, {0, 0, 0, 32}};
        return table[f];
    }
};
template <class X, u32 UNIT>
struct Split<Ccq206Q8, X, UNIT> : Split206<X> {};
template <class X, u32 UNIT>
struct Split<Ccq206F32, X, UNIT> : Split206<X> {};

// Scales of 4 bits in groups of 64, else of up to 9: 8 * 15; 8 * 255, or 8 * 31.
template <class X, u32 UNIT>
struct Split<Ccq331, X, UNIT> : Pieces<4, 1, 5, 5> {
    static constexpr u32 PARTS = UNIT == 64 ? 1 : 2, PART_BITS = UNIT == 64 ? 4 : X::WIDE ? 8 : 5;
    static constexpr bool EMBEDDED = UNIT == 0, NIBBLE = UNIT == 64, SIGNED8 = false;
    static __device__ Field field(u32 f) {
        // One shift in all where the type has the bits, else two.
        constexpr u32 up = X::WIDE ? 3 : 0;
        constexpr Field table[] = {{12, 3 + up, 0, 8}, {9, up, 0, 8}, {6, 0, 0, 8}, {3, 3, 0, 8}, {0, 0, 0, 8}};
        return table[f];
    }
};

// Scales of 10 bits in groups of 64, else of 5: 32 * 63, or 32 * 7.
template <class X, u32 UNIT>
struct Split<Ccq55, X, UNIT> : Pieces<6, 1, 3, 3> {
    static constexpr u32 PARTS = (X::WIDE ? 1 : 2) * (UNIT == 64 ? 2 : 1), PART_BITS = X::WIDE ? 6 : 3;
    static constexpr bool EMBEDDED = true, NIBBLE = false, SIGNED8 = false;
    static __device__ Field field(u32 f) {
        constexpr u32 up = X::WIDE ? 5 : 0;
        constexpr Field table[] = {{10, up, 0, 32}, {5, 0, 0, 32}, {0, 0, 0, 32}};
        return table[f];
    }
};

template <class X, u32 UNIT>
struct Split<Int2, X, UNIT> : Pieces<2, 2, 4, 4> {  // 2 * 128
    static constexpr u32 PARTS = 1, PART_BITS = 8;
    static constexpr bool EMBEDDED = false, NIBBLE = false, SIGNED8 = true;
    static __device__ Field field(u32 f) {
        constexpr Field table[] = {{6, 6, 0, 2}, {4, 4, 0, 2}, {2, 2, 0, 2}, {0, 0, 0, 2}};
        return table[f];
    }
};

template <class X, u32 UNIT>
struct Split<Wint4, X, UNIT> : Pieces<4, 2, 2, 2> {  // 8 * 128, or 8 * 15
    static constexpr u32 PARTS = X::WIDE ? 1 : 2, PART_BITS = X::WIDE ? 8 : 4;
    static constexpr bool EMBEDDED = false, NIBBLE = false, SIGNED8 = true;
    static __device__ Field field(u32 f) {
        constexpr Field table[] = {{4, 4, 0, 8}, {0, 0, 0, 8}};
        return table[f];
    }
};

// A byte is 16 times one field, less 128, plus another: 15 * 128, or 15 * 15.
template <class X, u32 UNIT>
struct Split<Wint8, X, UNIT> : Pieces<4, 2, 1, 2> {
    static constexpr u32 PARTS = X::WIDE ? 1 : 2, PART_BITS = X::WIDE ? 8 : 4;
    static constexpr bool EMBEDDED = false, NIBBLE = false, SIGNED8 = true;
    static __device__ Field field(u32 f) {
        constexpr Field table[] = {{4, 4, 4, 8}, {0, 0, 0, 0}};
        return table[f];
    }
};

// What the states of a unit are multiplied with: for each part of the local scale, the factor for states that are
// masked `n` places too high, and minus the factor times the zero point.
template <class S>
struct Factors {
    static constexpr u32 PLACES = 7;
    u32 factor[S::PARTS][PLACES];
    u32 minus[S::PARTS];
};

// The integer local scales of a unit in the lane's rows; `end` is behind the unit's last byte of the first row in
// shared memory, `pitch` the distance to the next. Beyond the row there are none. C: the code; S: its pieces.
template <class C, class S>
__device__ __forceinline__ void local_scales(const Matrix& m, const Row (&rows)[LANE_ROWS], u32 group, const u8* end,
                                             u32 pitch, int (&local)[LANE_ROWS]) {
#pragma unroll
    for (u32 i = 0; i < LANE_ROWS; ++i) local[i] = m.placement == PLACEMENT_NONE ? 1 : 0;
    if (S::EMBEDDED && m.placement == PLACEMENT_EMBEDDED) {
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) {
            const u8* last = end + i * pitch;
            const u32 word = C::word_bytes(m) == 1 ? last[-1] : reinterpret_cast<const u16*>(last)[-1];
            local[i] = static_cast<int>(word & ((1u << m.scale_bits) - 1));
        }
    } else if (S::NIBBLE && m.placement == PLACEMENT_NIBBLE && group < m.groups) {
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) {
            local[i] = __ldg(rows[i].local_scale + group / 2) >> (group % 2 == 0 ? 4 : 0) & 0xF;
        }
    } else if (S::SIGNED8 && m.placement == PLACEMENT_SIGNED8 && group < m.groups) {
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) local[i] = static_cast<signed char>(__ldg(rows[i].local_scale + group));
    }
}

// S: the code's pieces; X: the activation type.
template <class S, class X>
__device__ __forceinline__ Factors<S> factors(int local) {
    Factors<S> f;
#pragma unroll
    for (u32 part = 0; part < S::PARTS; ++part) {
        const bool last = part + 1 == S::PARTS;
        const int value = last ? local >> part * S::PART_BITS
                               : (local >> part * S::PART_BITS & ((1 << S::PART_BITS) - 1));
        // The value as a float, by adding it to 1.5 * 2^23.
        float weight = __fsub_rn(__uint_as_float(0x4B400000u + static_cast<u32>(value)), 12582912.0f);
        const float counts = X::FACTOR * static_cast<float>(1u << part * S::PART_BITS);
        if (counts != 1.0f) weight = __fmul_rn(weight, counts);
        f.factor[part][0] = X::pack(weight);
#pragma unroll
        for (u32 n = 1; n < Factors<S>::PLACES; ++n) {
            f.factor[part][n] = X::fma2(f.factor[part][0], X::power(n), 0);
        }
        // Minus the zero point, as a masked state would be.
        const u32 zero = (S::field(0).zero << S::field(0).exponent) * 0x00010001u | 0x80008000u;
        f.minus[part] = X::fma2(f.factor[part][0], zero, 0);
    }
    return f;
}

// Whether the f32 cluster's codes of a row can be rounded down by adding 1.5 * 2^23.
__device__ __forceinline__ bool is_small(const Row& row) {
    return __fmaf_rn(255.0f, fabsf(row.code_scale), fabsf(row.code_addend)) < 2097152.0f;
}

// The codes of 4 bytes of words, one a half: bytes 0 and 2 in the first register, 1 and 3 in the second; words
// of 16 bits are their own. C: the code; SMALL: is_small(row).
template <class C, bool SMALL>
__device__ __forceinline__ void split_words(const Matrix& m, const Row& row, u32 words, u32 (&codes)[2]) {
    codes[0] = words;
    codes[1] = words >> 8;
    if (C::cluster(m) == CLUSTER_NONE) return;
    u32 code[4];
    if (C::cluster(m) == CLUSTER_Q8) {
        const u32 even = row.multiplier, odd = row.multiplier << 16, addend = static_cast<u32>(row.addend);
        code[0] = dot2_low(even, words, addend);
        code[1] = dot2_low(odd, words, addend);
        code[2] = dot2_high(even, words, addend);
        code[3] = dot2_high(odd, words, addend);
    } else {
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
            if (SMALL) {
                const float word = __uint_as_float(__byte_perm(words, 0x4B000000u, 0x7650 + k));
                const float sum = __fmaf_rn(__fsub_rn(word, 8388608.0f), row.code_scale, row.code_addend);
                code[k] = __float_as_uint(__fadd_rd(sum, 12582912.0f));
            } else {
                code[k] = expand<C>(m, row, words >> 8 * k & 0xFF);
            }
        }
    }
    // Q8: bits 8 to 23 are the code.
    const u32 selector = C::cluster(m) == CLUSTER_Q8 ? 0x6521 : 0x5410;
    codes[0] = __byte_perm(code[0], code[2], selector);
    codes[1] = __byte_perm(code[1], code[3], selector);
}

// Loads COUNT pairs of activations.
template <u32 COUNT>
__device__ __forceinline__ void load_pairs(const u16* x, u32 (&pairs)[COUNT]) {
    constexpr u32 width = COUNT % 4 == 0 ? 4 : COUNT % 2 == 0 ? 2 : 1;
#pragma unroll
    for (u32 i = 0; i < COUNT; i += width) {
        if (width == 4) {
            const uint4 v = __ldg(reinterpret_cast<const uint4*>(x + 2 * i));
            pairs[i] = v.x, pairs[i + 1] = v.y, pairs[i + 2] = v.z, pairs[i + 3] = v.w;
        } else if (width == 2) {
            const uint2 v = __ldg(reinterpret_cast<const uint2*>(x + 2 * i));
            pairs[i] = v.x, pairs[i + 1] = v.y;
        } else {
            pairs[i] = __ldg(reinterpret_cast<const u32*>(x + 2 * i));
        }
    }
}

// Operand B of a piece: the activations of a token in the order of the weights' registers. S: the code's pieces.
template <class S>
__device__ __forceinline__ void load_activations(const u16* x, u32 (&b)[S::STEPS][2]) {
    u32 pairs[S::WEIGHTS / 2];
    load_pairs(x, pairs);
#pragma unroll
    for (u32 r = 0; r < S::REGISTERS; ++r) {
        const u32 low = S::low(r), high = S::high(r);
        const u32 selector = (low % 2 == 0 ? 0x0010 : 0x0032) | (high % 2 == 0 ? 0x5400 : 0x7600);
        b[r / 2][r % 2] = __byte_perm(pairs[low / 2], pairs[high / 2], selector);
    }
}

// Zeros the activations of weights from `left` on. S: the code's pieces.
template <class S>
__device__ __forceinline__ void mask_activations(u32 left, u32 (&b)[S::STEPS][2]) {
#pragma unroll
    for (u32 r = 0; r < S::REGISTERS; ++r) {
        b[r / 2][r % 2] &= (S::low(r) < left ? 0x0000FFFFu : 0) | (S::high(r) < left ? 0xFFFF0000u : 0);
    }
}

// The masked states of register r of a piece. S: the code's pieces.
template <class S>
__device__ __forceinline__ u32 masked(const u32 (&codes)[2], u32 r) {
    const Field field = S::field(r % S::FIELDS);
    const u32 mask = ((1u << S::BITS) - 1) * 0x00010001u << field.position;
    return codes[r / S::FIELDS] >> (field.shift - field.position) & mask;
}

// (state - zero point) * part of the local scale, in both halves. S: the code's pieces; X: the activation type.
template <class S, class X>
__device__ __forceinline__ u32 scaled(const Factors<S>& f, u32 part, u32 states, u32 r) {
    const Field field = S::field(r % S::FIELDS);
    const u32 addend = field.zero == 0 ? 0 : f.minus[part];
    return X::fma2(states, f.factor[part][field.position - field.exponent], addend);
}

// A warp's sums: lane 4 g + c has those of rows g, g + 8, ... and tokens 2c, 2c+1, 2c+8, ...
template <u32 TOKENS>
struct Sums {
    float part[ROW_TILES][TOKENS / 8][4];
};

// Multiplies one piece of the lane's rows. X: the activation type; TOKENS: 8 or 16; S: the code's pieces.
template <class X, u32 TOKENS, class S>
__device__ __forceinline__ void multiply_piece(const u32 (&codes)[LANE_ROWS][2], const Factors<S> (&f)[LANE_ROWS],
                                               const u32 (&b)[TOKENS / 8][S::STEPS][2], Sums<TOKENS>& sums) {
#pragma unroll
    for (u32 step = 0; step < S::STEPS; ++step) {
        const u32 first = 2 * step, second = 2 * step + 1;
        const bool whole = second < S::REGISTERS;
#pragma unroll
        for (u32 tile = 0; tile < ROW_TILES; ++tile) {
            const u32 upper = 2 * tile, lower = 2 * tile + 1;
#pragma unroll
            for (u32 part = 0; part < S::PARTS; ++part) {
                const auto weights = [&](u32 row, u32 r) {
                    return scaled<S, X>(f[row], part, masked<S>(codes[row], r), r);
                };
                if (whole) {
                    const u32 a[4] = {weights(upper, first), weights(lower, first), weights(upper, second),
                                      weights(lower, second)};
#pragma unroll
                    for (u32 n = 0; n < TOKENS / 8; ++n) X::mma(sums.part[tile][n], a, b[n][step]);
                } else {
                    const u32 a[2] = {weights(upper, first), weights(lower, first)};
#pragma unroll
                    for (u32 n = 0; n < TOKENS / 8; ++n) X::half_mma(sums.part[tile][n], a, b[n][step][0]);
                }
            }
        }
    }
}

// The lane's side of a block's work.
template <class C, class X, u32 TOKENS>
struct Worker {
    const Matrix& m;
    const Walk& walk;
    Row rows[LANE_ROWS];
    bool small;                // the f32 cluster's codes can be rounded the fast way, in every row
    const u16* x[TOKENS / 8];  // this lane's tokens; the first in place of others, whose products no one reads

    __device__ Worker(const GemvArgs& args, const Job& job) : m(args.matrix), walk(args.walk), small(true) {
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) {  // rows beyond the end repeat the last one
            rows[i] = load_row<C>(m, least(job.first + lane_index() / 4 + 8 * i, job.end - 1));
            if (C::cluster(m) == CLUSTER_F32) small = small && is_small(rows[i]);
        }
        if (C::cluster(m) == CLUSTER_F32) small = all_lanes(small);
#pragma unroll
        for (u32 n = 0; n < TOKENS / 8; ++n) {
            const u32 token = lane_index() / 4 + 8 * n;
            x[n] = job.x + static_cast<u64>(args.x_stride) * (token < job.tokens ? token : 0);
        }
    }

    // Starts copying a tile's bytes of every row; chunks beyond the row become zeros.
    __device__ void copy_tile(u32 tile, u8* stage) const {
        const u32 first = static_cast<u32>(static_cast<u64>(tile) * walk.tile_bytes / 16);
        u8* to = stage + lane_index() / 4 * walk.pitch;
#pragma unroll 1
        for (u32 k = lane_index() % 4; k < walk.chunks; k += 4) {
            const bool valid = first + k < m.chunks;
            const u64 from = valid ? 16 * static_cast<u64>(first + k) : 0;
#pragma unroll
            for (u32 i = 0; i < LANE_ROWS; ++i) {
                copy_async(to + 8 * i * walk.pitch + 16 * k, rows[i].code + from, valid);
            }
        }
        commit_copies();
    }

    // Whether units are groups of 64, for which codes whose words do not fill registers have loops of their own: what
    // ends where is known then.
    __device__ __forceinline__ bool fixed() const { return !C::WHOLE && walk.unit_weights == 64; }

    // Whether each unit begins with a register. UNIT: as below.
    template <u32 UNIT, class S = Split<C, X, UNIT>>
    static constexpr bool ALIGNED = UNIT != 0 && (UNIT + S::STATES - 1) / S::STATES * 2 / S::SOURCES % 4 == 0;

    // Multiplies the tile that is in shared memory. SMALL: as the member; UNIT: 64 if fixed(), else 0.
    template <bool SMALL, u32 UNIT>
    __device__ __forceinline__ void multiply_tile(u32 tile, const u8* stage, Sums<TOKENS>& sums) const {
        const u32 lane = lane_index();
        u32 unit = (4 * tile + lane % 4) * walk.lane_units;
        const u32 begin = static_cast<u32>(static_cast<u64>(tile) * walk.tile_bytes % 16);
        u32 byte = lane / 4 * walk.pitch + begin + lane % 4 * walk.lane_units * walk.unit_bytes;
#pragma unroll 1
        for (u32 i = 0; i < walk.lane_units; ++i) {
            multiply_unit<SMALL, UNIT>(unit, stage, byte, sums);
            ++unit;
            byte += walk.unit_bytes;
        }
    }

    // Multiplies a unit whose first byte, in the lane's first row, is `byte` of the stage.
    template <bool SMALL, u32 UNIT>
    __device__ __forceinline__ void multiply_unit(u32 unit, const u8* stage, u32 byte, Sums<TOKENS>& sums) const {
        using S = Split<C, X, UNIT>;
        Factors<S> f[LANE_ROWS];
        int local[LANE_ROWS];
        local_scales<C, S>(m, rows, unit >> walk.group_shift, stage + byte + walk.unit_bytes, 8 * walk.pitch, local);
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) f[i] = factors<S, X>(local[i]);

        const u32* words = reinterpret_cast<const u32*>(stage + byte - byte % 4);
        const u32 row_words = 8 * walk.pitch / 4;
        const u16* first[TOKENS / 8];
#pragma unroll
        for (u32 n = 0; n < TOKENS / 8; ++n) first[n] = x[n] + static_cast<u64>(unit) * walk.unit_weights;
        u32 codes[LANE_ROWS][2];
        u32 b[TOKENS / 8][S::STEPS][2];
        const u32 unit_weights = UNIT != 0 ? UNIT : walk.unit_weights;
        const u32 pieces = UNIT != 0 ? (UNIT + S::WEIGHTS - 1) / S::WEIGHTS : (walk.unit_bytes + 3) / 4;
        if (C::WHOLE) {
#pragma unroll 1
            for (u32 p = 0; p < pieces; ++p) {
                // Each of the four lanes begins with another piece, for the sake of the banks.
                const u32 piece = (p + lane_index() % 4) & (pieces - 1);
#pragma unroll
                for (u32 n = 0; n < TOKENS / 8; ++n) load_activations<S>(first[n] + piece * S::WEIGHTS, b[n]);
#pragma unroll
                for (u32 i = 0; i < LANE_ROWS; ++i) {
                    split_words<C, SMALL>(m, rows[i], words[i * row_words + piece], codes[i]);
                }
                multiply_piece<X, TOKENS>(codes, f, b, sums);
            }
            return;
        }
        const u32 shift = byte % 4 * 8;
        u32 low[LANE_ROWS];
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) low[i] = ALIGNED<UNIT> ? 0 : words[i * row_words];
        // The last piece by itself: only there do states end before words do.
#pragma unroll 1
        for (u32 piece = 0; piece + 1 < pieces; ++piece) {
            next_words<SMALL, UNIT>(words++, row_words, shift, low, codes);
#pragma unroll
            for (u32 n = 0; n < TOKENS / 8; ++n) {
                load_activations<S>(first[n], b[n]);
                first[n] += S::WEIGHTS;
            }
            multiply_piece<X, TOKENS>(codes, f, b, sums);
        }
        next_words<SMALL, UNIT>(words, row_words, shift, low, codes);
#pragma unroll
        for (u32 n = 0; n < TOKENS / 8; ++n) {
            load_activations<S>(first[n], b[n]);
            mask_activations<S>(unit_weights - (pieces - 1) * S::WEIGHTS, b[n]);
        }
        multiply_piece<X, TOKENS>(codes, f, b, sums);
    }

    // The codes of the lane's rows from words[0]; where units are not aligned, from the 4 bytes `shift` bits into it,
    // which is low, and words[1], the new low.
    template <bool SMALL, u32 UNIT>
    __device__ __forceinline__ void next_words(const u32* words, u32 row_words, u32 shift, u32 (&low)[LANE_ROWS],
                                               u32 (&codes)[LANE_ROWS][2]) const {
#pragma unroll
        for (u32 i = 0; i < LANE_ROWS; ++i) {
            const u32 next = words[i * row_words + (ALIGNED<UNIT> ? 0 : 1)];
            split_words<C, SMALL>(m, rows[i], ALIGNED<UNIT> ? next : funnel_right(low[i], next, shift), codes[i]);
            low[i] = next;
        }
    }
};

// Adds up the warps' sums in order and writes the products.
template <class X, u32 TOKENS>
__device__ __forceinline__ void finish(const GemvArgs& args, const Job& job, float* shared, const Sums<TOKENS>& sums) {
    const u32 lane = lane_index(), warp = threadIdx.x / WARP;
    __syncthreads();  // no warp copies to, or reads from, its stages any more
#pragma unroll
    for (u32 i = 0; i < ROW_TILES * TOKENS / 8 * 4; ++i) {
        const u32 tile = i / (TOKENS / 2), n = i / 4 % (TOKENS / 8), k = i % 4;
        const u32 row = 16 * tile + lane / 4 + k / 2 * 8;
        const u32 token = 8 * n + lane % 4 * 2 + k % 2;
        shared[(warp * TOKENS + token) * BLOCK_ROWS + row] = sums.part[tile][n][k];
    }
    __syncthreads();  // every warp's sums are there
    const u32 row = job.first + lane;
    if (row >= job.end) return;
    const float scale = args.matrix.super_scale[row];
    for (u32 token = warp; token < job.tokens; token += WARPS) {
        float sum = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; ++w) {
            sum = __fadd_rn(sum, shared[(w * TOKENS + token) * BLOCK_ROWS + lane]);
        }
        job.y[static_cast<u64>(args.y_stride) * token + row - job.origin] = __fmul_rn(__fmul_rn(sum, X::UNIT), scale);
    }
}

// A block's work. C: a named code; X: the activation type; TOKENS: the most tokens, 8 or 16.
template <class C, class X, u32 TOKENS>
__device__ __forceinline__ void multiply_rows(const GemvArgs& args, const Job& job) {
    CCQ_SHARED(shared);
    const Worker<C, X, TOKENS> worker(args, job);
    const u32 stage_bytes = BLOCK_ROWS * args.walk.pitch;
    // Whether there is room for the next tile beside the one that is multiplied.
    const bool ahead = !Split<C, X, 0>::LONG || args.walk.stages == 2;
    u8* stages = reinterpret_cast<u8*>(shared) + threadIdx.x / WARP * (ahead ? 2 : 1) * stage_bytes;
    Sums<TOKENS> sums = {};
    u32 tile = threadIdx.x / WARP;
    u32 offset = 0;
    if (ahead && tile < args.walk.tiles) worker.copy_tile(tile, stages);
    for (; tile < args.walk.tiles; tile += WARPS) {
        const u32 other = ahead ? stage_bytes - offset : 0;
        if (!ahead) worker.copy_tile(tile, stages);
        if (ahead && tile + WARPS < args.walk.tiles) {
            worker.copy_tile(tile + WARPS, stages + other);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncwarp();  // all lanes' copies have arrived
        if (worker.fixed()) {
            worker.template multiply_tile<true, 64>(tile, stages + offset, sums);
        } else if (C::cluster(args.matrix) != CLUSTER_F32 || worker.small) {
            worker.template multiply_tile<true, 0>(tile, stages + offset, sums);
        } else {
            worker.template multiply_tile<false, 0>(tile, stages + offset, sums);
        }
        __syncwarp();  // all lanes have read the stage that the next copies overwrite
        offset = other;
    }
    finish<X>(args, job, shared, sums);
}

// Decoding: one warp turns 32 chunks of stored words into a tile of floats in its shared memory.
//
//     lane l takes chunk 32 t + l of the row: 16 bytes of words in registers (4 for a general code)
//     it finds the group of its first word, and the scales of the groups that a chunk can touch
//     for each word, for each state:
//         if the weight lies in the group:
//             tile[weight - begin] = fl32((state - zero_point) * scale)
//     the warp meets; whatever the kernel does with the weights reads the tile in weight order
//
// States beyond the end of the row land behind the tile's last weight, where there is room for every state of
// 32 chunks, and nothing reads them.
//
// Words do not hold a power of two of weights, so lanes write at odd distances; the tile has one float of
// padding after every 32, which keeps both the writes and any strided reading spread over the banks.
#pragma once

#include "matrix.cuh"

// One row's planes and parameters.
struct Row {
    const u8* code;
    const u8* local_scale;
    float super_scale;
    u32 multiplier;  // q8 cluster: code = (multiplier q + addend) >> 8
    int addend;
    float code_scale;  // f32 cluster: code = floor(fma(q, code_scale, code_addend))
    float code_addend;
};

// The weights of a tile: [begin, end) of the row.
struct Span {
    u32 begin;
    u32 end;
};

// Where a weight of the tile is in shared memory.
__device__ __forceinline__ u32 padded(u32 index) { return index + index / WARP; }

// C: the code.
template <class C>
__device__ __forceinline__ Row load_row(const Matrix& m, u32 index) {
    Row row = {};
    row.code = m.code + m.row_stride * index;
    row.local_scale = m.local_scale + static_cast<u64>(m.local_stride) * index;
    row.super_scale = m.super_scale[index];
    if (C::cluster(m) == CLUSTER_Q8) {
        const u32 pair = reinterpret_cast<const u32*>(m.cluster)[index];
        row.multiplier = pair & 0xFFFF;
        row.addend = 256 * static_cast<short>(pair >> 16) + 128;
    }
    if (C::cluster(m) == CLUSTER_F32) {
        const float* pair = reinterpret_cast<const float*>(m.cluster) + 2 * static_cast<u64>(index);
        row.code_scale = pair[0];
        row.code_addend = __fadd_rn(pair[1], 0.5f);
    }
    return row;
}

// fl32(local * super) of a group; 0 past the row. C: the code.
template <class C>
__device__ __forceinline__ float group_scale(const Matrix& m, const Row& row, u32 group) {
    if (group >= m.groups) return 0.0f;
    int local;
    switch (m.placement) {
        case PLACEMENT_NONE:
            return row.super_scale;
        case PLACEMENT_EMBEDDED: {
            const u32 last = (group + 1) * m.words_per_group - 1;
            const u32 word = C::word_bytes(m) == 1 ? row.code[last]
                                                   : reinterpret_cast<const u16*>(row.code)[last];
            local = static_cast<int>(word & ((1u << m.scale_bits) - 1));
            break;
        }
        case PLACEMENT_NIBBLE:
            local = row.local_scale[group / 2] >> (group % 2 == 0 ? 4 : 0) & 0xF;
            break;
        default:
            local = static_cast<signed char>(row.local_scale[group]);
    }
    return __fmul_rn(static_cast<float>(local), row.super_scale);
}

// The code that a stored word stands for; the bits above the states' own are not zero. C: the code.
template <class C>
__device__ __forceinline__ u32 expand(const Matrix& m, const Row& row, u32 word) {
    switch (C::cluster(m)) {
        case CLUSTER_Q8:
            return static_cast<u32>((static_cast<int>(row.multiplier * word) + row.addend) >> 8);
        case CLUSTER_F32:  // the conversion rounds down, saturates and takes NaN to 0
            return static_cast<u32>(
                __float2int_rd(__fmaf_rn(static_cast<float>(word), row.code_scale, row.code_addend)));
        default:
            return word;
    }
}

// state - zero_point as a float, by placing the state in the low bits of 2^23: exact, and +0 when equal.
__device__ __forceinline__ float centered(u32 state, u32 zero_point) {
    return __fsub_rn(__uint_as_float(0x4B000000u | state), 8388608.0f + static_cast<float>(zero_point));
}

// The first weight of a word, or in_features where it has none. C: the code.
template <class C>
__device__ __forceinline__ u32 first_weight(const Matrix& m, u32 word) {
    const u32 group = word / m.words_per_group;
    const u32 position = (word - group * m.words_per_group) * C::states(m);
    return least(group * m.group_size + least(position, m.group_size), m.in_features);
}

// Decodes one chunk of a row into the tile that begins at weight `begin`. C: the code.
template <class C>
__device__ __forceinline__ void decode_chunk(const Matrix& m, const Row& row, u32 chunk, u32 begin,
                                             float* tile) {
    const u32 first = chunk * (C::CHUNK / C::word_bytes(m));
    const u32 group = first / m.words_per_group;
    u32 group_end = (group + 1) * m.group_size;
    u32 weight = group * m.group_size + (first - group * m.words_per_group) * C::states(m);

    float scales[C::GROUPS];
#pragma unroll
    for (u32 g = 0; g < C::GROUPS; ++g) scales[g] = group_scale<C>(m, row, group + g);

    uint4 words = {};
    if (C::CHUNK == 16) {
        words = __ldg(reinterpret_cast<const uint4*>(row.code) + chunk);
    } else {
        words.x = __ldg(reinterpret_cast<const u32*>(row.code) + chunk);
    }
#pragma unroll 1
    for (u32 part = 0; part < C::CHUNK / 4; ++part) {
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
            if (k >= 4 / C::word_bytes(m)) break;
            if (weight >= group_end) {  // the first word of the next group
                weight = group_end;
                group_end += m.group_size;
#pragma unroll
                for (u32 g = 1; g < C::GROUPS; ++g) scales[g - 1] = scales[g];
            }
            const u32 bits = C::word_bytes(m) * 8;
            const u32 code = expand<C>(m, row, words.x >> (k * bits) & ((1u << bits) - 1));
#pragma unroll
            for (u32 s = 0; s < C::STATES; ++s) {
                if (s >= C::states(m)) break;
                const u32 mask = C::mask(m, s);
                if (C::WHOLE || weight + s < group_end) {
                    const float value = centered(code >> C::shift(m, s) & mask, (mask + 1) / 2);
                    tile[padded(weight + s - begin)] = __fmul_rn(value, scales[0]);
                }
            }
            weight += C::states(m);
        }
        words = {words.y, words.z, words.w, 0};
    }
}

// The whole warp decodes a tile of a row; on return every lane may read it. Before the next one, the caller
// lets the warp meet. C: the code.
template <class C>
__device__ __forceinline__ Span decode_tile(const Matrix& m, const Row& row, u32 index, float* tile) {
    const u32 words = WARP * (C::CHUNK / C::word_bytes(m));
    const Span span = {first_weight<C>(m, index * words), first_weight<C>(m, (index + 1) * words)};
    const u32 chunk = index * WARP + lane_index();
    if (chunk < m.chunks) decode_chunk<C>(m, row, chunk, span.begin, tile);
    __syncwarp();
    return span;
}

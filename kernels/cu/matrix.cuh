// A quantized matrix as kernels see it, and how its stored words become states.
//
// A code is a type with the interface of `Named` below. The named codes know their shifts and masks when they
// are compiled; `General` reads them from the matrix, serves every other code description, and is slower.
// Group sizes and the place of the local scales are looked up at run time for both: once a chunk of words.
#pragma once

#include "platform.cuh"

enum Placement : u32 {
    PLACEMENT_NONE = 0,
    PLACEMENT_EMBEDDED = 1,
    PLACEMENT_NIBBLE = 2,
    PLACEMENT_SIGNED8 = 3,
};
enum ClusterKind : u32 { CLUSTER_NONE = 0, CLUSTER_Q8 = 1, CLUSTER_F32 = 2 };
constexpr u32 MAX_STATES = 16;

// The matrix, or the block of its rows that is on the device. Declared a second time in src/args.rs.
struct Matrix {
    const u8* code;            // code plane; 16-byte aligned, as is every row of it
    const u8* local_scale;     // local-scale plane, dense
    const float* super_scale;  // one a row
    const u8* cluster;         // cluster plane, 8-byte aligned
    u64 row_stride;            // bytes from one row of the code plane to the next
    u32 rows;
    u32 in_features;           // weights of a row, at most 2^30
    u32 group_size;            // in_features where the row is one group
    u32 words_per_group;
    u32 groups;                // of a row
    u32 local_stride;          // bytes of a row of the local-scale plane
    u32 chunks;                // of a row: row_stride / CHUNK
    u32 tiles;                 // of a row: ceil(chunks / 32)
    u32 tile_floats;           // shared memory of a warp, in floats
    u32 placement;             // Placement
    u32 scale_bits;            // of an embedded local scale
    // The rest is read by `General` only.
    u32 word_bytes;            // 1 or 2
    u32 states;                // of a word
    u32 cluster_kind;          // ClusterKind
    u32 shift[MAX_STATES];
    u32 mask[MAX_STATES];
};

// A code known when the kernel is compiled.
template <u32 WORD_BYTES,    // bytes of a stored word: 1 or 2
          u32 BITS,          // bits of every state
          u32 CLUSTER_KIND,  // how a stored word expands to the code the states are cut from
          u32 TOUCHED,       // groups that 16 bytes of words can touch, at the smallest group size
          u32... SHIFTS>     // of the states of a word, in weight order
struct Named {
    static constexpr u32 CHUNK = 16;                // bytes a lane loads at a time
    static constexpr u32 STATES = sizeof...(SHIFTS);  // the most states a word can have
    static constexpr u32 GROUPS = TOUCHED;
    static constexpr bool WHOLE = 32 % STATES == 0;  // no word of a full group has states to spare

    static __device__ u32 word_bytes(const Matrix&) { return WORD_BYTES; }
    static __device__ u32 states(const Matrix&) { return STATES; }
    static __device__ u32 cluster(const Matrix&) { return CLUSTER_KIND; }
    static __device__ u32 mask(const Matrix&, u32) { return (1u << BITS) - 1; }
    static __device__ u32 shift(const Matrix&, u32 state) {
        constexpr u32 table[] = {SHIFTS...};
        return table[state];
    }
};

using Ccq275 = Named<1, 4, CLUSTER_NONE, 3, 4, 2, 0>;
using Ccq25 = Named<2, 3, CLUSTER_NONE, 3, 13, 11, 9, 6, 4, 2, 0>;
using Ccq206Q8 = Named<1, 6, CLUSTER_Q8, 2, 9, 6, 3, 0>;
using Ccq206F32 = Named<1, 6, CLUSTER_F32, 2, 9, 6, 3, 0>;
using Ccq331 = Named<2, 4, CLUSTER_NONE, 2, 12, 9, 6, 3, 0>;
using Ccq55 = Named<2, 6, CLUSTER_NONE, 2, 10, 5, 0>;
using Int2 = Named<1, 2, CLUSTER_NONE, 2, 6, 4, 2, 0>;
using Wint4 = Named<1, 4, CLUSTER_NONE, 1, 4, 0>;
using Wint8 = Named<1, 8, CLUSTER_NONE, 1, 0>;

// Any code description.
struct General {
    static constexpr u32 CHUNK = 4;
    static constexpr u32 STATES = MAX_STATES;
    static constexpr u32 GROUPS = 3;
    static constexpr bool WHOLE = false;

    static __device__ u32 word_bytes(const Matrix& m) { return m.word_bytes; }
    static __device__ u32 states(const Matrix& m) { return m.states; }
    static __device__ u32 cluster(const Matrix& m) { return m.cluster_kind; }
    static __device__ u32 mask(const Matrix& m, u32 state) { return m.mask[state]; }
    static __device__ u32 shift(const Matrix& m, u32 state) { return m.shift[state]; }
};

// Defines one kernel for every named code: CCQ_FOR_NAMED(X, ...) expands X(suffix, Code, ...).
#define CCQ_FOR_NAMED(X, ...)                                                                \
    X(ccq275, Ccq275, __VA_ARGS__) X(ccq25, Ccq25, __VA_ARGS__)                              \
    X(ccq206_q8, Ccq206Q8, __VA_ARGS__) X(ccq206_f32, Ccq206F32, __VA_ARGS__)                \
    X(ccq331, Ccq331, __VA_ARGS__) X(ccq55, Ccq55, __VA_ARGS__)                              \
    X(int2, Int2, __VA_ARGS__) X(wint4, Wint4, __VA_ARGS__) X(wint8, Wint8, __VA_ARGS__)

// The same, and one for all other codes.
#define CCQ_FOR_CODES(X, ...) CCQ_FOR_NAMED(X, __VA_ARGS__) X(general, General, __VA_ARGS__)

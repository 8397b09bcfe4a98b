// dequantize: a quantized matrix -> f32, f16 or bf16, row-major.
//
//     one warp a tile: decode it (decode.cuh), then write it in weight order,
//     16 bytes a lane from the first aligned element on, single elements before and after
//
// f32 is bit-exact with the portable decoder; f16 and bf16 are its value rounded once, to nearest even.
#include "decode.cuh"

// Declared a second time in src/args.rs.
struct DequantizeArgs {
    Matrix matrix;
    void* out;  // rows x in_features elements, aligned to an element
};

// An output type: how VECTOR floats become 16 bytes.
struct ToF32 {
    using Element = float;
    static constexpr u32 VECTOR = 4;
    static __device__ float one(float value) { return value; }
    static __device__ uint4 pack(const float* v) {
        return {__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])};
    }
};

struct ToF16 {
    using Element = u16;
    static constexpr u32 VECTOR = 8;
    static __device__ u16 one(float value) { return static_cast<u16>(pack_f16(value, 0.0f)); }
    static __device__ uint4 pack(const float* v) {
        return {pack_f16(v[0], v[1]), pack_f16(v[2], v[3]), pack_f16(v[4], v[5]), pack_f16(v[6], v[7])};
    }
};

struct ToBf16 {
    using Element = u16;
    static constexpr u32 VECTOR = 8;
    static __device__ u16 one(float value) { return static_cast<u16>(pack_bf16(value, 0.0f)); }
    static __device__ uint4 pack(const float* v) {
        return {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
    }
};

// Writes `count` weights of a tile to `out`. Out: the output type.
template <class Out>
__device__ __forceinline__ void store_tile(const float* tile, u32 count, typename Out::Element* out) {
    const u32 misaligned = static_cast<u32>(reinterpret_cast<u64>(out) % 16 / sizeof(*out));
    const u32 head = least((Out::VECTOR - misaligned) % Out::VECTOR, count);
    const u32 vectors = (count - head) / Out::VECTOR;
    const u32 tail = head + vectors * Out::VECTOR;
    const u32 lane = lane_index();

    if (lane < head) out[lane] = Out::one(tile[padded(lane)]);
    for (u32 v = lane; v < vectors; v += WARP) {
        const u32 first = head + v * Out::VECTOR;
        float values[Out::VECTOR];
#pragma unroll
        for (u32 k = 0; k < Out::VECTOR; ++k) values[k] = tile[padded(first + k)];
        *reinterpret_cast<uint4*>(out + first) = Out::pack(values);
    }
    if (lane < count - tail) out[tail + lane] = Out::one(tile[padded(tail + lane)]);
}

// C: the code; Out: the output type.
template <class C, class Out>
__device__ __forceinline__ void dequantize(const DequantizeArgs& args) {
    CCQ_SHARED(shared);
    const Matrix& m = args.matrix;
    const u32 row_index = warp_index() / m.tiles;
    if (row_index >= m.rows) return;

    float* tile = shared + threadIdx.x / WARP * m.tile_floats;
    const Row row = load_row<C>(m, row_index);
    const Span span = decode_tile<C>(m, row, warp_index() % m.tiles, tile);
    const u64 offset = static_cast<u64>(m.in_features) * row_index + span.begin;
    store_tile<Out>(tile, span.end - span.begin, static_cast<typename Out::Element*>(args.out) + offset);
}

#define CCQ_DEQUANTIZE(SUFFIX, CODE, TYPE, OUT) \
    CCQ_KERNEL(dequantize_##SUFFIX##_##TYPE, DequantizeArgs, 6, dequantize<CODE, OUT>)

CCQ_FOR_CODES(CCQ_DEQUANTIZE, f32, ToF32)
CCQ_FOR_CODES(CCQ_DEQUANTIZE, f16, ToF16)
CCQ_FOR_CODES(CCQ_DEQUANTIZE, bf16, ToBf16)

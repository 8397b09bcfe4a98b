// squared_error: decodes a quantized matrix and compares it with its source in one pass.
//
//     one warp a row, tile by tile: decode it (decode.cuh), then in weight order, in f64,
//         e = source - decoded;  error += e e;  energy += source^2;  decoded_energy += decoded^2;
//         dot += source decoded;  max = max(max, |e|), infinite where e is NaN
//     the lanes' sums are added in a fixed tree and written out, one record a row
//
// The host adds the rows in order, so that the sums of a matrix depend neither on the device nor on how its
// rows were divided into blocks. There are no atomics.
#include "decode.cuh"

// The sums of one row. Declared a second time in src/args.rs.
struct RowError {
    double squared_error;
    double energy;
    double decoded_energy;
    double dot;
    double max_abs_error;
};

// Declared a second time in src/args.rs.
struct SquaredErrorArgs {
    Matrix matrix;
    const void* source;  // rows x in_features elements, aligned to an element
    RowError* out;       // one a row
};

// A source type: how an element becomes a float.
struct FromF32 {
    using Element = float;
    static __device__ float widen(float element) { return element; }
};

struct FromF16 {
    using Element = u16;
    static __device__ float widen(u16 element) { return f16_to_f32(element); }
};

struct FromBf16 {
    using Element = u16;
    static __device__ float widen(u16 element) { return bf16_to_f32(element); }
};

__device__ __forceinline__ double larger(double a, double b) { return b > a ? b : a; }

__device__ __forceinline__ void add_weight(RowError& sums, float source, float decoded) {
    const double w = source;
    const double d = decoded;
    const double e = w - d;
    sums.squared_error = __fma_rn(e, e, sums.squared_error);
    sums.energy = __fma_rn(w, w, sums.energy);
    sums.decoded_energy = __fma_rn(d, d, sums.decoded_energy);
    sums.dot = __fma_rn(w, d, sums.dot);
    const double size = e != e ? __longlong_as_double(0x7FF0000000000000ll) : (e < 0.0 ? -e : e);
    sums.max_abs_error = larger(sums.max_abs_error, size);
}

// Adds up the lanes' sums; lane 0 has the result.
__device__ __forceinline__ void reduce_warp(RowError& sums) {
#pragma unroll
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        sums.squared_error += shuffle_down(sums.squared_error, distance);
        sums.energy += shuffle_down(sums.energy, distance);
        sums.decoded_energy += shuffle_down(sums.decoded_energy, distance);
        sums.dot += shuffle_down(sums.dot, distance);
        sums.max_abs_error = larger(sums.max_abs_error, shuffle_down(sums.max_abs_error, distance));
    }
}

// C: the code; From: the source type.
template <class C, class From>
__device__ __forceinline__ void squared_error(const SquaredErrorArgs& args) {
    CCQ_SHARED(shared);
    const Matrix& m = args.matrix;
    const u32 row_index = warp_index();
    if (row_index >= m.rows) return;

    float* tile = shared + threadIdx.x / WARP * m.tile_floats;
    const Row row = load_row<C>(m, row_index);
    const auto* source =
        static_cast<const typename From::Element*>(args.source) + static_cast<u64>(m.in_features) * row_index;
    RowError sums = {};
    for (u32 index = 0; index < m.tiles; ++index) {
        const Span span = decode_tile<C>(m, row, index, tile);
#pragma unroll 4
        for (u32 i = span.begin + lane_index(); i < span.end; i += WARP) {
            add_weight(sums, From::widen(__ldg(source + i)), tile[padded(i - span.begin)]);
        }
        __syncwarp();
    }
    reduce_warp(sums);
    if (lane_index() == 0) args.out[row_index] = sums;
}

#define CCQ_SQUARED_ERROR(SUFFIX, CODE, TYPE, FROM) \
    CCQ_KERNEL(squared_error_##SUFFIX##_##TYPE, SquaredErrorArgs, 6, squared_error<CODE, FROM>)

CCQ_FOR_CODES(CCQ_SQUARED_ERROR, f32, FromF32)
CCQ_FOR_CODES(CCQ_SQUARED_ERROR, f16, FromF16)
CCQ_FOR_CODES(CCQ_SQUARED_ERROR, bf16, FromBf16)
